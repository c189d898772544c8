//! Server-named queues: every earlier name is mapped to the current one.

use crate::peer::{
    Peer, Sent, ack, consume, declare, get_ok, method, publish, reply_to, short, tune,
};
use puka::machine::{PromiseId, Publish, Reply, TransactionId};
use puka::protocol::method::{basic, queue, tx};
use puka::protocol::{Array, ContentHeader, FrameKind, Method, Table, TableRef, Value};
use puka::{Broken, Options, Recovery};

fn dialled() -> Peer {
    let recovery = Recovery::default().seed(1).republish_unconfirmed(5);
    Peer::dialled(Options::default().recovery(recovery).heartbeat(0))
}

/// Returns a connection whose queue was named `first`, and is named `second` since its first loss.
fn renamed() -> Peer {
    let mut peer = dialled();
    let mut own = declare("");
    own.exclusive = true;
    peer.machine.request(own).unwrap();
    peer.serve_naming("first");
    reconnect(&mut peer, "second");
    peer
}

fn reconnect(peer: &mut Peer, name: &str) -> Vec<Sent> {
    peer.machine.handle_loss(Broken::Eof);
    peer.dial();
    peer.complete_handshake(tune(2047, 131_072, 0));
    peer.serve_naming(name)
}

/// Returns the queues that methods name, and the routing keys of publishes.
fn names(sent: &[Sent]) -> Vec<String> {
    let methods = sent.iter().filter(|sent| sent.kind == FrameKind::Method);
    let names = methods.filter_map(|sent| match sent.method() {
        Method::Queue(queue::Method::Bind(it)) => Some(it.queue.to_string()),
        Method::Queue(queue::Method::Unbind(it)) => Some(it.queue.to_string()),
        Method::Queue(queue::Method::Purge(it)) => Some(it.queue.to_string()),
        Method::Queue(queue::Method::Delete(it)) => Some(it.queue.to_string()),
        Method::Basic(basic::Method::Get(it)) => Some(it.queue.to_string()),
        Method::Basic(basic::Method::Consume(it)) => Some(it.queue.to_string()),
        Method::Basic(basic::Method::Publish(it)) => Some(it.routing_key.to_string()),
        _ => None,
    });
    names
        .filter(|name| name != "amq.rabbitmq.reply-to")
        .collect()
}

fn to(queue: &str) -> Publish<'_> {
    Publish {
        routing_key: short(queue),
        ..publish("", "x")
    }
}

fn transaction(peer: &mut Peer) -> TransactionId {
    let begun = peer.machine.transaction().unwrap();
    peer.serve_with(|sent| match sent.is(tx::Select::ID) {
        true => Some(method(sent.channel, &tx::SelectOk {})),
        false => reply_to(sent),
    });
    let Some(Ok(Reply::Transaction(id))) = peer.machine.fetch(begun) else {
        panic!("it begins")
    };
    id
}

/// Returns the keys of publishes that name `first` and something else.
fn copies() -> Table {
    let mut keys = Array::new();
    for key in ["first", "elsewhere"] {
        keys.push(key).unwrap();
    }
    let mut headers = Table::new();
    headers.insert("before", 1).unwrap();
    headers.insert("CC", &keys).unwrap();
    headers.insert("BCC", &keys).unwrap();
    headers.insert("other", &keys).unwrap();
    headers
}

/// Returns the routing keys in the headers of the publishes.
fn keys(sent: &[Sent]) -> Vec<Vec<String>> {
    let text = |value: Value<'_>| value.as_str().unwrap().to_owned();
    let other = [Value::from("first"), Value::from("elsewhere")];
    let headers = sent.iter().filter(|sent| sent.kind == FrameKind::Header);
    let keys = headers.flat_map(|sent| {
        let headers = ContentHeader::decode(&sent.payload)
            .unwrap()
            .properties
            .headers
            .unwrap();
        let headers = headers.table().unwrap();
        assert_eq!(headers.get("before"), Some(Value::I32(1)));
        assert!(
            headers
                .get("other")
                .and_then(Value::as_array)
                .unwrap()
                .iter()
                .eq(other)
        );
        ["CC", "BCC"].map(|name| {
            let keys = headers.get(name).and_then(Value::as_array).unwrap();
            keys.iter().map(text).collect()
        })
    });
    keys.collect()
}

