//! Outgoing publishes: which are refused, which wait, and which publish a return matches.

use crate::peer::{Peer, Sent, ack, channel_close, publish, short};
use crate::unconfirmed::unconfirmed;
use puka::machine::{Notice, Publish};
use puka::protocol::method::{basic, channel, confirm};
use puka::protocol::{ContentHeader, Properties, ShortStr, Table, Value};
use puka::{Error, Options};
use std::time::Duration;

/// Returns the headers of the last publish that was written.
pub(crate) fn headers(sent: &[Sent]) -> Table {
    let header = sent
        .iter()
        .rev()
        .find(|sent| sent.name().contains("header"))
        .unwrap();
    let header = ContentHeader::decode(&header.payload).unwrap();
    header
        .properties
        .headers
        .map_or(Table::new(), |headers| headers.table().unwrap().to_table())
}

pub(crate) fn returned(peer: &mut Peer, headers: &Table, body: &[u8]) {
    let mut properties = Properties::default();
    properties.headers = Some(headers.as_ref().into());
    let it = basic::Return {
        reply_code: 312,
        reply_text: short("NO_ROUTE"),
        exchange: ShortStr::EMPTY,
        routing_key: short("key"),
    };
    let mut bytes = crate::peer::method(1, &it);
    bytes.extend(crate::peer::header(1, body.len() as u64, properties));
    bytes.extend(crate::peer::raw(3, 1, body));
    peer.feed(&bytes);
}

fn mandatory(peer: &mut Peer, headers: Option<&Table>) -> (puka::machine::PromiseId, Table) {
    let mut it = publish("", "same body");
    it.mandatory = true;
    it.headers = headers.map(Table::as_ref);
    let promise = peer.machine.publish(&it).unwrap();
    let sent = peer.serve();
    (promise, self::headers(&sent))
}

#[test]
fn e34_return_matches_its_own_publish_among_equals() {
    let mut peer = Peer::open(Options::default());
    let (first, _) = mandatory(&mut peer, None);
    let (second, stamp) = mandatory(&mut peer, None);
    let (third, _) = mandatory(&mut peer, None);
    returned(&mut peer, &stamp, b"same body");
    peer.method(1, &ack(1, false));
    peer.expect_done(first);
    match peer.error(second) {
        Error::NoRoute(returned) => {
            assert_eq!(
                (returned.reply_code.value(), &*returned.reply_text),
                (312, "NO_ROUTE")
            );
            assert_eq!(returned.message.body(), b"same body");
            assert!(
                returned.message.headers().unwrap().is_empty(),
                "our header is removed"
            );
        }
        other => panic!("{other:?}"),
    }
    assert!(peer.is_pending(third));
    peer.method(1, &ack(3, true));
    peer.expect_done(third);
    assert!(peer.machine.is_idle());
}

#[test]
fn e34_republished_returned_message_has_its_own_stamp() {
    let mut peer = Peer::open(Options::default());
    let (_, old) = mandatory(&mut peer, None);
    let (promise, stamps) = mandatory(&mut peer, Some(&old));
    assert_eq!(
        stamps.get("x-puka-publish"),
        Some(Value::I64(2)),
        "the first header of a name counts"
    );
    returned(&mut peer, &stamps, b"same body");
    assert!(matches!(peer.error(promise), Error::NoRoute(_)));
}

#[test]
fn e34_unmatched_return_does_no_harm() {
    let mut peer = Peer::open(Options::default());
    let (promise, _) = mandatory(&mut peer, None);
    for wrong in [0_i64, 2, -1, i64::MIN, i64::MAX] {
        let mut stamp = Table::new();
        stamp.insert("x-puka-publish", wrong).unwrap();
        returned(&mut peer, &stamp, b"x");
    }
    returned(&mut peer, &Table::new(), b"x");
    assert!(peer.is_pending(promise));
    assert!(peer.machine.why_closed().is_none());
}

#[test]
fn s52_s54_returns_before_multiple_ack_match_their_own_publishes() {
    let mut peer = Peer::open(Options::default());
    let mut sent = Vec::new();
    for n in 0..60 {
        if n % 3 == 2 {
            let plain = peer.machine.publish(&publish("", "same body")).unwrap();
            peer.serve();
            sent.push((plain, None));
        } else {
            let (promise, stamp) = mandatory(&mut peer, None);
            sent.push((promise, Some(stamp)));
        }
    }
    // Every other mandatory one is returned, in any order, and a single frame confirms them all.
    let back: Vec<_> = (0..60).filter(|n| n % 3 == 1).collect();
    for n in back.iter().rev() {
        let (_, Some(stamp)) = &sent[*n] else {
            panic!("it is mandatory")
        };
        let stamp = stamp.clone();
        returned(&mut peer, &stamp, b"same body");
    }
    peer.method(1, &ack(60, true));
    for (n, (promise, _)) in sent.into_iter().enumerate() {
        if back.contains(&n) {
            assert!(matches!(peer.error(promise), Error::NoRoute(_)), "{n}");
        } else {
            peer.expect_done(promise);
        }
    }
    assert!(peer.machine.is_idle());
}

