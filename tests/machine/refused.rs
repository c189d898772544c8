//! Consumers that the broker refuses temporarily after a loss are restarted later.

use crate::peer::{
    Peer, Sent, channel_close, consume, declare, deliver, method, raw, reply_to, shared, short,
    tag_of, tune,
};
use puka::machine::{ConnectionState, Consume, ConsumerId, Ended, ListenerId, Notice, Reply};
use puka::protocol::method::{basic, channel, connection};
use puka::protocol::{FrameKind, Method};
use puka::{Broken, Error, Options, Recovered, Recovery};
use std::time::Duration;

const IN_USE: (u16, &str) = (
    403,
    "ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use",
);
const LOCKED: (u16, &str) = (
    405,
    "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q' in vhost '/'. It could \
     be originally declared on another connection or the exclusive property value does not match \
     that of the original declaration.",
);
const NODE_DOWN: (u16, &str) = (
    404,
    "NOT_FOUND - home node 'rabbit@b' of durable queue 'q' in vhost '/' is down or inaccessible",
);
const NO_QUEUE: (u16, &str) = (404, "NOT_FOUND - no queue 'q' in vhost '/'");

/// How long refused consumers are restarted when there are no heartbeats.
const RETRY_LIMIT: Duration = Duration::from_secs(30);

/// Returns an open connection without heartbeats.
fn dialled() -> Peer {
    let mut peer = Peer::undialled(
        Options::default()
            .heartbeat(0)
            .recovery(Recovery::default().seed(7)),
    );
    peer.dial();
    peer.complete_handshake(tune(2047, 131_072, 0));
    peer
}

/// Loses the transport and dials another.
fn reconnect(peer: &mut Peer) {
    peer.machine.handle_loss(Broken::Eof);
    peer.dial();
    peer.complete_handshake(tune(2047, 131_072, 0));
}

fn exclusive(queue: &str) -> Consume<'_> {
    Consume {
        exclusive: true,
        ..consume(queue)
    }
}

/// Returns `true` for a consume of this queue.
fn is_consume_of(queue: &str, sent: &Sent) -> bool {
    let is_it = |it: basic::Consume<'_>| it.queue.as_bytes() == queue.as_bytes();
    sent.kind == FrameKind::Method
        && matches!(sent.method(), Method::Basic(basic::Method::Consume(it)) if is_it(it))
}

/// Serves, and closes the channel over each consume of the queue `q`. Returns everything that was
/// written.
fn serve_refusing(peer: &mut Peer, (code, text): (u16, &str)) -> Vec<Sent> {
    peer.serve_with(|sent| {
        let close = || method(sent.channel, &channel_close(code, text));
        if is_consume_of("q", sent) {
            Some(close())
        } else {
            reply_to(sent)
        }
    })
}

/// The same. Returns the number of consumes of `q`.
pub(crate) fn refuse(peer: &mut Peer, refusal: (u16, &str)) -> usize {
    serve_refusing(peer, refusal)
        .iter()
        .filter(|sent| is_consume_of("q", sent))
        .count()
}

fn consumes(sent: &[Sent]) -> usize {
    sent.iter()
        .filter(|sent| sent.is(basic::Consume::ID))
        .count()
}

fn notices(peer: &mut Peer, listener: ListenerId) -> Vec<Notice> {
    std::iter::from_fn(|| peer.machine.take_notice(listener)).collect()
}

fn reports(notices: &[Notice]) -> Vec<&Recovered> {
    let mut reports = Vec::new();
    for notice in notices {
        if let Notice::Recovered(report) = notice {
            reports.push(&**report);
        }
    }
    reports
}

fn is_open(peer: &Peer) -> bool {
    matches!(peer.machine.state(), ConnectionState::Open)
}

/// Returns a connection whose consumer was refused temporarily after a loss.
fn refused() -> (Peer, ConsumerId, ListenerId) {
    let mut peer = dialled();
    let (id, ..) = peer.consumer(&exclusive("q"));
    let listener = peer.machine.listen();
    reconnect(&mut peer);
    assert_eq!(refuse(&mut peer, IN_USE), 1);
    assert!(is_open(&peer) && !peer.has_ended(id));
    (peer, id, listener)
}

