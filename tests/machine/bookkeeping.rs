//! What is counted, recorded and reported.

use crate::peer::{Peer, channel_close, consume, declare, tune};
use puka::machine::{Notice, Reply};
use puka::protocol::method::{basic, channel};
use puka::{Broken, Error, Options, Recovery};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn record_is_not_reported_without_recovery() {
    let mut peer = Peer::undialled(Options::default().heartbeat(0).recovery(None));
    peer.dial();
    peer.complete_handshake(tune(2047, 131_072, 0));
    let listener = peer.machine.listen();
    let declared = peer.machine.request(declare("q")).unwrap();
    peer.serve();
    assert!(matches!(
        peer.machine.fetch(declared),
        Some(Ok(Reply::Queue(_)))
    ));
    let notice: Option<Notice> = peer.machine.take_notice(listener);
    assert!(notice.is_none(), "{notice:?}");
}

#[test]
fn failed_handshake_is_counted() {
    let mut peer = Peer::undialled(
        Options::default()
            .heartbeat(0)
            .recovery(Recovery::default().seed(7).retry_first_connect(true)),
    );
    peer.dial();
    peer.names();
    peer.feed(&crate::peer::start(&crate::peer::rabbitmq(), b"NONE"));
    assert_eq!(peer.machine.counters().failed_attempts, 1);
}

fn recovering() -> Options {
    Options::default()
        .recovery(Recovery::default().seed(7).filter(|_| true))
        .close_timeout(10 * SECOND)
}

/// Returns a client whose filter runs while it recovers.
fn with_filter() -> Peer {
    let mut peer = Peer::dialled(recovering());
    let declared = peer.machine.request(declare("kept")).unwrap();
    peer.serve();
    assert!(matches!(
        peer.machine.fetch(declared),
        Some(Ok(Reply::Queue(_)))
    ));
    peer.runs_filters = false;
    peer.machine.handle_loss(Broken::Eof);
    peer.dial();
    peer.complete_handshake(tune(2047, 131_072, 60));
    peer
}

#[test]
fn close_expires_while_the_filter_runs() {
    let mut peer = with_filter();
    let listener = peer.machine.listen();
    let step = peer.machine.poll_filter().unwrap();
    let sent = peer.machine.request(declare("x")).unwrap();
    let closing = peer.machine.close();
    peer.pass(5 * SECOND);
    assert!(matches!(
        peer.error(closing),
        Error::CloseIncomplete { pending: 1 }
    ));
    assert!(matches!(peer.error(sent), Error::Closed));
    peer.machine.handle_filter(step.run());
    assert!(peer.names().is_empty());
    assert!(peer.machine.is_idle() && peer.machine.is_over());
    assert!(peer.machine.poll_filter().is_none() && !peer.machine.has_event());
    let told: Vec<_> = std::iter::from_fn(|| peer.machine.take_notice(listener)).collect();
    assert!(matches!(told[..], [Notice::Closed(_)]), "{told:?}");
}

#[test]
fn close_waits_for_the_filter() {
    let mut peer = with_filter();
    let step = peer.machine.poll_filter().unwrap();
    let sent = peer.machine.request(declare("x")).unwrap();
    let closing = peer.machine.close();
    peer.pass(4 * SECOND);
    peer.machine.handle_filter(step.run());
    peer.runs_filters = true;
    peer.serve();
    assert!(matches!(
        peer.machine.fetch(sent),
        Some(Ok(Reply::Queue(_)))
    ));
    peer.expect_done(closing);
}

#[test]
fn closed_connection_runs_no_filter() {
    let mut peer = with_filter();
    let closing = peer.machine.close();
    peer.pump();
    peer.expect_done(closing);
    assert!(!peer.machine.has_event() && peer.machine.poll_filter().is_none());
}

/// Deletes a queue with a consumer while another consumer of it starts or is being cancelled.
/// Returns what is written after a loss.
fn after_deleting(other: Option<Other>) -> Vec<String> {
    let mut peer = Peer::dialled(Options::default().recovery(Recovery::default().seed(7)));
    let declared = peer.machine.request(declare("q")).unwrap();
    peer.serve();
    assert!(matches!(
        peer.machine.fetch(declared),
        Some(Ok(Reply::Queue(_)))
    ));
    let (_, number, tag) = peer.consumer(&consume("q"));
    let cancel = basic::Cancel {
        consumer_tag: crate::peer::short(&tag),
        nowait: true,
    };
    match other {
        Some(Other::Starts) => {
            let other = peer.machine.consume(&consume("q")).unwrap();
            let sent = peer.take();
            let sent = sent
                .iter()
                .find(|sent| sent.is(basic::Consume::ID))
                .unwrap();
            peer.method(sent.channel, &channel::OpenOk {});
            peer.method(number, &cancel);
            let text = "NOT_FOUND - no queue 'q' in vhost '/'";
            peer.method(sent.channel, &channel_close(404, text));
            assert!(matches!(peer.error(other), Error::NotFound(_)));
        }
        Some(Other::IsCancelled) => {
            let (other, channel, tag) = peer.consumer(&consume("q"));
            peer.machine.cancel(other).unwrap();
            peer.take();
            peer.method(number, &cancel);
            let consumer_tag = crate::peer::short(&tag);
            peer.method(channel, &basic::CancelOk { consumer_tag });
        }
        None => peer.method(number, &cancel),
    }
    peer.take();
    peer.machine.handle_loss(Broken::Eof);
    peer.dial();
    peer.complete_handshake(tune(2047, 131_072, 60));
    peer.serve().iter().map(crate::peer::Sent::name).collect()
}

enum Other {
    Starts,
    IsCancelled,
}

#[test]
fn deleted_queue_is_not_declared_again() {
    for other in [None, Some(Other::Starts), Some(Other::IsCancelled)] {
        let sent = after_deleting(other);
        assert!(!sent.iter().any(|it| it.contains("declare")), "{sent:?}");
    }
}

#[test]
fn close_while_down_is_no_failed_attempt() {
    let mut peer = Peer::dialled(recovering());
    peer.machine.handle_loss(Broken::Eof);
    let _closing = peer.machine.close();
    peer.pump();
    let counters = peer.machine.counters();
    assert_eq!((counters.lost, counters.failed_attempts), (1, 0));
}