#[test]
fn s53_s54_mandatory_message_is_routed_returned_nacked_or_unconfirmed() {
    let mut peer = Peer::open(Options::default());
    let [
        (routed, _),
        (back, stamp),
        (refused, _),
        (both, second),
        (unknown, _),
    ] = [0; 5].map(|_| mandatory(&mut peer, None));
    returned(&mut peer, &stamp, b"same body");
    // Returned and refused: the return is the outcome.
    returned(&mut peer, &second, b"same body");
    peer.method(
        1,
        &basic::Nack {
            delivery_tag: 4,
            multiple: false,
            requeue: true,
        },
    );
    peer.method(
        1,
        &basic::Nack {
            delivery_tag: 3,
            multiple: false,
            requeue: true,
        },
    );
    peer.method(1, &ack(2, true));
    peer.machine.handle_loss(puka::Broken::Eof);
    peer.expect_done(routed);
    assert!(matches!(peer.error(back), Error::NoRoute(_)));
    assert!(matches!(peer.error(both), Error::NoRoute(_)));
    assert!(matches!(peer.error(refused), Error::Nacked));
    assert!(
        matches!(peer.error(unknown), Error::Unconfirmed(cause) if cause.is_connection_broken())
    );
}

#[test]
fn s51_published_body_can_be_changed() {
    let mut peer = Peer::open(Options::default());
    for size in [3, 300_000] {
        let mut body = vec![1_u8; size];
        let promise = peer.machine.publish(&publish("", &body[..])).unwrap();
        body.fill(2);
        let sent = peer.serve();
        let bodies = sent.iter().filter(|sent| sent.name().contains("body"));
        let bytes: Vec<u8> = bodies.flat_map(|sent| sent.payload.clone()).collect();
        assert!(bytes.len() == size && bytes.iter().all(|byte| *byte == 1));
        peer.method(1, &ack(0, true));
        peer.expect_done(promise);
    }
}

#[test]
fn e37_channel_flow_is_answered_and_stops_one_channel() {
    let mut peer = Peer::open(Options::default());
    let _first = peer.machine.publish(&publish("a", "x")).unwrap();
    peer.serve();
    peer.method(1, &channel::Flow { active: false });
    let sent = peer.take();
    assert_eq!(
        sent.iter().map(Sent::name).collect::<Vec<_>>(),
        ["1 channel.flow-ok"]
    );
    let _stopped = peer.machine.publish(&publish("a", "y")).unwrap();
    assert!(peer.names().is_empty());
    let _other = peer.machine.publish(&publish("b", "z")).unwrap();
    let names: Vec<_> = peer.serve().iter().map(Sent::name).collect();
    assert!(
        names.contains(&"2 basic.publish".to_owned()),
        "another exchange is not affected: {names:?}"
    );
}

#[test]
fn e37_publishes_delayed_by_a_flow_follow_in_order() {
    let mut peer = Peer::open(Options::default());
    let _first = peer.machine.publish(&publish("", "x")).unwrap();
    peer.serve();
    peer.method(1, &channel::Flow { active: false });
    peer.names();
    let promises: Vec<_> = ["1", "22", "333"]
        .iter()
        .map(|body| peer.machine.publish(&publish("", *body)).unwrap())
        .collect();
    assert!(peer.names().is_empty());
    peer.method(1, &channel::Flow { active: true });
    let names = peer.names();
    let bodies: Vec<_> = names.iter().filter(|name| name.contains("body")).collect();
    assert_eq!(bodies, ["1 body 1", "1 body 2", "1 body 3"], "{names:?}");
    peer.method(1, &ack(0, true));
    promises
        .into_iter()
        .for_each(|promise| peer.expect_done(promise));
}

