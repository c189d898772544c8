//! Publishes on their way out: what is refused, what waits, what a return finds.

use crate::peer::{Peer, Sent, ack, channel_close, publish, short};
use puka::machine::{Notice, Publish};
use puka::protocol::method::{basic, channel, confirm, connection};
use puka::protocol::{ContentHeader, Properties, ShortStr, Table, Value};
use puka::{Error, Options, Recovery};
use std::time::Duration;

/// The headers of the last publish that was written.
fn headers(sent: &[Sent]) -> Table {
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

fn returned(peer: &mut Peer, headers: &Table, body: &[u8]) {
    let mut properties = Properties::default();
    properties.headers = Some(headers.as_ref().into());
    let it = basic::Return {
        reply_code: 312,
        reply_text: short("NO_ROUTE"),
        exchange: ShortStr::EMPTY,
        routing_key: short("key"),
    };
    let mut octets = crate::peer::method(1, &it);
    octets.extend(crate::peer::header(1, body.len() as u64, properties));
    octets.extend(crate::peer::raw(3, 1, body));
    peer.feed(&octets);
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
fn e34_a_return_finds_its_own_publish_among_equal_ones() {
    let mut peer = Peer::open(Options::default());
    let (first, _) = mandatory(&mut peer, None);
    let (second, stamp) = mandatory(&mut peer, None);
    let (third, _) = mandatory(&mut peer, None);
    returned(&mut peer, &stamp, b"same body");
    peer.method(1, &ack(1, false));
    peer.done(first);
    match peer.error(second) {
        Error::NoRoute(returned) => {
            assert_eq!(
                (returned.reply_code.value(), &*returned.reply_text),
                (312, "NO_ROUTE")
            );
            assert_eq!(returned.message.body(), b"same body");
            assert!(
                returned.message.headers().unwrap().is_empty(),
                "our header is taken off again"
            );
        }
        other => panic!("{other:?}"),
    }
    assert!(peer.is_pending(third));
    peer.method(1, &ack(3, true));
    peer.done(third);
    assert!(peer.machine.is_idle());
}

#[test]
fn e34_a_returned_message_that_is_published_again_has_a_stamp_of_its_own() {
    let mut peer = Peer::open(Options::default());
    let (_, old) = mandatory(&mut peer, None);
    let (promise, stamps) = mandatory(&mut peer, Some(&old));
    assert_eq!(
        stamps.get("x-puka-publish"),
        Some(Value::I64(2)),
        "the first of a name is the one that counts"
    );
    returned(&mut peer, &stamps, b"same body");
    assert!(matches!(peer.error(promise), Error::NoRoute(_)));
}

#[test]
fn e34_a_return_that_belongs_to_nothing_does_no_harm() {
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
fn s52_s54_returns_under_one_multiple_ack_find_their_own_publishes() {
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
    // Every other mandatory one comes back, in any order, and a single frame confirms them all.
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
            peer.done(promise);
        }
    }
    assert!(peer.machine.is_idle());
}

#[test]
fn s53_s54_a_mandatory_message_is_routed_returned_refused_or_unknown() {
    let mut peer = Peer::open(Options::default());
    let [
        (routed, _),
        (back, stamp),
        (refused, _),
        (both, second),
        (unknown, _),
    ] = [0; 5].map(|_| mandatory(&mut peer, None));
    returned(&mut peer, &stamp, b"same body");
    // Returned and refused: it came back, which is all there is to know.
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
    peer.done(routed);
    assert!(matches!(peer.error(back), Error::NoRoute(_)));
    assert!(matches!(peer.error(both), Error::NoRoute(_)));
    assert!(matches!(peer.error(refused), Error::Nacked));
    assert!(
        matches!(peer.error(unknown), Error::Unconfirmed(cause) if cause.is_connection_broken())
    );
}

#[test]
fn s51_a_body_that_was_handed_over_can_be_changed() {
    let mut peer = Peer::open(Options::default());
    for size in [3, 300_000] {
        let mut body = vec![1_u8; size];
        let promise = peer.machine.publish(&publish("", &body[..])).unwrap();
        body.fill(2);
        let sent = peer.serve();
        let bodies = sent.iter().filter(|sent| sent.name().contains("body"));
        let octets: Vec<u8> = bodies.flat_map(|sent| sent.payload.clone()).collect();
        assert!(octets.len() == size && octets.iter().all(|octet| *octet == 1));
        peer.method(1, &ack(0, true));
        peer.done(promise);
    }
}

#[test]
fn e37_channel_flow_is_answered_and_holds_back_only_its_channel() {
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
        "another exchange is not concerned: {names:?}"
    );
}