#[test]
fn temporarily_refused_consumer_starts_later() {
    let other = (403, "ACCESS_REFUSED - Queue q is busy");
    let stopped = (
        404,
        "NOT_FOUND - queue 'q' in vhost '/' process is stopped by supervisor",
    );
    let unavailable = (
        506,
        "RESOURCE_ERROR - Stream coordinator unavailable for queue 'q' in vhost '/'",
    );
    let lavinmq = (
        403,
        "ACCESS_REFUSED - Queue 'q' in vhost '/' in exclusive use",
    );
    for (refusal, is_exclusive) in [
        (IN_USE, true),
        (IN_USE, false),
        (lavinmq, false),
        ((405, "RESOURCE_LOCKED - Exclusive queue"), false),
        (other, true),
        (LOCKED, false),
        (NODE_DOWN, false),
        (stopped, false),
        (unavailable, false),
        ((541, "INTERNAL_ERROR"), false),
    ] {
        let mut peer = dialled();
        let listener = peer.machine.listen();
        let it = Consume {
            exclusive: is_exclusive,
            prefetch_count: 7,
            ..consume("q")
        };
        let (id, _, tag) = peer.consumer(&it);
        let (other, ..) = peer.consumer(&consume("other"));
        reconnect(&mut peer);
        assert_eq!(refuse(&mut peer, refusal), 1);
        assert!(is_open(&peer), "{refusal:?}");
        assert!(!peer.has_ended(id) && !peer.has_ended(other), "{refusal:?}");
        let received = notices(&mut peer, listener);
        let [report] = reports(&received)[..] else {
            panic!("{received:?}")
        };
        assert_eq!(
            (report.consumers, report.failed.len()),
            (1, 1),
            "{report:?}"
        );
        assert_eq!(*report.failed[0].0, *format!("consumer {tag:?}"));

        peer.pass(Duration::from_millis(499));
        assert_eq!(peer.names(), [""; 0], "{refusal:?}");
        peer.pass(Duration::from_millis(1));
        let sent = peer.serve();
        let started = sent
            .iter()
            .find(|sent| sent.is(basic::Consume::ID))
            .unwrap();
        let qos = basic::Qos {
            prefetch_size: 0,
            prefetch_count: 7,
            global: false,
        };
        assert!(
            sent.iter()
                .any(|sent| sent.is(basic::Qos::ID) && sent.method() == qos.into())
        );
        assert_eq!(tag_of(started), tag, "{refusal:?}");
        let received = notices(&mut peer, listener);
        assert!(
            matches!(&received[..], [Notice::ConsumerRestored(it)] if **it == *tag),
            "{received:?}"
        );
        peer.content(started.channel, &deliver(&tag, 1), b"m");
        assert_eq!(peer.take_deliveries(id).len(), 1, "{refusal:?}");
        peer.pass(RETRY_LIMIT);
        assert_eq!(consumes(&peer.serve()), 0, "{refusal:?}");
    }
}

#[test]
fn consumer_with_a_final_refusal_ends_at_once() {
    let permission =
        "ACCESS_REFUSED - access to queue 'q' in vhost '/' refused for user 'in exclusive use'";
    let read = "ACCESS_REFUSED - read access to queue 'q' in vhost '/' refused for user 'guest'";
    let lavinmq = "ACCESS_REFUSED - User 'u' doesn't have permissions to queue 'q'";
    let other = (403, "ACCESS_REFUSED - Queue q is busy");
    let named = (
        404,
        "NOT_FOUND - no queue 'home node '' in vhost ' process is stopped by supervisor'",
    );
    for (refusal, is_exclusive) in [
        ((403, permission), true),
        ((403, read), true),
        ((403, lavinmq), true),
        ((404, "NOT_FOUND - Queue 'q' not declared"), true),
        (other, false),
        (NO_QUEUE, true),
        (named, false),
        ((406, "PRECONDITION_FAILED - invalid arg"), true),
    ] {
        let mut peer = dialled();
        let listener = peer.machine.listen();
        let (id, ..) = peer.consumer(&Consume {
            exclusive: is_exclusive,
            ..consume("q")
        });
        reconnect(&mut peer);
        assert_eq!(refuse(&mut peer, refusal), 1);
        assert!(
            matches!(
                peer.machine.consumer(id).and_then(|it| it.ended()),
                Some(Ended::ChannelClosed(_))
            ),
            "{refusal:?}"
        );
        assert_eq!(reports(&notices(&mut peer, listener))[0].failed.len(), 1);
        peer.pass(RETRY_LIMIT);
        assert_eq!(consumes(&peer.serve()), 0, "{refusal:?}");
    }
}

