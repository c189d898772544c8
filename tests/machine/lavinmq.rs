//! What LavinMQ does differently from RabbitMQ: its error texts, soft errors where RabbitMQ closes
//! the connection, and the offsets of streams.

use crate::late_methods::{Broker, dialled};
use crate::peer::{Peer, Sent, channel_close, consume, declare};
use crate::recovering::replied;
use crate::streams::{arrives_at, offset_after_a_loss};
use puka::machine::{ConnectionState, Consume, Notice, Reply};
use puka::protocol::method::{basic, channel, queue};
use puka::protocol::{Method, Table};
use puka::{Broken, Error};
use std::cell::Cell;
use std::collections::VecDeque;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn soft_error_fails_its_request_alone() {
    for (code, text) in [
        (403, "ACCESS_REFUSED - Prefix [\"amq.\"] forbidden"),
        (404, "NOT_FOUND - Queue 'q' doesn't exists"),
        (404, "NOT_FOUND - Queue 'q' not declared"),
        (405, "RESOURCE_LOCKED - Exclusive queue"),
        (405, "RESOURCE_LOCKED - Not an exclusive queue"),
        (
            406,
            "PRECONDITION_FAILED - Existing queue 'q' declared with other arguments",
        ),
        (505, "UNEXPECTED_FRAME - AMQ::Protocol::Frame::Header"),
        (
            540,
            "NOT_IMPLEMENTED - Stream queues does not support basic_get",
        ),
    ] {
        let mut peer = dialled();
        let (id, ..) = peer.consumer(&consume("beside"));
        let refused = [
            peer.get(),
            peer.machine.request(declare("q")).unwrap(),
            peer.machine.consume(&consume("q")).unwrap(),
        ];
        let sent = peer.take();
        let asks = [basic::Get::ID, queue::Declare::ID, basic::Consume::ID];
        for method in asks {
            let asked = sent.iter().find(|it| it.is(method)).unwrap();
            peer.method(asked.channel, &channel::OpenOk {});
            peer.method(asked.channel, &channel_close(code, text));
        }
        for promise in refused {
            let error = peer.error(promise);
            let fault = error.fault().unwrap();
            assert_eq!((fault.code.value(), &*fault.text), (code, text));
            let is_typed = match code {
                403 => matches!(error, Error::AccessRefused(_)),
                404 => matches!(error, Error::NotFound(_)),
                405 => matches!(error, Error::ResourceLocked(_)),
                406 => matches!(error, Error::PreconditionFailed(_)),
                505 => matches!(error, Error::UnexpectedFrame(_)),
                _ => matches!(error, Error::NotImplemented(_)),
            };
            assert!(is_typed, "{error:?}");
        }
        let declared = peer.machine.request(declare("other")).unwrap();
        peer.serve();
        assert!(matches!(replied(&mut peer, declared), Reply::Queue(_)));
        assert!(!peer.has_ended(id));
        assert!(matches!(peer.machine.state(), ConnectionState::Open));
    }
}

#[test]
fn locked_queue_delays_the_recovery_alone() {
    let refusals = Cell::new(0);
    let broker = Broker::new(|sent: &Sent| match sent.method() {
        Method::Queue(queue::Method::Declare(it))
            if it.queue.as_bytes() == b"locked" && refusals.get() < 3 =>
        {
            refusals.set(refusals.get() + 1);
            Some((405, "RESOURCE_LOCKED - Exclusive queue".into()))
        }
        _ => None,
    });
    let mut peer = dialled();
    let listener = peer.machine.listen();
    for name in ["locked", "other", "p", "q"] {
        let declared = peer.machine.request(declare(name)).unwrap();
        peer.serve();
        assert!(matches!(replied(&mut peer, declared), Reply::Queue(_)));
    }
    let id = peer.consumer(&consume("locked")).0;
    peer.machine.handle_loss(Broken::Eof);
    let start = peer.now;
    broker.serve_within(&mut peer, 5 * SECOND);
    assert!(peer.now - start < 5 * SECOND);
    assert_eq!((refusals.get(), broker.closes.get()), (3, 1));
    assert!(!peer.has_ended(id));
    let report = std::iter::from_fn(|| peer.machine.take_notice(listener)).last();
    let Some(Notice::Recovered(report)) = report else {
        panic!("{report:?}");
    };
    let restored = (report.entities, report.consumers, report.failed.len());
    assert_eq!(restored, (4, 1, 0));
}

#[test]
fn stream_that_begins_at_one_continues_at_two() {
    let mut arguments = Table::new();
    arguments.insert("x-stream-offset", "first").unwrap();
    let mut peer = Peer::dialled(crate::recovering::options(|recovery| recovery));
    let (id, number, tag) = peer.consumer(&Consume {
        prefetch_count: 10,
        arguments: arguments.as_ref(),
        ..consume("stream")
    });
    // Nothing was taken, so it begins at its first offset, and not at 0.
    for offset in [1, 2] {
        arrives_at(&mut peer, number, &tag, offset as u64, Some(offset));
    }
    let first = offset_after_a_loss(&mut peer).unwrap();
    assert!(!first.starts_with(b"I64"), "{}", first.escape_ascii());
    // The restarted consumer has the same tag.
    arrives_at(&mut peer, number, &tag, 1, Some(1));
    let mut taken = VecDeque::new();
    peer.machine.take_deliveries(id, 1, &mut taken);
    assert_eq!(taken.len(), 1);
    assert_eq!(offset_after_a_loss(&mut peer), Some(b"I64(2)".to_vec()));
}
