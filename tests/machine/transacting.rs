//! Transactions and calls under a scripted server: when they are written, and the effect of a late
//! or wrong reply.

use crate::peer::{Peer, Sent, ack, channel_close, get_ok, method, publish, short, tune};
use puka::machine::{PromiseId, Reply, Settle, TransactionId};
use puka::protocol::method::{basic, channel, connection, tx};
use puka::protocol::{ContentHeader, FrameKind, Method, Properties, ShortStr, frame};
use puka::{Error, Options};
use std::time::Duration;

fn begun(peer: &mut Peer) -> TransactionId {
    let promise = peer.machine.transaction().unwrap();
    assert_eq!(peer.names(), ["1 channel.open", "1 tx.select"]);
    peer.method(1, &channel::OpenOk {});
    peer.method(1, &tx::SelectOk {});
    match peer.machine.fetch(promise) {
        Some(Ok(Reply::Transaction(id))) => id,
        other => panic!("{other:?}"),
    }
}

#[test]
fn channel_sends_nothing_between_commit_and_commit_ok() {
    let mut peer = Peer::open(Options::default());
    let id = begun(&mut peer);
    let got: Vec<_> = (1..=2)
        .map(|tag| {
            let get = basic::Get {
                queue: short("q"),
                no_ack: false,
            };
            let promise = peer.machine.get_in(id, get).unwrap();
            peer.content(1, &get_ok(tag), b"got");
            match peer.machine.fetch(promise) {
                Some(Ok(Reply::Delivery(Some(got)))) => got.delivered,
                other => panic!("{other:?}"),
            }
        })
        .collect();
    peer.take();
    peer.machine
        .settle(&got[0], Settle::Ack { multiple: false })
        .unwrap();
    let commit = peer.machine.commit(id).unwrap();
    assert!(matches!(
        peer.machine
            .settle(&got[1], Settle::Ack { multiple: false }),
        Err(Error::Stale)
    ));
    assert!(matches!(
        peer.machine.publish_in(id, &publish("", "late")),
        Err(Error::Stale)
    ));
    assert_eq!(peer.names(), ["1 basic.ack", "1 tx.commit"]);
    peer.method(1, &tx::CommitOk {});
    assert!(
        matches!(peer.machine.fetch(commit), Some(Ok(Reply::Committed(returned)))
            if returned.is_empty())
    );
    assert_eq!(peer.names(), ["1 channel.close"]);
    peer.method(1, &channel::CloseOk {});
    assert!(peer.machine.is_idle());
}

#[test]
fn dropped_transaction_closes_its_channel_without_sending_acks() {
    let mut peer = Peer::open(Options::default());
    let id = begun(&mut peer);
    let promise = peer
        .machine
        .get_in(
            id,
            basic::Get {
                queue: short("q"),
                no_ack: false,
            },
        )
        .unwrap();
    peer.content(1, &get_ok(1), b"got");
    let Some(Ok(Reply::Delivery(Some(got)))) = peer.machine.fetch(promise) else {
        panic!("no message")
    };
    peer.take();
    peer.machine
        .settle(&got.delivered, Settle::Ack { multiple: false })
        .unwrap();
    peer.machine.drop_transaction(id);
    assert_eq!(peer.names(), ["1 channel.close"]);
    peer.method(1, &channel::CloseOk {});
    assert!(peer.machine.is_idle());
}

#[test]
fn unanswered_commit_has_an_unknown_outcome() {
    let mut peer = Peer::open(Options::default());
    let id = begun(&mut peer);
    let commit = peer.machine.commit(id).unwrap();
    peer.pass(Duration::from_secs(31));
    match peer.error(commit) {
        Error::Unconfirmed(cause) => assert!(matches!(*cause, Error::Timeout { .. })),
        other => panic!("{other:?}"),
    }
    // The late reply ends the transaction nevertheless.
    peer.take();
    peer.method(1, &tx::CommitOk {});
    assert_eq!(peer.names(), ["1 channel.close"]);
    peer.method(1, &channel::CloseOk {});
    assert!(peer.machine.is_idle());

    let mut peer = Peer::open(Options::default());
    let id = begun(&mut peer);
    let commit = peer.machine.commit(id).unwrap();
    peer.machine.handle_loss(puka::Broken::Eof);
    assert!(matches!(peer.error(commit), Error::Unconfirmed(_)));
    assert!(peer.machine.is_idle());
}