#[test]
fn e38_frames_of_a_message_stay_together() {
    let mut peer = Peer::open(Options::default());
    let large = vec![7_u8; 300_000];
    let first = peer.machine.publish(&publish("", large.clone())).unwrap();
    let request = peer.machine.request(crate::peer::declare("q")).unwrap();
    peer.machine.abandon(request);
    let second = peer.machine.publish(&publish("", &large[..])).unwrap();
    peer.machine.abandon(first);
    peer.machine.abandon(second);
    let names: Vec<_> = peer.serve().iter().map(Sent::name).collect();
    let on_one: Vec<_> = names
        .iter()
        .filter(|name| name.starts_with("1 "))
        .map(String::as_str)
        .collect();
    let message = [
        "1 basic.publish",
        "1 header 300000",
        "1 body 131064",
        "1 body 131064",
        "1 body 37872",
    ];
    let first = [
        &["1 channel.open", "1 confirm.select"][..],
        &message,
        &["1 confirm.select"],
    ]
    .concat();
    assert_eq!(on_one, [&first[..], &message].concat());
    peer.method(1, &ack(2, true));
    assert!(peer.machine.is_idle());
}

#[test]
fn e39_immediate_is_refused_before_it_closes_the_connection() {
    let mut peer = Peer::open(Options::default());
    let mut it = publish("", "x");
    it.immediate = true;
    assert!(matches!(
        peer.machine.publish(&it),
        Err(Error::InvalidArgument {
            what: "immediate",
            ..
        })
    ));
    let names: Vec<_> = peer.serve().iter().map(Sent::name).collect();
    assert!(
        !names.iter().any(|name| name.contains("publish")),
        "{names:?}"
    );
    // The same for one that was queued before the server's limits were known.
    let mut peer = Peer::new(Options::default());
    let promise = peer.machine.publish(&it).unwrap();
    peer.complete_handshake(crate::peer::tune(0, 0, 0));
    peer.serve();
    assert!(matches!(
        peer.error(promise),
        Error::InvalidArgument {
            what: "immediate",
            ..
        }
    ));
}

#[test]
fn e12_publishes_that_brokers_refuse_are_refused_locally() {
    let mut peer = Peer::open(Options::default());
    let mut wrong = [Properties::NONE; 5];
    wrong[0].expiration = Some(short("-1"));
    wrong[1].expiration = Some(short("315360000001"));
    wrong[2].delivery_mode = Some(3);
    wrong[3].user_id = Some(short("somebody"));
    wrong[4].reply_to = Some(short("amq.rabbitmq.reply-to"));
    for properties in &wrong {
        let it = Publish {
            properties,
            ..publish("", "x")
        };
        assert!(
            matches!(
                peer.machine.publish(&it),
                Err(Error::InvalidArgument { .. })
            ),
            "{it:?}"
        );
    }
    let mut longest = Properties::NONE;
    longest.expiration = Some(short("315360000000"));
    let it = Publish {
        properties: &longest,
        ..publish("", "x")
    };
    assert!(peer.machine.publish(&it).is_ok());
    peer.pump();
    peer.inbox.clear();
    let mut headers = Table::new();
    headers.insert("CC", "not an array").unwrap();
    let mut it = publish("", "x");
    it.headers = Some(headers.as_ref());
    assert!(matches!(
        peer.machine.publish(&it),
        Err(Error::InvalidArgument {
            what: "headers",
            ..
        })
    ));
    assert!(peer.names().is_empty());
}

#[test]
fn e26_missing_exchange_fails_exactly_its_publishes() {
    let mut peer = Peer::open(Options::default());
    let wrong: Vec<_> = (0..3)
        .map(|_| peer.machine.publish(&publish("a", "x")).unwrap())
        .collect();
    let fine = peer.machine.publish(&publish("b", "x")).unwrap();
    // The broker executes methods in order, so it does not answer those behind the first publish.
    peer.take();
    peer.method(1, &channel::OpenOk {});
    peer.method(1, &confirm::SelectOk {});
    peer.method(1, &channel_close(404, "NOT_FOUND - no exchange 'a'"));
    for promise in wrong {
        assert!(matches!(peer.error(promise), Error::NotFound(_)));
    }
    assert!(peer.is_pending(fine));
    let again = peer.machine.publish(&publish("a", "x")).unwrap();
    let names: Vec<_> = peer.serve().iter().map(Sent::name).collect();
    assert_eq!(
        names[..4],
        [
            "1 channel.close-ok",
            "1 channel.open",
            "1 confirm.select",
            "1 basic.publish"
        ],
        "{names:?}"
    );
    peer.method(1, &ack(1, false));
    peer.expect_done(again);
}

#[test]
fn v03_exchange_deleted_midway_leaves_earlier_publishes_unconfirmed() {
    let mut peer = Peer::open(Options::default());
    let several = [0, 1, 2].map(|_| peer.machine.publish(&publish("a", "x")).unwrap());
    peer.serve();
    peer.method(1, &channel_close(404, "NOT_FOUND - no exchange 'a'"));
    let errors = several.map(|promise| peer.error(promise));
    for error in &errors[..2] {
        assert!(
            matches!(error, Error::Unconfirmed(why) if matches!(**why, Error::NotFound(_))),
            "{error}"
        );
    }
    assert!(matches!(errors[2], Error::NotFound(_)));
}

