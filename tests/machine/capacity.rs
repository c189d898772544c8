//! Waiting for outgoing capacity: its end and its maximum duration.

use crate::peer::{Peer, ack, channel_close, publish, tune};
use crate::pipe::Wakes;
use puka::machine::PromiseId;
use puka::protocol::method::channel;
use puka::protocol::method::confirm;
use puka::{Error, Options};
use std::future::{Future, IntoFuture};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// Returns a connection with this many publishes that were not confirmed in time.
fn overdue(publishes: usize) -> (Peer, Vec<PromiseId>) {
    let options = Options::default()
        .heartbeat(0)
        .max_publishes_in_flight(publishes);
    let mut peer = Peer::open_with(options, tune(0, 0, 0));
    let promises = fill(&mut peer, publishes);
    peer.serve();
    peer.pass(40 * SECOND);
    (peer, promises)
}

fn fill(peer: &mut Peer, publishes: usize) -> Vec<PromiseId> {
    (0..publishes)
        .map(|_| peer.machine.publish(&publish("", "x")).unwrap())
        .collect()
}

#[test]
fn overdue_publish_frees_its_capacity() {
    let (mut peer, late) = overdue(10);
    for promise in late {
        assert!(matches!(peer.error(promise), Error::Unconfirmed(_)));
    }
    let promises = fill(&mut peer, 10);
    assert!(!peer.machine.has_capacity_to_publish());
    peer.serve();
    // Late confirms, single and multiple, complete nothing else and free no capacity.
    peer.method(1, &ack(7, false));
    peer.method(1, &ack(5, true));
    assert!(!peer.machine.has_capacity_to_publish());
    promises
        .iter()
        .for_each(|promise| assert!(peer.is_pending(*promise)));
    peer.method(1, &ack(11, false));
    peer.expect_done(promises[0]);
    peer.method(1, &ack(0, true));
    promises[1..]
        .iter()
        .for_each(|promise| peer.expect_done(*promise));
    assert!(peer.machine.is_idle() && peer.machine.why_closed().is_none());
}

#[test]
fn second_late_confirm_is_an_error() {
    let (mut peer, _late) = overdue(3);
    peer.method(1, &ack(2, false));
    assert!(peer.machine.why_closed().is_none());
    peer.method(1, &ack(2, false));
    assert!(matches!(peer.close_reason(), Error::CommandInvalid(_)));
}

#[test]
fn hours_without_confirms_leave_room() {
    let (mut peer, _late) = overdue(10);
    for _ in 0..500 {
        fill(&mut peer, 10);
        peer.pass(40 * SECOND);
    }
    assert!(peer.machine.has_capacity_to_publish());
    peer.method(1, &ack(5000, true));
    assert!(peer.machine.why_closed().is_none());
}

#[test]
fn overdue_first_publish_keeps_its_own_error() {
    let mut peer = Peer::open_with(Options::default().heartbeat(0), tune(0, 0, 0));
    let first = fill(&mut peer, 1);
    peer.take();
    peer.method(1, &channel::OpenOk {});
    peer.method(1, &confirm::SelectOk {});
    peer.pass(40 * SECOND);
    assert!(matches!(peer.error(first[0]), Error::Unconfirmed(_)));
    let second = fill(&mut peer, 1);
    peer.take();
    peer.method(
        1,
        &channel_close(406, "PRECONDITION_FAILED - invalid message"),
    );
    assert!(
        matches!(peer.error(second[0]), Error::Unconfirmed(_)),
        "the error is the first one's"
    );
}

/// Polls with a waker that counts its wakes.
fn poll<F: Future>(future: std::pin::Pin<&mut F>, wakes: &Arc<Wakes>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(&Waker::from(wakes.clone())))
}