fn get_in(peer: &mut Peer, id: TransactionId) -> Result<PromiseId, Error> {
    peer.machine.get_in(
        id,
        basic::Get {
            queue: short("stuck"),
            no_ack: false,
        },
    )
}

/// Returns an open connection without heartbeats, and a transaction on channel 1.
fn begun_without_heartbeats() -> (Peer, TransactionId) {
    let mut peer = Peer::open_with(Options::default().heartbeat(0), tune(2047, 131_072, 0));
    let id = begun(&mut peer);
    (peer, id)
}

#[test]
fn get_that_times_out_fails_its_transaction() {
    let (mut peer, id) = begun_without_heartbeats();
    let other = peer.machine.transaction().unwrap();
    let late = get_in(&mut peer, id).unwrap();
    peer.pass(Duration::from_secs(20));
    let pending = get_in(&mut peer, id).unwrap();
    peer.serve();
    peer.method(2, &tx::SelectOk {});
    let Some(Ok(Reply::Transaction(other))) = peer.machine.fetch(other) else {
        panic!("it begins")
    };
    peer.pass(Duration::from_secs(10));
    assert!(matches!(
        peer.error(late),
        Error::Timeout {
            what: "the request",
            ..
        }
    ));
    assert_eq!(peer.names(), ["1 channel.close"]);
    let failed = |error: &Error| {
        matches!(
            error,
            Error::Timeout {
                what: "a get of the transaction",
                ..
            }
        )
    };
    assert!(failed(&peer.error(pending)));
    assert!(failed(&get_in(&mut peer, id).unwrap_err()));
    assert!(failed(
        &peer.machine.publish_in(id, &publish("", "x")).unwrap_err()
    ));
    assert!(failed(&peer.machine.commit(id).unwrap_err()));
    peer.content(1, &get_ok(1), b"late");
    peer.method(1, &channel::CloseOk {});
    let published = peer.machine.publish_in(other, &publish("", "x")).unwrap();
    peer.expect_done(published);
    peer.machine.drop_transaction(other);
    peer.serve();
    assert!(peer.machine.is_idle() && peer.machine.why_closed().is_none());
}

#[test]
fn failed_transaction_holds_up_no_other() {
    for times_out in [false, true] {
        let (mut peer, id) = begun_without_heartbeats();
        peer.method(1, &channel::Flow { active: false });
        assert!(!peer.machine.has_capacity_to_transact());
        get_in(&mut peer, id).unwrap();
        if times_out {
            peer.pass(Duration::from_secs(31));
        } else {
            peer.method(1, &channel_close(404, "NOT_FOUND - no queue"));
        }
        assert!(peer.machine.has_capacity_to_transact());
    }
}

#[test]
fn gets_that_time_out_do_not_add_up() {
    let (mut peer, id) = begun_without_heartbeats();
    let mut pending = 0;
    for _ in 0..100 {
        pending += usize::from(
            get_in(&mut peer, id)
                .map(|get| peer.machine.abandon(get))
                .is_ok(),
        );
        peer.pass(Duration::from_secs(31));
    }
    assert_eq!(pending, 1, "the transaction fails with its first get");
}

#[test]
fn get_that_times_out_leaves_a_commit_alone() {
    let (mut peer, id) = begun_without_heartbeats();
    let late = get_in(&mut peer, id).unwrap();
    peer.pass(Duration::from_secs(20));
    let commit = peer.machine.commit(id).unwrap();
    peer.pass(Duration::from_secs(15));
    assert!(matches!(peer.error(late), Error::Timeout { .. }));
    assert_eq!(peer.names(), ["1 basic.get", "1 tx.commit"]);
    peer.method(1, &basic::GetEmpty {});
    peer.method(1, &tx::CommitOk {});
    assert!(matches!(
        peer.machine.fetch(commit),
        Some(Ok(Reply::Committed(_)))
    ));
}