#[test]
fn v03_error_before_first_confirm_fails_the_first_publish() {
    let mut peer = Peer::open(Options::default());
    let several = [0, 1].map(|_| peer.machine.publish(&publish("a", "x")).unwrap());
    peer.take();
    peer.method(1, &channel::OpenOk {});
    peer.method(1, &confirm::SelectOk {});
    peer.method(
        1,
        &channel_close(406, "PRECONDITION_FAILED - invalid message"),
    );
    let [first, second] = several.map(|promise| peer.error(promise));
    assert!(matches!(first, Error::PreconditionFailed(_)));
    assert!(matches!(second, Error::Unconfirmed(_)));
}

#[test]
fn v03_publish_error_is_exact_only_for_lone_publishes() {
    let mut peer = Peer::open(Options::default());
    let only = peer.machine.publish(&publish("a", "x")).unwrap();
    peer.serve();
    peer.method(
        1,
        &channel_close(406, "PRECONDITION_FAILED - invalid expiration"),
    );
    assert!(matches!(peer.error(only), Error::PreconditionFailed(_)));
    let several = [0, 1].map(|_| peer.machine.publish(&publish("a", "x")).unwrap());
    let number = peer.serve().last().unwrap().channel;
    peer.method(
        number,
        &channel_close(406, "PRECONDITION_FAILED - invalid expiration"),
    );
    for promise in several {
        assert!(matches!(peer.error(promise), Error::Unconfirmed(why)
            if matches!(*why, Error::PreconditionFailed(_))));
    }
}

#[test]
fn v03_timed_out_publish_may_still_cause_the_error() {
    let second = std::time::Duration::from_secs(1);
    let mut peer = Peer::open_with(Options::default().heartbeat(0), crate::peer::tune(0, 0, 0));
    let late = peer.machine.publish(&publish("a", "x")).unwrap();
    peer.serve();
    peer.pass(35 * second);
    assert!(matches!(peer.error(late), Error::Unconfirmed(_)));
    let innocent = peer.machine.publish(&publish("a", "y")).unwrap();
    peer.serve();
    peer.method(
        1,
        &channel_close(406, "PRECONDITION_FAILED - invalid expiration"),
    );
    let error = peer.error(innocent);
    assert!(
        matches!(error, Error::Unconfirmed(_)),
        "two were in flight, so the cause is uncertain: {error:?}"
    );
}

#[test]
fn return_behind_its_confirm_answers_the_call() {
    let mut peer = Peer::open(Options::default());
    let call = peer.machine.call(&publish("", "x"), None).unwrap();
    let sent = peer.serve();
    peer.method(1, &ack(1, false));
    returned(&mut peer, &headers(&sent), b"x");
    assert!(matches!(peer.error(call), Error::NoRoute(_)));
}

#[test]
fn refusal_while_the_connection_closes_is_reported() {
    let mut peer = Peer::open(Options::default());
    let listener = peer.machine.listen();
    unconfirmed(&mut peer, "a");
    peer.serve();
    let closed = peer.machine.close();
    assert_eq!(peer.names(), ["0 connection.close"]);
    assert!(
        peer.machine.take_notice(listener).is_none(),
        "the last notice arrives last"
    );
    let late = peer.machine.listen();
    peer.method(1, &channel_close(404, "NOT_FOUND - no exchange 'a'"));
    assert!(peer.names().is_empty(), "nothing completes while it closes");
    peer.method(0, &puka::protocol::method::connection::CloseOk {});
    peer.expect_done(closed);
    for listener in [listener, late] {
        let notice = peer.machine.take_notice(listener);
        assert!(
            matches!(&notice, Some(Notice::ChannelClosed(Error::NotFound(_)))),
            "{notice:?}"
        );
        assert!(matches!(
            peer.machine.take_notice(listener),
            Some(Notice::Closed(Error::Closed))
        ));
        assert!(peer.machine.take_notice(listener).is_none());
    }
    let after = peer.machine.listen();
    assert!(matches!(
        peer.machine.take_notice(after),
        Some(Notice::Closed(Error::Closed))
    ));
}

#[test]
fn listeners_receive_an_unanswered_close() {
    let mut peer = Peer::open(Options::default());
    let listener = peer.machine.listen();
    let _closed = peer.machine.close();
    peer.pass(Duration::from_secs(60));
    assert!(matches!(
        peer.machine.take_notice(listener),
        Some(Notice::Closed(Error::Closed))
    ));
    assert!(peer.machine.take_notice(listener).is_none());
}