#[test]
fn all_requests_reach_a_renamed_queue() {
    let mut peer = renamed();
    let (queue, exchange, routing_key) = (short("first"), short("e"), short("k"));
    let arguments = TableRef::EMPTY;
    let bind = queue::Bind {
        queue,
        exchange,
        routing_key,
        nowait: false,
        arguments,
    };
    peer.machine.request(bind).unwrap();
    peer.machine
        .request(queue::Unbind {
            queue,
            exchange,
            routing_key,
            arguments,
        })
        .unwrap();
    peer.machine
        .request(queue::Purge {
            queue,
            nowait: false,
        })
        .unwrap();
    peer.machine
        .request(basic::Get {
            queue,
            no_ack: false,
        })
        .unwrap();
    peer.machine.consume(&consume("first")).unwrap();
    peer.machine.publish(&to("first")).unwrap();
    peer.machine.publish_unconfirmed(&to("first")).unwrap();
    peer.machine.call(&to("first"), None).unwrap();
    let sent = peer.serve();
    assert_eq!(names(&sent), ["second"; 8]);
}

#[test]
fn transaction_reaches_a_renamed_queue() {
    let mut peer = renamed();
    let id = transaction(&mut peer);
    peer.machine
        .get_in(
            id,
            basic::Get {
                queue: short("first"),
                no_ack: false,
            },
        )
        .unwrap();
    peer.machine.publish_in(id, &to("first")).unwrap();
    assert_eq!(names(&peer.take()), ["second"; 2]);
}

#[test]
fn copies_reach_a_renamed_queue() {
    let headers = copies();
    let copied = Publish {
        headers: Some(headers.as_ref()),
        ..to("elsewhere")
    };
    let mandatory = Publish {
        mandatory: true,
        ..copied.clone()
    };
    let mut peer = renamed();
    let id = transaction(&mut peer);
    peer.machine.publish(&copied).unwrap();
    peer.machine.publish(&mandatory).unwrap();
    peer.machine.publish_unconfirmed(&copied).unwrap();
    peer.machine.publish_in(id, &copied).unwrap();
    let sent = peer.serve();
    assert_eq!(keys(&sent), vec![["second", "elsewhere"]; 8]);
}

#[test]
fn keys_of_other_exchanges_are_left_alone() {
    let headers = copies();
    let mut peer = renamed();
    let other = Publish {
        routing_key: short("first"),
        ..publish("e", "x")
    };
    peer.machine
        .publish(&Publish {
            headers: Some(headers.as_ref()),
            ..other
        })
        .unwrap();
    let sent = peer.serve();
    assert_eq!(names(&sent), ["first"]);
    assert_eq!(keys(&sent), vec![["first", "elsewhere"]; 2]);
}

fn dead_letters_to(queue: &str) -> Table {
    let mut arguments = Table::new();
    arguments.insert("x-dead-letter-exchange", "").unwrap();
    arguments
        .insert("x-dead-letter-routing-key", queue)
        .unwrap();
    arguments.insert("x-max-length", 1).unwrap();
    arguments
}

/// Returns the dead-letter target of the queue `mortal`.
fn dead_letters(sent: &[Sent]) -> Vec<String> {
    let methods = sent.iter().filter(|sent| sent.kind == FrameKind::Method);
    let keys = methods.filter_map(|sent| match sent.method() {
        Method::Queue(queue::Method::Declare(it)) if it.queue.as_str() == Some("mortal") => {
            assert_eq!(it.arguments.get("x-max-length"), Some(Value::I32(1)));
            it.arguments
                .get("x-dead-letter-routing-key")?
                .as_str()
                .map(str::to_owned)
        }
        _ => None,
    });
    keys.collect()
}

#[test]
fn dead_letters_reach_a_renamed_queue() {
    let mut peer = renamed();
    let arguments = dead_letters_to("first");
    let mut mortal = declare("mortal");
    mortal.arguments = arguments.as_ref();
    peer.machine.request(mortal).unwrap();
    assert_eq!(dead_letters(&peer.serve()), ["second"]);
    for name in ["third", "fourth"] {
        assert_eq!(dead_letters(&reconnect(&mut peer, name)), [name]);
    }
}