#[test]
fn unmatched_return_in_a_transaction_is_not_stored() {
    let mut peer = Peer::open(Options::default());
    let id = begun(&mut peer);
    let mut mandatory = publish("", "mandatory");
    mandatory.mandatory = true;
    peer.machine.publish_in(id, &mandatory).unwrap();
    peer.take();
    let returned = basic::Return {
        reply_code: 312,
        reply_text: short("NO_ROUTE"),
        exchange: ShortStr::EMPTY,
        routing_key: short("key"),
    };
    for _ in 0..3 {
        peer.content(1, &returned, b"mandatory");
    }
    let commit = peer.machine.commit(id).unwrap();
    peer.method(1, &tx::CommitOk {});
    assert!(
        matches!(peer.machine.fetch(commit), Some(Ok(Reply::Committed(all))) if all.len() == 1)
    );
}

#[test]
fn e37_transaction_honours_flow() {
    let mut peer = Peer::open(Options::default());
    let id = begun(&mut peer);
    peer.method(1, &channel::Flow { active: false });
    assert!(matches!(
        peer.machine.publish_in(id, &publish("", "held")),
        Err(Error::Full)
    ));
    assert!(!peer.machine.has_capacity_to_transact());
    peer.method(1, &channel::Flow { active: true });
    peer.machine.publish_in(id, &publish("", "sent")).unwrap();
    assert_eq!(
        peer.names(),
        [
            "1 channel.flow-ok",
            "1 channel.flow-ok",
            "1 basic.publish",
            "1 header 4",
            "1 body 4"
        ]
    );
}

/// Feeds a reply with this correlation id.
fn reply(peer: &mut Peer, correlation_id: &str, tag: u64) {
    let deliver = basic::Deliver {
        consumer_tag: short("amq.ctag-made-by-the-broker"),
        delivery_tag: tag,
        redelivered: false,
        exchange: ShortStr::EMPTY,
        routing_key: short("amq.rabbitmq.reply-to.x"),
    };
    let mut properties = Properties::default();
    properties.correlation_id = Some(short(correlation_id));
    let mut bytes = method(1, &deliver);
    bytes.extend(crate::peer::header(1, 5, properties));
    frame::body(&mut bytes, 1, 131_072, b"reply");
    peer.feed(&bytes);
}

/// Returns the correlation ids of the calls that were sent.
pub(crate) fn correlation_ids(sent: &[Sent]) -> Vec<String> {
    let headers = sent.iter().filter(|sent| sent.kind == FrameKind::Header);
    let ids = headers.map(|sent| {
        ContentHeader::decode(&sent.payload)
            .unwrap()
            .properties
            .correlation_id
    });
    ids.map(|id| id.unwrap().to_string()).collect()
}

#[test]
fn call_and_its_prerequisites_leave_at_once() {
    let mut peer = Peer::open(Options::default());
    let call = peer.machine.call(&publish("", "12"), None).unwrap();
    let sent = peer.serve();
    let names = sent.iter().map(Sent::name).collect::<Vec<_>>();
    let needed = [
        "1 channel.open",
        "1 confirm.select",
        "1 basic.consume",
        "1 basic.publish",
    ];
    assert_eq!(names[..4], needed);
    // A confirm is no reply.
    peer.method(1, &ack(1, false));
    assert!(peer.is_pending(call));
    let id = correlation_ids(&sent).remove(0);
    for wrong in [
        "0",
        "1",
        "2",
        "",
        "x",
        "-1",
        "18446744073709551616",
        &id[..id.len() - 1],
    ] {
        reply(&mut peer, wrong, 1);
    }
    assert!(peer.is_pending(call));
    reply(&mut peer, &id, 2);
    assert!(
        matches!(peer.machine.fetch(call), Some(Ok(Reply::Message(message)))
            if message.body() == b"reply")
    );
    reply(&mut peer, &id, 3);
    assert!(peer.machine.is_idle());
}

#[test]
fn call_ids_are_not_guessable_from_others() {
    let mut peer = Peer::open(Options::default());
    let seen = peer.machine.call(&publish("", "seen"), None).unwrap();
    let hidden = peer.machine.call(&publish("", "hidden"), None).unwrap();
    let sent = peer.serve();
    let [first, second] = &correlation_ids(&sent)[..] else {
        panic!("two calls")
    };
    let (Some((_, secret)), Some((number, _))) = (first.split_once('.'), second.split_once('.'))
    else {
        panic!("{first} {second}")
    };
    reply(&mut peer, &format!("{number}.{secret}"), 1);
    assert!(peer.is_pending(hidden) && peer.is_pending(seen));
    reply(&mut peer, second, 2);
    assert!(matches!(
        peer.machine.fetch(hidden),
        Some(Ok(Reply::Message(_)))
    ));
}