#[test]
fn delays_double_until_the_retry_limit() {
    let (mut peer, id, listener) = refused();
    let start = peer.now;
    let mut retries = Vec::new();
    while !peer.has_ended(id) {
        peer.pass(Duration::from_millis(100));
        if refuse(&mut peer, LOCKED) > 0 {
            retries.push((peer.now - start).as_secs_f32());
        }
        assert!(peer.now - start <= RETRY_LIMIT && is_open(&peer));
    }
    assert_eq!(retries, [0.5, 1.5, 3.5, 7.5, 12.5, 17.5, 22.5, 27.5, 30.0]);
    let ended = peer.machine.consumer(id).and_then(|it| it.ended());
    assert!(
        matches!(ended, Some(Ended::ChannelClosed(Error::ResourceLocked(_)))),
        "{ended:?}"
    );
    peer.pass(RETRY_LIMIT);
    assert_eq!(consumes(&peer.serve()), 0);
    assert_eq!(reports(&notices(&mut peer, listener)).len(), 1);
    // A reported failure is not reported again with the next recovery.
    reconnect(&mut peer);
    peer.serve();
    assert!(reports(&notices(&mut peer, listener))[0].failed.is_empty());
}

#[test]
fn retry_limit_is_three_heartbeat_timeouts() {
    let mut peer = Peer::dialled(
        Options::default()
            .heartbeat(10)
            .recovery(Recovery::default().seed(7)),
    );
    let (id, ..) = peer.consumer(&exclusive("q"));
    peer.reconnect();
    refuse(&mut peer, IN_USE);
    let start = peer.now;
    while !peer.has_ended(id) {
        peer.pass(Duration::from_millis(500));
        peer.feed(&raw(8, 0, b""));
        refuse(&mut peer, IN_USE);
    }
    assert_eq!(peer.now - start, Duration::from_secs(30));
}

#[test]
fn retry_limit_begins_with_each_connection() {
    let (mut peer, id, listener) = refused();
    peer.pass(RETRY_LIMIT - Duration::from_secs(1));
    refuse(&mut peer, IN_USE);
    peer.machine.handle_loss(Broken::Eof);
    peer.pass(Duration::from_secs(60));
    assert!(!peer.has_ended(id));
    peer.dial();
    peer.complete_handshake(tune(2047, 131_072, 0));
    assert_eq!(
        refuse(&mut peer, IN_USE),
        1,
        "it starts with the next connection"
    );
    for _ in 0..290 {
        peer.pass(Duration::from_millis(100));
        refuse(&mut peer, IN_USE);
    }
    assert!(is_open(&peer) && !peer.has_ended(id));
    peer.pass(Duration::from_secs(1));
    peer.serve();
    assert!(!peer.has_ended(id), "the last attempt was successful");
    let received = notices(&mut peer, listener);
    assert!(
        matches!(received.last(), Some(Notice::ConsumerRestored(_))),
        "{received:?}"
    );
}

#[test]
fn requests_go_on_while_a_consumer_waits() {
    let (mut peer, id, _) = refused();
    let promise = peer.machine.request(declare("new")).unwrap();
    peer.serve();
    assert!(matches!(
        peer.machine.fetch(promise),
        Some(Ok(Reply::Queue(_)))
    ));
    // It has one deadline, which does not pass repeatedly.
    let mut timeouts = 0;
    while let Some(at) = peer.machine.poll_timeout().filter(|_| timeouts < 100) {
        peer.now = at;
        peer.machine.handle_timeout(at);
        peer.pump();
        timeouts += 1;
        refuse(&mut peer, IN_USE);
    }
    assert_eq!(timeouts, 9);
    assert!(peer.has_ended(id));
}