#[test]
fn dead_letters_survive_more_names_than_are_kept() {
    let mut peer = renamed();
    let arguments = dead_letters_to("second");
    let mut mortal = declare("mortal");
    mortal.arguments = arguments.as_ref();
    peer.machine.request(mortal).unwrap();
    assert_eq!(dead_letters(&peer.serve()), ["second"]);
    for number in 3..40 {
        let name = format!("name {number}");
        assert_eq!(dead_letters(&reconnect(&mut peer, &name)), [name]);
    }
}

#[test]
fn waiting_publish_follows_the_queue() {
    let mut peer = renamed();
    peer.machine.handle_loss(Broken::Eof);
    let waiting: [PromiseId; 2] =
        ["first", "second"].map(|name| peer.machine.publish(&to(name)).unwrap());
    for name in ["third", "fourth"] {
        peer.dial();
        peer.complete_handshake(tune(2047, 131_072, 0));
        assert_eq!(names(&peer.serve_naming(name)), [name; 2]);
        if name == "third" {
            // They are republished, because they are unconfirmed.
            peer.machine.handle_loss(Broken::Eof);
        }
    }
    peer.method(2, &ack(2, true));
    waiting
        .into_iter()
        .for_each(|promise| peer.expect_done(promise));
}

#[test]
fn current_name_of_any_name_is_the_last() {
    let mut peer = renamed();
    reconnect(&mut peer, "third");
    for name in ["first", "second", "third"] {
        assert_eq!(&*peer.machine.current_name(name.as_bytes()), b"third");
    }
    // The queue is deleted under each of its names, and the names are removed.
    let delete = queue::Delete {
        queue: short("second"),
        if_unused: false,
        if_empty: false,
        nowait: false,
    };
    peer.machine.request(delete).unwrap();
    assert_eq!(names(&peer.serve()), ["third"]);
    assert_eq!(&*peer.machine.current_name(b"first"), b"first");
    assert!(
        reconnect(&mut peer, "fourth")
            .iter()
            .all(|sent| !sent.is(queue::Declare::ID))
    );
}

#[test]
fn get_that_waits_follows_the_queue() {
    let mut peer = renamed();
    let get = peer
        .machine
        .request(basic::Get {
            queue: short("second"),
            no_ack: false,
        })
        .unwrap();
    peer.take();
    let sent = reconnect(&mut peer, "third");
    assert_eq!(names(&sent), ["third"], "it is requested again");
    let channel = sent
        .iter()
        .find(|sent| sent.is(basic::Get::ID))
        .unwrap()
        .channel;
    peer.content(channel, &get_ok(1), b"x");
    assert!(matches!(
        peer.machine.fetch(get),
        Some(Ok(Reply::Delivery(Some(_))))
    ));
}

#[test]
fn consumer_by_an_intermediate_name_keeps_its_queue() {
    let mut peer = dialled();
    peer.machine
        .request(queue::Declare {
            auto_delete: true,
            ..declare("")
        })
        .unwrap();
    peer.serve_naming("first");
    reconnect(&mut peer, "second");
    reconnect(&mut peer, "third");
    let (by_first, ..) = peer.consumer(&consume("first"));
    let _by_second = peer.consumer(&consume("second"));
    peer.machine.cancel(by_first).unwrap();
    peer.serve();
    // More names than are stored.
    for number in 4..30 {
        let sent = reconnect(&mut peer, &number.to_string());
        assert_eq!(
            names(&sent),
            [number.to_string()],
            "it is declared, and consumed again"
        );
    }
}

#[test]
fn passive_declare_asks_for_the_current_name() {
    let mut peer = renamed();
    let passive = queue::Declare {
        passive: true,
        ..declare("first")
    };
    peer.machine.request(passive).unwrap();
    let asked = peer.take();
    match asked.last().unwrap().method() {
        Method::Queue(queue::Method::Declare(it)) => assert_eq!(it.queue, short("second")),
        other => panic!("{other:?}"),
    }
}
