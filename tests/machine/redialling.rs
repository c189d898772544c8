//! The driver that dials, and what clients see when it connects again.

use crate::owners::{Net, complete_handshake, poll};
use crate::peer::{deliver, header, method, raw, reply_to, short};
use crate::pipe::{ManualClock, Pipe, Read};
use futures_lite::future::{block_on, poll_once};
use puka::protocol::Properties;
use puka::protocol::method::channel;
use puka::{Client, Consumer, Delivery, DialDriver, Options};

/// Returns an open connection with a consumer that has taken three deliveries and returned the
/// first.
fn with_taken_deliveries() -> (
    Pipe,
    Client,
    DialDriver<Net, ManualClock>,
    Consumer,
    Delivery,
) {
    let (pipe, clock) = (Pipe::default(), ManualClock::default());
    let (client, mut driver) = puka::connect(Net(pipe.clone()), clock, Options::default());
    complete_handshake(&pipe, &mut driver);
    let consuming = client.basic_consume("q").prefetch_count(10).send();
    for _ in 0..3 {
        assert!(poll(&mut driver).is_pending());
        pipe.frames()
            .iter()
            .filter_map(reply_to)
            .for_each(|bytes| pipe.feed(&bytes));
    }
    let mut consumer = block_on(poll_once(consuming))
        .expect("it has started")
        .unwrap();
    for tag in 1..=3 {
        let delivery = method(1, &deliver(consumer.tag(), tag));
        let content = [header(1, 1, Properties::default()), raw(3, 1, b"x")].concat();
        pipe.feed(&[delivery, content].concat());
    }
    assert!(poll(&mut driver).is_pending());
    let first = block_on(poll_once(consumer.next()))
        .flatten()
        .unwrap()
        .unwrap();
    assert_eq!(client.counters().lost_deliveries, 0);
    (pipe, client, driver, consumer, first)
}

#[test]
fn deliveries_taken_before_a_loss_are_dropped() {
    let (pipe, client, mut driver, mut consumer, first) = with_taken_deliveries();
    pipe.read(Read::Eof);
    assert!(poll(&mut driver).is_pending());
    assert!(block_on(poll_once(consumer.next())).is_none());
    assert_eq!(client.counters().lost_deliveries, 2);
    assert!(first.ack().is_err());
}

#[test]
fn deliveries_taken_before_a_channel_close_are_dropped() {
    let (pipe, client, mut driver, mut consumer, first) = with_taken_deliveries();
    let close = channel::Close {
        reply_code: 406,
        reply_text: short("PRECONDITION_FAILED - delivery acknowledgement timed out"),
        class_id: 0,
        method_id: 0,
    };
    pipe.feed(&method(1, &close));
    assert!(poll(&mut driver).is_pending());
    assert!(block_on(poll_once(consumer.next())).is_none());
    assert_eq!(client.counters().lost_deliveries, 2);
    assert_eq!(consumer.lost_deliveries(), 2);
    assert!(first.ack().is_err());
}