#[test]
fn waiting_consumer_carries_out_requests() {
    let (mut peer, id, _) = refused();
    let recovered = peer.machine.recover(id).unwrap();
    peer.expect_done(recovered);
    let cancel = peer.machine.cancel(id).unwrap();
    assert!(matches!(
        peer.machine.fetch(cancel),
        Some(Ok(Reply::Cancelled(_)))
    ));
    assert!(matches!(
        peer.machine.consumer(id).and_then(|it| it.ended()),
        Some(Ended::Cancelled)
    ));
    peer.machine.drop_consumer(id);
    assert_eq!(peer.machine.poll_timeout(), None);

    let (mut peer, id, _) = refused();
    peer.machine.drop_consumer(id);
    assert!(peer.machine.is_idle());
    peer.pass(RETRY_LIMIT);
    assert_eq!(consumes(&peer.serve()), 0);

    let (mut peer, id, _) = refused();
    let qos = peer.machine.qos(id, 5).unwrap();
    peer.pass(Duration::from_millis(500));
    let sent = peer.serve();
    let five = basic::Qos {
        prefetch_size: 0,
        prefetch_count: 5,
        global: false,
    };
    assert!(
        sent.iter()
            .any(|sent| sent.is(basic::Qos::ID) && sent.method() == five.into())
    );
    peer.expect_done(qos);

    let (mut peer, id, _) = refused();
    let closed = peer.machine.close();
    assert!(matches!(
        peer.machine.consumer(id).and_then(|it| it.ended()),
        Some(Ended::ConnectionBroken(Error::Closed))
    ));
    peer.serve();
    peer.expect_done(closed);
}

#[test]
fn consumer_refused_while_it_is_cancelled_ends() {
    let (mut peer, id, _) = refused();
    peer.pass(Duration::from_millis(500));
    let number = peer.take().last().unwrap().channel;
    let cancel = peer.machine.cancel(id).unwrap();
    assert!(peer.is_pending(cancel));
    peer.method(number, &channel::OpenOk {});
    peer.method(number, &channel_close(IN_USE.0, IN_USE.1));
    assert!(matches!(
        peer.machine.fetch(cancel),
        Some(Ok(Reply::Cancelled(_)))
    ));
    assert!(matches!(
        peer.machine.consumer(id).and_then(|it| it.ended()),
        Some(Ended::Cancelled)
    ));
}

#[test]
fn queue_missing_after_recovery_ends_its_consumer() {
    let (mut peer, id, _) = refused();
    peer.pass(Duration::from_millis(500));
    assert_eq!(refuse(&mut peer, NO_QUEUE), 1);
    assert!(matches!(
        peer.machine.consumer(id).and_then(|it| it.ended()),
        Some(Ended::ChannelClosed(Error::NotFound(_)))
    ));
}

#[test]
fn consumer_of_several_queues_continues_without_one() {
    let mut peer = dialled();
    let promise = peer
        .machine
        .consume_multi(&[consume("a"), consume("q")], &shared(0))
        .unwrap();
    peer.serve();
    let Some(Ok(Reply::Consumer(id))) = peer.machine.fetch(promise) else {
        panic!("it has not started")
    };
    reconnect(&mut peer);
    let start = peer.now;
    while peer.machine.consumer(id).unwrap().ended_queues().count() == 0 {
        refuse(&mut peer, NODE_DOWN);
        assert!(!peer.has_ended(id));
        peer.pass(Duration::from_millis(500));
    }
    assert!(peer.now - start >= RETRY_LIMIT);
    assert_eq!(
        peer.machine
            .consumer(id)
            .unwrap()
            .ended_queues()
            .map(|(queue, _)| queue.to_string())
            .collect::<Vec<_>>(),
        ["q"]
    );
    assert!(!peer.has_ended(id));
}

