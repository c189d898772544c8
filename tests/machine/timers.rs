//! Heartbeats and stalled transports, in virtual time.

use crate::peer::{Peer, consume, declare, publish, raw, tune};
use puka::machine::Outgoing;
use puka::protocol::method::connection;
use puka::{Broken, Error, Options};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn with_heartbeat(seconds: u16) -> Peer {
    let mut peer = Peer::open_with(Options::default(), tune(0, 0, seconds));
    peer.pump();
    peer
}

#[test]
fn e49_heartbeat_is_sent_after_half_an_idle_timeout() {
    let mut peer = with_heartbeat(2);
    for _ in 0..10 {
        peer.feed(&raw(8, 0, b""));
        peer.pass(SECOND - Duration::from_millis(1));
        assert!(peer.names().is_empty());
        peer.pass(Duration::from_millis(1));
        assert_eq!(peer.names(), ["heartbeat"]);
    }
    // Any other output replaces one.
    peer.pass(SECOND / 2);
    let _request = peer.machine.request(declare("q")).unwrap();
    peer.feed(&raw(8, 0, b""));
    assert_eq!(peer.names().len(), 2);
    peer.pass(SECOND - Duration::from_millis(1));
    assert!(peer.names().is_empty());
}

#[test]
fn e49_timeout_of_one_second_does_not_flood() {
    let mut peer = with_heartbeat(1);
    for _ in 0..100 {
        peer.feed(&raw(8, 0, b""));
        peer.pass(SECOND / 10);
    }
    assert_eq!(peer.names().len(), 20);
}

#[test]
fn e49_e50_silent_server_is_lost_after_1_25_timeouts() {
    let mut peer = with_heartbeat(4);
    let request = peer.machine.request(declare("q")).unwrap();
    peer.pass(5 * SECOND - Duration::from_millis(1));
    assert!(peer.machine.why_closed().is_none());
    peer.pass(Duration::from_millis(1));
    assert!(matches!(
        peer.close_reason(),
        Error::ConnectionBroken(Broken::HeartbeatMissed(_))
    ));
    assert!(
        matches!(peer.error(request), Error::ConnectionBroken(Broken::HeartbeatMissed(time))
            if time == 5 * SECOND)
    );
    assert!(peer.machine.is_over());
}

#[test]
fn e49_any_received_byte_restarts_the_heartbeat_timeout() {
    let mut peer = with_heartbeat(4);
    for byte in raw(3, 1, &[0; 50]) {
        peer.feed(&[byte]);
        peer.pass(4 * SECOND);
        if peer.machine.is_closed() {
            break;
        }
    }
    // The frame is unwanted, but it was read to its end.
    assert!(
        matches!(peer.close_reason(), Error::ChannelError(_)),
        "{:?}",
        peer.close_reason()
    );
}

#[test]
fn e49_heartbeats_start_with_tune_ok_and_open_ok() {
    let mut peer = Peer::new(Options::default().handshake_timeout(100 * SECOND));
    peer.names();
    peer.feed(&crate::peer::start(&crate::peer::rabbitmq(), b"PLAIN"));
    peer.method(0, &tune(0, 0, 2));
    peer.names();
    peer.pass(10 * SECOND);
    assert_eq!(peer.names().len(), 10);
    assert!(peer.machine.why_closed().is_none(), "Errata 13");
    peer.method(0, &puka::protocol::method::connection::OpenOk {});
    peer.pass(10 * SECOND);
    assert!(matches!(
        peer.close_reason(),
        Error::ConnectionBroken(Broken::HeartbeatMissed(_))
    ));
}

#[test]
fn e49_late_program_reads_before_declaring_a_loss() {
    let mut peer = with_heartbeat(4);
    peer.now += 3600 * SECOND;
    peer.machine.handle_timeout(peer.now);
    assert!(peer.machine.why_closed().is_none());
    peer.feed(&raw(8, 0, b""));
    peer.pass(4 * SECOND);
    assert!(peer.machine.why_closed().is_none());
    peer.pass(2 * SECOND);
    assert!(peer.machine.why_closed().is_some());
}

#[test]
fn e49_disabled_heartbeat_sends_and_watches_nothing() {
    let mut peer = Peer::open_with(Options::default().heartbeat(0), tune(0, 0, 0));
    peer.pump();
    assert_eq!(peer.machine.poll_timeout(), None);
    peer.pass(1_000_000 * SECOND);
    assert!(peer.names().is_empty() && peer.machine.why_closed().is_none());
}

