//! Publishes without confirms: their channel, order, bounds and refusals.

use crate::peer::{Peer, Sent, ack, channel_close, publish, short};
use puka::machine::Notice;
use puka::protocol::method::{basic, channel, connection};
use puka::{Error, Options, Recovery};

pub(crate) fn unconfirmed(peer: &mut Peer, exchange: &str) -> puka::machine::PromiseId {
    peer.machine
        .publish_unconfirmed(&publish(exchange, "x"))
        .unwrap()
}

#[test]
fn publish_without_confirm_completes_on_its_own_channel() {
    let mut peer = Peer::open(Options::default());
    let confirmed = peer.machine.publish(&publish("", "x")).unwrap();
    for _ in 0..2 {
        let promise = unconfirmed(&mut peer, "");
        peer.expect_done(promise);
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
    peer.expect_done(confirmed);
    assert!(peer.machine.is_idle());
}

#[test]
fn publish_without_confirm_refuses_mandatory_and_immediate() {
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
fn refused_publish_without_confirm_becomes_a_notice() {
    let mut peer = Peer::open(Options::default());
    let listener = peer.machine.listen();
    let promise = unconfirmed(&mut peer, "a");
    peer.expect_done(promise);
    peer.serve();
    peer.method(1, &channel_close(404, "NOT_FOUND - no exchange 'a'"));
    let notice = peer.machine.take_notice(listener);
    assert!(
        matches!(&notice, Some(Notice::ChannelClosed(Error::NotFound(_)))),
        "{notice:?}"
    );
    let promise = unconfirmed(&mut peer, "a");
    peer.expect_done(promise);
    let names: Vec<_> = peer.serve().iter().map(Sent::name).collect();
    assert_eq!(
        names[..3],
        ["1 channel.close-ok", "1 channel.open", "1 basic.publish"],
        "{names:?}"
    );
    assert!(peer.machine.is_idle());
}

#[test]
fn refusal_on_a_channel_being_replaced_becomes_notice() {
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
fn order_without_confirms_survives_a_replaced_channel() {
    let mut peer = Peer::open(Options::default().publish_channels(1));
    peer.machine
        .publish_unconfirmed(&publish("a", &[7; 1 << 20]))
        .unwrap();
    unconfirmed(&mut peer, "b");
    let last = unconfirmed(&mut peer, "a");
    assert!(
        peer.is_pending(last),
        "the first publish may not have reached the broker"
    );
    let names: Vec<_> = peer.names();
    assert!(names.contains(&"1 channel.close".to_owned()), "{names:?}");
    assert_eq!(
        names.iter().filter(|name| name.contains("publish")).count(),
        2,
        "{names:?}"
    );
    peer.method(1, &channel::CloseOk {});
    peer.expect_done(last);
    assert!(peer.names().iter().any(|name| name.contains("publish")));
}

#[test]
fn publishes_without_confirms_use_few_channels() {
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
    promises
        .into_iter()
        .for_each(|promise| peer.expect_done(promise));
    assert!(peer.machine.is_idle());
}

#[test]
fn blocked_publish_without_confirm_times_out() {
    let mut peer = Peer::open(Options::default());
    peer.method(
        0,
        &connection::Blocked {
            reason: short("low on memory"),
        },
    );
    let delayed = unconfirmed(&mut peer, "");
    assert!(peer.is_pending(delayed));
    assert!(peer.names().is_empty());
    peer.method(0, &connection::Unblocked {});
    peer.expect_done(delayed);
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
        "an overdue publish is not sent"
    );
}

#[test]
fn publishes_without_confirms_are_bounded_by_bytes_only() {
    let options = Options::default()
        .max_publishes_in_flight(1)
        .max_outgoing_bytes(10_000);
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
fn confirm_on_unconfirmed_channel_is_answered_by_503() {
    let mut peer = Peer::open(Options::default());
    unconfirmed(&mut peer, "");
    peer.serve();
    peer.method(1, &ack(1, false));
    assert!(
        matches!(peer.close_reason(), Error::CommandInvalid(_)),
        "{:?}",
        peer.close_reason()
    );
}

#[test]
fn confirm_of_unknown_publishes_forgets_nothing_kept() {
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
        assert!(peer.machine.is_down(), "{it:?} is an error of the server");
        peer.dial();
        peer.complete_handshake(crate::peer::tune(2047, 131_072, 60));
        let sent = peer.serve();
        assert_eq!(
            sent.iter()
                .filter(|sent| sent.is(basic::Publish::ID))
                .count(),
            2,
            "{it:?}"
        );
        peer.method(1, &ack(2, true));
        promises
            .into_iter()
            .for_each(|promise| peer.expect_done(promise));
    }
}

#[test]
fn only_unknown_outcomes_are_counted_as_unconfirmed() {
    let mut peer = Peer::open(Options::default());
    let confirmed = peer.machine.publish(&publish("", "x")).unwrap();
    let request = peer.machine.request(crate::peer::declare("q")).unwrap();
    peer.serve();
    peer.method(1, &crate::peer::ack(1, false));
    peer.expect_done(confirmed);
    assert!(matches!(peer.machine.fetch(request), Some(Ok(_))));
    let refused = peer.machine.request(crate::peer::declare("q")).unwrap();
    let channel = peer.take().last().unwrap().channel;
    peer.method(channel, &channel_close(406, "PRECONDITION_FAILED - ?"));
    assert!(matches!(peer.error(refused), Error::PreconditionFailed(_)));
    assert_eq!(peer.machine.counters().unconfirmed, 0);
    let lost = peer.machine.publish(&publish("", "x")).unwrap();
    peer.serve();
    peer.machine.handle_loss(puka::Broken::Eof);
    assert!(matches!(peer.error(lost), Error::Unconfirmed(_)));
    assert_eq!(peer.machine.counters().unconfirmed, 1);
}