#[test]
fn channel_is_reserved_for_a_refused_consumer() {
    let mut peer = dialled();
    let (id, ..) = peer.consumer(&exclusive("q"));
    let listener = peer.machine.listen();
    peer.machine.handle_loss(Broken::Eof);
    peer.dial();
    // Consumers may have three of five channels.
    peer.complete_handshake(tune(5, 131_072, 0));
    refuse(&mut peer, IN_USE);
    for _ in 0..2 {
        peer.consumer(&consume("other"));
    }
    let third = peer.machine.consume(&consume("other")).unwrap();
    assert!(matches!(peer.error(third), Error::ChannelLimit));
    let transaction = peer.machine.transaction().unwrap();
    assert!(matches!(peer.error(transaction), Error::ChannelLimit));
    peer.pass(Duration::from_millis(500));
    peer.serve();
    let received = notices(&mut peer, listener);
    assert!(
        matches!(received.last(), Some(Notice::ConsumerRestored(_))),
        "{received:?}"
    );
    assert!(!peer.has_ended(id));

    // Nor does another recovering consumer use it.
    peer.machine.handle_loss(Broken::Eof);
    peer.dial();
    peer.complete_handshake(tune(4, 131_072, 0));
    refuse(&mut peer, IN_USE);
    let received = notices(&mut peer, listener);
    let [report] = reports(&received)[..] else {
        panic!("{received:?}")
    };
    let refusals = report
        .failed
        .iter()
        .map(|(_, error)| matches!(error, Error::ChannelLimit));
    assert_eq!(refusals.collect::<Vec<_>>(), [true, false], "{report:?}");
    peer.pass(Duration::from_millis(500));
    peer.serve();
    assert!(matches!(
        peer.machine.take_notice(listener),
        Some(Notice::ConsumerRestored(_))
    ));

    // It is free for another once its consumer has ended.
    reconnect(&mut peer);
    refuse(&mut peer, IN_USE);
    peer.machine.drop_consumer(id);
    peer.consumer(&consume("other"));
}

#[test]
fn hard_error_beside_starting_consumer_ends_neither() {
    for class_and_method in [(60, 20), (0, 0)] {
        let (mut peer, id, _) = refused();
        peer.pass(Duration::from_millis(500));
        let promise = peer.machine.consume(&consume("other")).unwrap();
        assert_eq!(consumes(&peer.take()), 2);
        let (class_id, method_id) = class_and_method;
        let close = connection::Close {
            reply_code: 541,
            reply_text: short("INTERNAL_ERROR"),
            class_id,
            method_id,
        };
        peer.method(0, &close);
        assert!(!peer.has_ended(id));
        assert!(peer.is_pending(promise));
        peer.dial();
        peer.complete_handshake(tune(2047, 131_072, 0));
        peer.serve();
        assert!(matches!(
            peer.machine.fetch(promise),
            Some(Ok(Reply::Consumer(_)))
        ));
        assert!(!peer.has_ended(id));
    }
}

#[test]
fn consumer_starts_while_another_is_not_read() {
    let options = Options::default()
        .heartbeat(0)
        .max_buffered_deliveries(2)
        .recovery(Recovery::default());
    let mut peer = Peer::undialled(options);
    peer.dial();
    peer.complete_handshake(tune(2047, 131_072, 0));
    let (id, ..) = peer.consumer(&exclusive("q"));
    let (.., tag) = peer.consumer(&Consume {
        prefetch_count: 2,
        ..consume("other")
    });
    reconnect(&mut peer);
    let sent = serve_refusing(&mut peer, IN_USE);
    let other = sent
        .iter()
        .find(|sent| is_consume_of("other", sent))
        .unwrap()
        .channel;
    peer.pass(Duration::from_millis(500));
    assert_eq!(consumes(&peer.take()), 1);
    for number in 1..=2 {
        peer.deliver(other, &tag, number, b"m");
    }
    assert!(!peer.machine.wants_input());
    peer.pass(Duration::from_millis(500));
    assert!(
        peer.machine.wants_input(),
        "its consume-ok may be behind the deliveries"
    );
    assert!(!peer.has_ended(id));
}