#[test]
fn late_reply_answers_no_later_call() {
    let mut peer = Peer::open(Options::default());
    let failed = peer.machine.call(&publish("", "12"), None).unwrap();
    let earlier = correlation_ids(&peer.serve()).remove(0);
    peer.method(1, &channel_close(406, "PRECONDITION_FAILED"));
    assert!(matches!(peer.error(failed), Error::PreconditionFailed(_)));
    let call = peer.machine.call(&publish("", "12"), None).unwrap();
    let id = correlation_ids(&peer.serve()).remove(0);
    reply(&mut peer, &earlier, 1);
    assert!(peer.is_pending(call));
    reply(&mut peer, &id, 2);
    assert!(matches!(
        peer.machine.fetch(call),
        Some(Ok(Reply::Message(_)))
    ));
}

#[test]
fn broker_chooses_the_tag_of_the_reply_consumer() {
    let mut peer = Peer::open(Options::default());
    let _call = peer.machine.call(&publish("", "12"), None).unwrap();
    let sent = peer.serve();
    let consume = sent
        .iter()
        .find(|sent| sent.is(basic::Consume::ID))
        .unwrap();
    let Method::Basic(basic::Method::Consume(consume)) = consume.method() else {
        panic!()
    };
    assert!(consume.consumer_tag.is_empty(), "{consume:?}");
}

#[test]
fn finished_call_is_forgotten() {
    let mut peer = Peer::open(Options::default());
    let nacked = peer.machine.call(&publish("", "nacked"), None).unwrap();
    let late = peer
        .machine
        .call(&publish("", "late"), Some(Duration::from_secs(1)))
        .unwrap();
    let closed = peer.machine.call(&publish("", "closed"), None).unwrap();
    peer.serve();
    peer.method(
        1,
        &basic::Nack {
            delivery_tag: 1,
            multiple: false,
            requeue: false,
        },
    );
    assert!(matches!(peer.error(nacked), Error::Nacked));
    peer.pass(Duration::from_secs(2));
    match peer.error(late) {
        Error::Timeout { after, .. } => assert_eq!(after, Duration::from_secs(1)),
        other => panic!("{other:?}"),
    }
    peer.method(1, &ack(3, true));
    assert!(peer.is_pending(closed));
    peer.method(1, &channel_close(406, "PRECONDITION_FAILED - of another"));
    assert!(matches!(peer.error(closed), Error::Unconfirmed(_)));
    peer.take();
    assert!(peer.machine.is_idle());
}

#[test]
fn deliveries_before_recover_ok_are_taken_back() {
    let mut peer = Peer::open(Options::default());
    let (consumer, channel, tag) = peer.consumer(&crate::peer::consume("q"));
    peer.deliver(channel, &tag, 1, b"one");
    let delivered = peer.take_deliveries(consumer).remove(0);
    peer.deliver(channel, &tag, 2, b"buffered");
    let recovered = peer.machine.recover(consumer).unwrap();
    peer.deliver(channel, &tag, 3, b"on its way");
    assert_eq!(peer.names(), [format!("{channel} basic.recover")]);
    peer.method(channel, &basic::RecoverOk {});
    peer.expect_done(recovered);
    assert!(matches!(
        peer.machine
            .settle(&delivered, Settle::Ack { multiple: false }),
        Err(Error::Stale)
    ));
    peer.deliver(channel, &tag, 4, b"again");
    let again = peer.take_deliveries(consumer);
    assert_eq!(
        again
            .iter()
            .map(|delivered| delivered.tag)
            .collect::<Vec<_>>(),
        [4]
    );
    peer.machine
        .settle(&again[0], Settle::Ack { multiple: true })
        .unwrap();
    assert_eq!(peer.names(), [format!("{channel} basic.ack")]);
}