#[test]
fn waiting_for_capacity_ends_at_request_timeout() {
    // The stream accepts nothing, and no heartbeats would detect that.
    let options = Options::default().max_outgoing_bytes(1000).heartbeat(0);
    let (client, pipe, clock, mut driver) = opened_without_heartbeats(options);
    pipe.script().stalled = true;
    let _first = client.basic_publish("", "q", vec![7; 2000]).send();
    let wakes = [0; 3].map(|_| Arc::new(Wakes::default()));
    let mut sends = pin!(client.basic_publish("", "q", "x").into_future());
    let mut submits = pin!(client.basic_publish("", "q", "x").submit());
    let mut requests = pin!(client.queue_declare("q").into_future());
    assert!(poll(sends.as_mut(), &wakes[0]).is_pending());
    assert!(poll(submits.as_mut(), &wakes[1]).is_pending());
    assert!(poll(requests.as_mut(), &wakes[2]).is_pending());
    assert!(pipe.poll(&mut driver).is_none());
    clock.pass(29 * SECOND);
    assert!(pipe.poll(&mut driver).is_none());
    assert_eq!(wakes.each_ref().map(|wakes| wakes.count()), [0; 3]);
    clock.pass(SECOND);
    assert!(pipe.poll(&mut driver).is_none());
    assert_eq!(wakes.each_ref().map(|wakes| wakes.count()), [1; 3]);
    let ends = [
        poll(sends.as_mut(), &wakes[0]).map_ok(drop),
        poll(submits.as_mut(), &wakes[1]).map_ok(drop),
        poll(requests.as_mut(), &wakes[2]).map_ok(drop),
    ];
    let purpose = ["to publish", "to publish", "to send a request"];
    for (end, purpose) in ends.into_iter().zip(purpose) {
        let Poll::Ready(Err(error)) = end else {
            panic!("{end:?}")
        };
        assert_eq!(
            error.to_string(),
            format!("waiting for capacity {purpose} took longer than 30 s")
        );
    }
}

#[test]
fn finished_wait_wakes_no_task() {
    let options = Options::default().max_outgoing_bytes(1000).heartbeat(0);
    let (client, pipe, _clock, mut driver) = opened_without_heartbeats(options);
    pipe.script().stalled = true;
    let _first = client.basic_publish("", "q", vec![7; 2000]).send();
    let wakes = [0; 2].map(|_| Arc::new(Wakes::default()));
    let mut abandoned = Box::pin(client.basic_publish("", "q", "x").into_future());
    let mut waits = Box::pin(client.basic_publish("", "q", "x").into_future());
    assert!(poll(abandoned.as_mut(), &wakes[0]).is_pending());
    assert!(poll(waits.as_mut(), &wakes[1]).is_pending());
    drop(abandoned);
    pipe.unstall();
    assert!(pipe.poll(&mut driver).is_none());
    assert_eq!(wakes.each_ref().map(|wakes| wakes.count()), [0, 1]);
}

#[test]
fn capacity_that_comes_at_the_deadline_is_used() {
    let options = Options::default().max_outgoing_bytes(1000).heartbeat(0);
    let (client, pipe, clock, mut driver) = opened_without_heartbeats(options);
    pipe.script().stalled = true;
    let _first = client.basic_publish("", "q", vec![7; 2000]).send();
    let wakes = Arc::new(Wakes::default());
    let mut submits = pin!(client.basic_publish("", "q", "x").submit());
    assert!(poll(submits.as_mut(), &wakes).is_pending());
    assert!(pipe.poll(&mut driver).is_none());
    clock.pass(30 * SECOND);
    pipe.unstall();
    assert!(pipe.poll(&mut driver).is_none());
    assert!(matches!(poll(submits.as_mut(), &wakes), Poll::Ready(Ok(_))));
}

fn opened_without_heartbeats(options: Options) -> crate::driver::Driven {
    let (pipe, clock) = (
        crate::pipe::Pipe::default(),
        crate::pipe::ManualClock::default(),
    );
    let (client, mut driver) = puka::open(pipe.clone(), clock.clone(), options);
    pipe.open_with(&mut driver, tune(0, 0, 0));
    (client, pipe, clock, driver)
}

#[test]
fn call_without_confirm_keeps_its_own_deadline() {
    let options = Options::default().heartbeat(0).max_publishes_in_flight(2);
    let mut peer = Peer::open_with(options, tune(0, 0, 0));
    let call = peer
        .machine
        .call(&publish("", "x"), Some(3600 * SECOND))
        .unwrap();
    peer.serve();
    assert!(!peer.machine.has_capacity_to_publish());
    peer.pass(3500 * SECOND);
    assert!(peer.is_pending(call));
    assert!(
        peer.machine.has_capacity_to_publish(),
        "its confirm is no longer pending"
    );
    peer.pass(200 * SECOND);
    assert!(matches!(peer.error(call), Error::Timeout { .. }));
    let _room_for_two = peer.machine.call(&publish("", "x"), None).unwrap();
    assert!(!peer.machine.has_capacity_to_publish());
}