#[test]
fn e46_paused_reading_does_not_count_as_silence() {
    // However long the pause, the server's data from that time can still be read.
    for pause in [1, 2, 3, 4, 5, 6, 7, 8, 20] {
        let mut peer =
            Peer::open_with(Options::default().max_buffered_deliveries(2), tune(0, 0, 4));
        let (id, channel, tag) = peer.consumer(&consume("q"));
        peer.deliver(channel, &tag, 1, b"x");
        peer.deliver(channel, &tag, 2, b"x");
        assert!(!peer.machine.wants_input());
        peer.pass(pause * SECOND);
        assert!(peer.machine.why_closed().is_none(), "{pause} s");
        assert_eq!(peer.take_deliveries(id).len(), 2);
        assert!(peer.machine.wants_input());
        // The driver writes, checks the time, and only then reads.
        peer.pass(Duration::ZERO);
        assert!(
            peer.machine.why_closed().is_none(),
            "after a pause of {pause} s: {:?}",
            peer.machine.why_closed()
        );
        peer.feed(&raw(8, 0, b""));
        peer.pass(5 * SECOND);
        assert!(
            peer.machine.why_closed().is_some(),
            "and then silence counts again"
        );
    }
}

#[test]
fn e46_our_heartbeats_go_on_while_reading_is_paused() {
    let mut peer = Peer::open_with(Options::default().max_buffered_deliveries(1), tune(0, 0, 4));
    let (_, channel, tag) = peer.consumer(&consume("q"));
    peer.deliver(channel, &tag, 1, b"x");
    peer.names();
    peer.pass(20 * SECOND);
    assert_eq!(peer.names().len(), 10);
}

#[test]
fn e50_stuck_transport_is_given_up_at_its_deadline() {
    let mut peer = with_heartbeat(4);
    let mut out = Outgoing::default();
    let request = peer.machine.request(declare("q")).unwrap();
    let mut seconds = 0;
    while peer.machine.why_closed().is_none() {
        peer.machine.poll_transmit(peer.now, &mut out);
        peer.now += SECOND;
        seconds += 1;
        peer.feed(&raw(8, 0, b""));
        peer.machine.handle_timeout(peer.now);
    }
    assert!(matches!(
        peer.error(request),
        Error::ConnectionBroken(Broken::WriteStalled(_))
    ));
    assert!((4..=8).contains(&seconds), "{seconds} s");
}

#[test]
fn e50_slow_transport_is_not_given_up() {
    let mut peer = with_heartbeat(4);
    let mut out = Outgoing::default();
    let _sent = peer
        .machine
        .publish(&crate::peer::publish("", vec![7; 100_000]))
        .unwrap();
    for _ in 0..60 {
        peer.machine.poll_transmit(peer.now, &mut out);
        out.advance(1);
        peer.machine.handle_transmitted(peer.now, 1);
        peer.now += SECOND;
        peer.feed(&raw(8, 0, b""));
        peer.machine.handle_timeout(peer.now);
        assert!(peer.machine.why_closed().is_none());
    }
}

#[test]
fn call_may_have_no_timeout() {
    let mut peer = Peer::open_with(Options::default().heartbeat(0), tune(0, 0, 0));
    peer.pump();
    let call = peer
        .machine
        .call(&publish("", "x"), Some(Duration::MAX))
        .unwrap();
    peer.pump();
    peer.pass(SECOND);
    assert!(peer.machine.why_closed().is_none());
    assert!(peer.is_pending(call));
}

#[test]
fn e50_stall_ends_exactly_two_timeouts_after_progress() {
    let mut peer = with_heartbeat(4);
    let mut out = Outgoing::default();
    let _request = peer.machine.request(declare("q")).unwrap();
    peer.machine.poll_transmit(peer.now, &mut out);
    // Heartbeats are due at other instants than the end of the stall.
    peer.now += Duration::from_millis(500);
    peer.machine.handle_transmitted(peer.now, 1);
    let progress = peer.now;
    while peer.machine.why_closed().is_none() {
        peer.machine.poll_transmit(peer.now, &mut out);
        peer.now = peer.machine.poll_timeout().unwrap();
        peer.feed(&raw(8, 0, b""));
        peer.machine.handle_timeout(peer.now);
    }
    assert_eq!(peer.now - progress, 8 * SECOND);
}

#[test]
fn e50_blocked_time_does_not_count_as_stall() {
    let mut peer = with_heartbeat(4);
    let mut out = Outgoing::default();
    let _request = peer.machine.request(declare("q")).unwrap();
    let mut pass = |peer: &mut Peer, seconds| {
        for _ in 0..seconds {
            peer.machine.poll_transmit(peer.now, &mut out);
            peer.now += SECOND;
            peer.feed(&raw(8, 0, b""));
            peer.machine.handle_timeout(peer.now);
        }
        peer.machine.why_closed().is_some()
    };
    let reason = crate::peer::short("low on memory");
    peer.method(0, &connection::Blocked { reason });
    assert!(!pass(&mut peer, 60));
    peer.method(0, &connection::Unblocked {});
    assert!(!pass(&mut peer, 7));
    assert!(pass(&mut peer, 1));
}