#[test]
fn refused_secret_ends_the_connection() {
    let mut peer = Peer::open(Options::default());
    let (one, two) = (
        peer.machine
            .update_secret(b"fresh", short("expired"))
            .unwrap(),
        peer.machine
            .update_secret(b"refused", short("expired"))
            .unwrap(),
    );
    assert_eq!(
        peer.names(),
        ["0 connection.update-secret", "0 connection.update-secret"]
    );
    peer.method(0, &puka::protocol::method::connection::UpdateSecretOk {});
    peer.expect_done(one);
    peer.method(0, &crate::peer::close(530, "NOT_ALLOWED - refused"));
    assert!(matches!(peer.error(two), Error::NotAllowed(_)));

    let mut peer = Peer::open(Options::default());
    peer.method(0, &puka::protocol::method::connection::UpdateSecretOk {});
    assert!(
        matches!(peer.close_reason(), Error::CommandInvalid(_)),
        "one that was not requested"
    );
}

#[test]
fn v01_get_of_a_dropped_transaction_completes_at_once() {
    // Before the reply arrives, within the message, and after the promise was dropped.
    for step in 0..3 {
        let mut peer = Peer::open(Options::default());
        let id = begun(&mut peer);
        let get = basic::Get {
            queue: short("q"),
            no_ack: false,
        };
        let promise = peer.machine.get_in(id, get).unwrap();
        let channel = peer.serve().last().unwrap().channel;
        if step == 1 {
            peer.method(channel, &crate::peer::get_ok(1));
        } else if step == 2 {
            peer.machine.abandon(promise);
        }
        peer.machine.drop_transaction(id);
        if step < 2 {
            assert!(matches!(peer.error(promise), Error::Stale));
        }
        peer.serve();
        assert!(peer.machine.is_idle(), "{:?}", peer.machine);
    }
}

fn nack(delivery_tag: u64, multiple: bool) -> basic::Nack {
    basic::Nack {
        delivery_tag,
        multiple,
        requeue: false,
    }
}

#[test]
fn several_calls_can_be_refused_at_once() {
    let mut peer = Peer::open(Options::default());
    let calls = ["1", "2", "3"].map(|body| peer.machine.call(&publish("", body), None).unwrap());
    peer.serve();
    peer.method(1, &nack(2, true));
    assert!(matches!(peer.error(calls[0]), Error::Nacked));
    assert!(matches!(peer.error(calls[1]), Error::Nacked));
    assert!(peer.is_pending(calls[2]));
    peer.method(1, &nack(3, false));
    assert!(matches!(peer.error(calls[2]), Error::Nacked));
    peer.take();
    assert!(peer.machine.is_idle());
}

#[test]
fn call_can_be_refused_after_its_confirms_deadline() {
    let options = Options::default()
        .heartbeat(0)
        .request_timeout(Duration::from_secs(5));
    let mut peer = Peer::open_with(options, tune(2047, 131_072, 0));
    let timeout = Some(Duration::from_secs(60));
    let call = peer.machine.call(&publish("", "x"), timeout).unwrap();
    peer.serve();
    peer.pass(Duration::from_secs(10));
    assert!(peer.is_pending(call));
    peer.method(1, &nack(1, false));
    assert!(matches!(peer.error(call), Error::Nacked));
}

#[test]
fn blocked_connection_has_no_capacity_to_transact() {
    let mut peer = Peer::open(Options::default());
    let _id = begun(&mut peer);
    assert!(peer.machine.has_capacity_to_transact());
    let reason = short("low on memory");
    peer.method(0, &connection::Blocked { reason });
    assert!(!peer.machine.has_capacity_to_transact());
    peer.method(0, &connection::Unblocked {});
    assert!(peer.machine.has_capacity_to_transact());
}

#[test]
fn stopped_transaction_stops_no_other_after_a_loss() {
    let mut peer = Peer::dialled(Options::default());
    let _lost = begun(&mut peer);
    peer.method(1, &channel::Flow { active: false });
    assert!(!peer.machine.has_capacity_to_transact());
    peer.take();
    peer.reconnect();
    assert!(peer.machine.has_capacity_to_transact());
}

#[test]
fn open_transaction_is_pending_work() {
    let mut peer = Peer::open(Options::default());
    let id = begun(&mut peer);
    assert!(!peer.machine.is_idle());
    peer.machine.drop_transaction(id);
    peer.serve();
    assert!(peer.machine.is_idle());
}

#[test]
fn lost_get_of_a_transaction_is_not_repeated() {
    let mut peer = Peer::dialled(Options::default());
    let id = begun(&mut peer);
    let get = get_in(&mut peer, id).unwrap();
    peer.pump();
    peer.machine.handle_loss(puka::Broken::Eof);
    assert!(peer.error(get).is_connection_broken());
}