#[test]
fn e37_what_a_flow_held_back_follows_in_order() {
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
    promises.into_iter().for_each(|promise| peer.done(promise));
}

#[test]
fn e38_the_frames_of_a_message_stand_together_and_outlive_their_future() {
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
    // And one that was held when nothing was known of the server.
    let mut peer = Peer::new(Options::default());
    let promise = peer.machine.publish(&it).unwrap();
    peer.shake_hands(crate::peer::tune(0, 0, 0));
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
fn e12_what_a_broker_would_close_the_channel_over_is_refused() {
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
fn e26_a_missing_exchange_fails_all_publishes_to_it_and_only_those() {
    let mut peer = Peer::open(Options::default());
    let wrong: Vec<_> = (0..3)
        .map(|_| peer.machine.publish(&publish("a", "x")).unwrap())
        .collect();
    let fine = peer.machine.publish(&publish("b", "x")).unwrap();
    // The broker takes one thing after the other, so it does not answer what stands behind the
    // first publish.
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
    peer.done(again);
}

#[test]
fn v03_an_exchange_that_goes_midway_refuses_the_last_and_who_knows_which_others() {
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
fn v03_before_the_first_publish_has_gone_through_an_error_is_its_own() {
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
fn v03_an_error_of_one_publish_is_the_answer_only_when_it_was_the_only_one() {
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
        assert!(
            matches!(peer.error(promise), Error::Unconfirmed(why) if matches!(*why, Error::PreconditionFailed(_)))
        );
    }
}

#[test]
fn v03_a_publish_that_timed_out_still_counts_as_one_that_may_be_at_fault() {
    let second = std::time::Duration::from_secs(1);
    let mut peer = Peer::tuned(Options::default().heartbeat(0), crate::peer::tune(0, 0, 0));
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
        "two were in flight, so nobody can know: {error:?}"
    );
}

fn unconfirmed(peer: &mut Peer, exchange: &str) -> puka::machine::PromiseId {
    peer.machine
        .publish_unconfirmed(&publish(exchange, "x"))
        .unwrap()
}

#[test]
fn without_a_confirm_it_is_done_at_once_on_a_channel_of_its_own() {
    let mut peer = Peer::open(Options::default());
    let confirmed = peer.machine.publish(&publish("", "x")).unwrap();
    for _ in 0..2 {
        let promise = unconfirmed(&mut peer, "");
        peer.done(promise);
    }
    let names: Vec<_> = peer.serve().iter().map(Sent::name).collect();
    let on_2: Vec<_> = names.iter().filter(|name| name.starts_with('2')).collect();
    let content = ["2 basic.publish", "2 header 1", "2 body 1"];
    assert_eq!(
        on_2,
        [&["2 channel.open"][..], &content, &content].concat(),
        "{names:?}"
    );
    assert!(peer.is_pending(confirmed));
    peer.method(1, &ack(1, false));
    peer.done(confirmed);
    assert!(peer.machine.is_idle());
}

#[test]
fn without_a_confirm_nothing_can_come_back() {
    let mut peer = Peer::open(Options::default());
    for (name, mandatory, immediate) in [("mandatory", true, false), ("immediate", false, true)] {
        let mut it = publish("", "x");
        (it.mandatory, it.immediate) = (mandatory, immediate);
        let refused = peer.machine.publish_unconfirmed(&it);
        assert!(
            matches!(refused, Err(Error::InvalidArgument { what, .. }) if what == name),
            "{name}: {refused:?}"
        );
    }
    assert!(peer.names().is_empty());
}

#[test]
fn without_a_confirm_a_refusal_is_a_notice_and_the_next_has_another_channel() {
    let mut peer = Peer::open(Options::default());
    let listener = peer.machine.listen();
    let promise = unconfirmed(&mut peer, "a");
    peer.done(promise);
    peer.serve();
    peer.method(1, &channel_close(404, "NOT_FOUND - no exchange 'a'"));
    let notice = peer.machine.take_notice(listener);
    assert!(
        matches!(&notice, Some(Notice::ChannelClosed(Error::NotFound(_)))),
        "{notice:?}"
    );
    let promise = unconfirmed(&mut peer, "a");
    peer.done(promise);
    let names: Vec<_> = peer.serve().iter().map(Sent::name).collect();
    assert_eq!(
        names[..3],
        ["1 channel.close-ok", "1 channel.open", "1 basic.publish"],
        "{names:?}"
    );
    assert!(peer.machine.is_idle());
}

#[test]
fn without_a_confirm_a_refusal_is_told_of_a_channel_that_was_to_make_room() {
    let mut peer = Peer::open(Options::default().publish_channels(1));
    let listener = peer.machine.listen();
    unconfirmed(&mut peer, "a");
    peer.serve();
    unconfirmed(&mut peer, "b");
    assert!(peer.names().contains(&"1 channel.close".to_owned()));
    peer.method(1, &channel_close(404, "NOT_FOUND - no exchange 'a'"));
    let notice = peer.machine.take_notice(listener);
    assert!(
        matches!(&notice, Some(Notice::ChannelClosed(Error::NotFound(_)))),
        "{notice:?}"
    );
}

#[test]
fn without_confirms_the_order_is_kept_when_a_channel_makes_room_and_comes_back() {
    let mut peer = Peer::open(Options::default().publish_channels(1));
    peer.machine
        .publish_unconfirmed(&publish("a", &[7; 1 << 20]))
        .unwrap();
    unconfirmed(&mut peer, "b");
    let last = unconfirmed(&mut peer, "a");
    assert!(
        peer.is_pending(last),
        "the first to it may not be with the broker yet"
    );
    let names: Vec<_> = peer.names();
    assert!(names.contains(&"1 channel.close".to_owned()), "{names:?}");
    assert_eq!(
        names.iter().filter(|name| name.contains("publish")).count(),
        2,
        "{names:?}"
    );
    peer.method(1, &channel::CloseOk {});
    peer.done(last);
    assert!(peer.names().iter().any(|name| name.contains("publish")));
}

#[test]
fn without_confirms_publishes_to_many_exchanges_use_few_channels() {
    let mut peer = Peer::open(Options::default().publish_channels(3));
    let promises: Vec<_> = (0..20)
        .map(|number| unconfirmed(&mut peer, &number.to_string()))
        .collect();
    assert!(
        peer.machine.stats().open_channels <= 4,
        "{}",
        peer.machine.stats().open_channels
    );
    let mut sent = 0;
    for _ in 0..20 {
        sent += peer
            .serve()
            .iter()
            .filter(|sent| sent.name().contains("publish"))
            .count();
    }
    assert_eq!(sent, 20);
    promises.into_iter().for_each(|promise| peer.done(promise));
    assert!(peer.machine.is_idle());
}

#[test]
fn without_a_confirm_it_waits_for_the_brokers_leave_and_its_time_runs_out() {
    let mut peer = Peer::open(Options::default());
    peer.method(
        0,
        &connection::Blocked {
            reason: short("low on memory"),
        },
    );
    let held = unconfirmed(&mut peer, "");
    assert!(peer.is_pending(held));
    assert!(peer.names().is_empty());
    peer.method(0, &connection::Unblocked {});
    peer.done(held);
    let names: Vec<_> = peer.serve().iter().map(Sent::name).collect();
    assert_eq!(
        names,
        [
            "1 channel.open",
            "1 basic.publish",
            "1 header 1",
            "1 body 1"
        ]
    );

    peer.method(
        0,
        &connection::Blocked {
            reason: short("low on memory"),
        },
    );
    let late = unconfirmed(&mut peer, "");
    peer.pass(std::time::Duration::from_secs(31));
    assert!(matches!(peer.error(late), Error::Timeout { .. }));
    peer.method(0, &connection::Unblocked {});
    assert!(
        !peer.names().iter().any(|name| name.contains("publish")),
        "what is given up is not sent"
    );
}

#[test]
fn without_confirms_many_are_bounded_by_octets_and_not_by_their_number() {
    let options = Options::default()
        .max_publishes_in_flight(1)
        .max_outgoing_octets(10_000);
    let mut peer = Peer::open(options);
    let body = [7; 900];
    let sent = (0..100)
        .take_while(|_| {
            peer.machine
                .publish_unconfirmed(&publish("", &body))
                .is_ok()
        })
        .count();
    assert!((9..=11).contains(&sent), "{sent}");
}

#[test]
fn a_confirm_of_what_asks_for_none_is_answered_by_503() {
    let mut peer = Peer::open(Options::default());
    unconfirmed(&mut peer, "");
    peer.serve();
    peer.method(1, &ack(1, false));
    assert!(
        matches!(peer.why(), Error::CommandInvalid(_)),
        "{:?}",
        peer.why()
    );
}

#[test]
fn a_confirm_of_unknown_publishes_forgets_nothing_kept() {
    for it in [
        ack(u64::MAX, true),
        ack(3, true),
        ack(3, false),
        ack(u64::MAX, false),
    ] {
        let recovery = Recovery::default().republish_unconfirmed(1);
        let mut peer = Peer::dialled(Options::default().recovery(recovery));
        let promises = [0, 1].map(|_| peer.machine.publish(&publish("", "x")).unwrap());
        peer.serve();
        peer.method(1, &it);
        assert!(peer.machine.is_down(), "{it:?} is a fault of the server");
        peer.dial();
        peer.shake_hands(crate::peer::tune(2047, 131_072, 60));
        let sent = peer.serve();
        assert_eq!(
            sent.iter()
                .filter(|sent| sent.is(basic::Publish::ID))
                .count(),
            2,
            "{it:?}"
        );
        peer.method(1, &ack(2, true));
        promises.into_iter().for_each(|promise| peer.done(promise));
    }
}

#[test]
fn a_return_behind_its_confirm_answers_the_call() {
    let mut peer = Peer::open(Options::default());
    let call = peer.machine.call(&publish("", "x"), None).unwrap();
    let sent = peer.serve();
    peer.method(1, &ack(1, false));
    returned(&mut peer, &headers(&sent), b"x");
    assert!(matches!(peer.error(call), Error::NoRoute(_)));
}

#[test]
fn refusal_while_the_connection_closes_is_told() {
    let mut peer = Peer::open(Options::default());
    let listener = peer.machine.listen();
    unconfirmed(&mut peer, "a");
    peer.serve();
    let closed = peer.machine.close();
    assert_eq!(peer.names(), ["0 connection.close"]);
    assert!(
        peer.machine.take_notice(listener).is_none(),
        "the last notice comes last"
    );
    let late = peer.machine.listen();
    peer.method(1, &channel_close(404, "NOT_FOUND - no exchange 'a'"));
    assert!(
        peer.names().is_empty(),
        "while it closes nothing is answered"
    );
    peer.method(0, &puka::protocol::method::connection::CloseOk {});
    peer.done(closed);
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
fn listeners_are_told_of_an_unanswered_close() {
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
