//! The driver: the effects and the cost of one poll, and its wakes.

use crate::peer::{ack, deliver, header, method, raw, short, tune};
use crate::pipe::{ManualClock, Pipe, Read, Wakes};
use futures_lite::future::{block_on, poll_once};
use puka::machine::Notice;
use puka::protocol::method::{basic, channel, confirm, connection, tx};
use puka::protocol::{Method, Properties};
use puka::{Client, Consumer, Driver, Options};
use std::future::Future;
use std::ops::RangeInclusive;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

pub(crate) type Driven = (Client, Pipe, ManualClock, Driver<Pipe, ManualClock>);

pub(crate) fn opened(options: Options) -> Driven {
    let (pipe, clock) = (Pipe::default(), ManualClock::default());
    let (client, mut driver) = puka::open(pipe.clone(), clock.clone(), options);
    pipe.open(&mut driver);
    (client, pipe, clock, driver)
}

#[test]
fn one_poll_does_the_whole_handshake() {
    let (pipe, clock) = (Pipe::default(), ManualClock::default());
    let (client, mut driver) = puka::open(pipe.clone(), clock, Options::default());
    let connecting = client.connect();
    pipe.open(&mut driver);
    let server = block_on(poll_once(connecting))
        .expect("it is open")
        .unwrap();
    assert_eq!(server.product(), "RabbitMQ");
}

#[test]
fn one_poll_reads_and_writes_everything() {
    let (client, pipe, _clock, mut driver) = opened(Options::default());
    let promises: Vec<_> = (0..500)
        .map(|_| client.basic_publish("", "q", "x").send())
        .collect();
    assert!(pipe.poll(&mut driver).is_none());
    let frames = pipe.frames();
    assert_eq!(
        frames
            .iter()
            .filter(|sent| sent.name().contains("publish"))
            .count(),
        500
    );
    pipe.feed(
        &[
            method(1, &channel::OpenOk {}),
            method(1, &confirm::SelectOk {}),
        ]
        .concat(),
    );
    for tag in 1..=50 {
        pipe.feed(&method(1, &ack(tag * 10, true)));
    }
    assert!(pipe.poll(&mut driver).is_none());
    for promise in promises {
        block_on(poll_once(promise))
            .expect("it is confirmed")
            .unwrap();
    }
}

#[test]
fn hundred_small_publishes_leave_in_one_plain_write() {
    let (client, pipe, _clock, mut driver) = opened(Options::default());
    pipe.script().writes.clear();
    let before = pipe.script().plain_writes;
    let _promises: Vec<_> = (0..100)
        .map(|_| client.basic_publish("", "q", &[7; 16]).send())
        .collect();
    assert!(pipe.poll(&mut driver).is_none());
    let script = pipe.script();
    assert_eq!(
        (script.writes.as_slice(), script.plain_writes - before),
        (&[1][..], 1),
        "one call, one piece"
    );
}

#[test]
fn large_bodies_leave_uncopied_in_few_vectored_writes() {
    let (client, pipe, _clock, mut driver) = opened(Options::default());
    pipe.script().writes.clear();
    let _promises: Vec<_> = (0..100)
        .map(|_| client.basic_publish("", "q", vec![7; 8192]).send())
        .collect();
    assert!(pipe.poll(&mut driver).is_none());
    assert!(
        pipe.frames()
            .iter()
            .filter(|sent| sent.name().ends_with("body 8192"))
            .count()
            == 100
    );
    let script = pipe.script();
    assert!(script.writes.len() <= 5, "{:?}", script.writes);
    let pieces = script.writes.iter().sum::<usize>();
    assert!(
        pieces <= 201 + 13,
        "{pieces}: one for each body, for the frames between two, and for each round"
    );
}

#[test]
fn partial_writes_neither_lose_nor_repeat_bytes() {
    let mut expected: Option<Vec<u8>> = None;
    for most in [usize::MAX, 1, 2, 3, 7, 8, 100, 4095, 8192, 8193] {
        let (client, pipe, _clock, mut driver) = opened(Options::default());
        pipe.script().max_write = Some(most);
        let mut written = Vec::new();
        for bytes in [10, 8192, 20_000, 1, 0, 5000] {
            let _promise = client
                .basic_publish("", "q", vec![bytes as u8; bytes])
                .send();
            assert!(pipe.poll(&mut driver).is_none());
            written.extend(pipe.take_written());
        }
        for _ in 0..100_000 {
            let more = {
                assert!(pipe.poll(&mut driver).is_none());
                pipe.take_written()
            };
            if more.is_empty() {
                break;
            }
            written.extend(more);
        }
        assert_eq!(
            *expected.get_or_insert_with(|| written.clone()),
            written,
            "{most} bytes at a time"
        );
    }
}

/// A consumer and its channel.
fn consuming(
    client: &Client,
    pipe: &Pipe,
    driver: &mut Driver<Pipe, ManualClock>,
) -> (Consumer, u16) {
    let consuming = client.basic_consume("q").prefetch_count(2000).send();
    let started = pipe.serve(driver);
    let channel = started
        .iter()
        .find_map(|name| name.strip_suffix(" basic.consume"))
        .unwrap();
    (
        block_on(poll_once(consuming))
            .expect("it has started")
            .unwrap(),
        channel.parse().unwrap(),
    )
}

/// Returns deliveries of three bytes each, whose frames end far from the end of a buffer.
fn deliveries(consumer: &Consumer, channel: u16, tags: RangeInclusive<u64>) -> Vec<u8> {
    let frames = tags.flat_map(|tag| {
        let deliver = method(channel, &deliver(consumer.tag(), tag));
        [
            deliver,
            header(channel, 3, Properties::default()),
            raw(3, channel, b"odd"),
        ]
    });
    frames.collect::<Vec<_>>().concat()
}

#[test]
fn deliveries_are_taken_before_the_next_read() {
    let (client, pipe, _clock, mut driver) = opened(Options::default());
    let (consumer, channel) = consuming(&client, &pipe, &mut driver);
    // The buffer is larger afterwards.
    pipe.feed(&deliveries(&consumer, channel, 1..=200));
    assert!(pipe.poll(&mut driver).is_none());
    let wakes = Arc::<Wakes>::default();
    let before = pipe.script().polled_reads;
    pipe.feed(&raw(8, 0, b""));
    pipe.feed(&deliveries(&consumer, channel, 201..=300));
    assert!(pipe.poll_with(&mut driver, &wakes).is_none());
    let reads = pipe.script().polled_reads - before;
    assert_eq!(
        (reads, wakes.count()),
        (2, 1),
        "a heartbeat wakes nothing else"
    );
    assert!(pipe.poll_with(&mut driver, &wakes).is_none());
    let reads = pipe.script().polled_reads - before;
    assert_eq!(
        (reads, wakes.count()),
        (3, 1),
        "there is no more input, although the deliveries are untaken"
    );
    pipe.feed(&deliveries(&consumer, channel, 301..=301));
    assert_eq!(wakes.count(), 2, "the stream wakes it");
}

#[test]
fn replies_to_many_are_taken_before_another_read() {
    let (client, pipe, _clock, mut driver) = opened(Options::default());
    let promises: Vec<_> = (0..300)
        .map(|_| client.basic_publish("", "q", "x").send())
        .collect();
    pipe.serve(&mut driver);
    let wakes = Arc::<Wakes>::default();
    // Few of them, after which the stream is read again at once, then many, and more.
    for tag in [63, 127, 128] {
        pipe.feed(&method(1, &ack(tag, true)));
    }
    let before = pipe.script().polled_reads;
    assert!(pipe.poll_with(&mut driver, &wakes).is_none());
    let reads = pipe.script().polled_reads - before;
    assert_eq!((reads, wakes.count()), (2, 1));
    assert!(pipe.poll_with(&mut driver, &wakes).is_none());
    let reads = pipe.script().polled_reads - before;
    assert_eq!((reads, wakes.count()), (4, 1), "there is no more input");
    pipe.feed(&method(1, &ack(300, true)));
    assert_eq!(wakes.count(), 2, "the stream wakes it");
    assert!(pipe.poll_with(&mut driver, &wakes).is_none());
    for promise in promises {
        block_on(poll_once(promise))
            .expect("it is confirmed")
            .unwrap();
    }
}

#[test]
fn replies_do_not_delay_writes() {
    let (client, pipe, _clock, mut driver) = opened(Options::default());
    let _confirmed: Vec<_> = (0..100)
        .map(|_| client.basic_publish("", "q", "x").send())
        .collect();
    pipe.serve(&mut driver);
    let _promises: Vec<_> = (0..40)
        .map(|_| client.basic_publish("", "q", vec![7; 64_000]).send())
        .collect();
    pipe.feed(&method(1, &ack(100, true)));
    let wakes = Arc::<Wakes>::default();
    assert!(pipe.poll_with(&mut driver, &wakes).is_none());
    let bodies = pipe.take_written().len() / 64_000;
    assert_eq!(
        (bodies, wakes.count()),
        (40, 0),
        "all of it leaves in one poll"
    );
}

#[test]
fn stream_is_read_again_after_short_reads() {
    let (client, pipe, _clock, mut driver) = opened(Options::default());
    let (consumer, channel) = consuming(&client, &pipe, &mut driver);
    // As TLS does, which has buffered more.
    for few in deliveries(&consumer, channel, 1..=1000).chunks(4074) {
        pipe.feed(few);
    }
    let wakes = Arc::<Wakes>::default();
    assert!(pipe.poll_with(&mut driver, &wakes).is_none());
    assert!(pipe.script().reads.is_empty());
    assert_eq!(wakes.count(), 0);
}

#[test]
fn untaken_delivery_delays_neither_writes_nor_reads() {
    let (client, pipe, _clock, mut driver) = opened(Options::default());
    let (consumer, channel) = consuming(&client, &pipe, &mut driver);
    let first = client.basic_publish("", "q", "x").send();
    pipe.serve(&mut driver);
    drop(first);
    pipe.feed(&deliveries(&consumer, channel, 1..=200));
    assert!(pipe.poll(&mut driver).is_none());
    pipe.take_written();
    let _promises: Vec<_> = (0..40)
        .map(|_| client.basic_publish("", "q", vec![7; 64_000]).send())
        .collect();
    // A heartbeat and more deliveries, while more output is pending.
    pipe.feed(&raw(8, 0, b""));
    pipe.feed(&deliveries(&consumer, channel, 201..=300));
    let wakes = Arc::<Wakes>::default();
    assert!(pipe.poll_with(&mut driver, &wakes).is_none());
    let bodies = pipe.take_written().len() / 64_000;
    assert_eq!(
        (bodies, wakes.count()),
        (40, 0),
        "all of it leaves in one poll"
    );
    pipe.feed(&raw(8, 0, b"").repeat(600));
    assert_eq!(wakes.count(), 1);
    assert!(pipe.poll_with(&mut driver, &wakes).is_none());
    assert_eq!(wakes.count(), 1, "only deliveries make the driver yield");
}

#[test]
fn stream_is_read_again_after_a_full_read() {
    let (client, pipe, _clock, mut driver) = opened(Options::default());
    let (consumer, channel) = consuming(&client, &pipe, &mut driver);
    pipe.feed(&deliveries(&consumer, channel, 1..=1000));
    let before = pipe.script().polled_reads;
    assert!(pipe.poll_with(&mut driver, &Arc::default()).is_none());
    assert!(pipe.script().reads.is_empty());
    assert!(
        pipe.script().polled_reads - before > 1,
        "it was not all in one read"
    );
}

#[test]
fn idle_driver_is_polled_once() {
    let (_client, pipe, _clock, mut driver) = opened(Options::default());
    let wakes = Arc::<Wakes>::default();
    assert!(pipe.poll_with(&mut driver, &wakes).is_none());
    let before = pipe.script().polled_reads;
    for _ in 0..10 {
        assert!(pipe.poll_with(&mut driver, &wakes).is_none());
    }
    assert!(
        pipe.script().polled_reads - before <= 10,
        "a poll reads once without input"
    );
    assert_eq!(wakes.count(), 0, "and nothing wakes it");
    assert_eq!(pipe.script().written.len(), 0);
}

#[test]
fn sending_a_heartbeat_costs_one_empty_read() {
    let (_client, pipe, clock, mut driver) = opened(Options::default());
    assert!(pipe.poll(&mut driver).is_none());
    pipe.take_written();
    clock.pass(30 * SECOND);
    let before = pipe.script().polled_reads;
    assert!(pipe.poll(&mut driver).is_none());
    assert_eq!(pipe.take_written(), raw(8, 0, b""));
    assert_eq!(pipe.script().polled_reads - before, 1);
}

#[test]
fn input_caused_by_writing_is_read_without_wake() {
    let (client, pipe, _clock, mut driver) = opened(Options::default());
    assert!(pipe.poll(&mut driver).is_none());
    // As TLS may, which reads during a write.
    pipe.script().read_with_write = Some(raw(8, 0, b""));
    pipe.script().publisher = Some(client.clone());
    assert!(pipe.poll(&mut driver).is_none());
    assert!(
        pipe.frames()
            .iter()
            .any(|sent| sent.name().contains("publish"))
    );
    assert!(pipe.script().reads.is_empty(), "it was read");
}

#[test]
fn input_caused_by_flushing_is_read_without_wake() {
    let (client, pipe, _clock, mut driver) = opened(Options::default());
    assert!(pipe.poll(&mut driver).is_none());
    pipe.script()
        .stuck_flushes
        .extend([Vec::new(), raw(8, 0, b"")]);
    drop(client.basic_publish("", "q", "x").send());
    assert!(pipe.poll(&mut driver).is_none());
    assert!(pipe.script().reads.is_empty(), "it was read");
}

#[test]
fn driver_is_woken_exactly_when_work_is_pending() {
    let (client, pipe, clock, mut driver) = opened(Options::default());
    let wakes = Arc::<Wakes>::default();
    assert!(pipe.poll_with(&mut driver, &wakes).is_none());
    let _one = client.basic_publish("", "q", "x").send();
    assert_eq!(wakes.count(), 1, "for the first");
    let _two = client.basic_publish("", "q", "x").send();
    assert_eq!(wakes.count(), 1, "it is awake already");
    assert!(pipe.poll_with(&mut driver, &wakes).is_none());
    assert_eq!(wakes.count(), 1, "its own actions do not wake it");
    pipe.feed(&raw(8, 0, b""));
    assert_eq!(wakes.count(), 2);
    assert!(pipe.poll_with(&mut driver, &wakes).is_none());
    clock.pass(29 * SECOND);
    assert_eq!(wakes.count(), 2);
    pipe.take_written();
    clock.pass(SECOND);
    assert_eq!(wakes.count(), 3, "the heartbeat is due");
    assert!(pipe.poll_with(&mut driver, &wakes).is_none());
    assert_eq!(pipe.take_written(), raw(8, 0, b""));
    // A query changes nothing, so nothing is woken.
    let _ = (
        client.blocked(),
        client.why_closed(),
        client.server_properties(),
    );
    assert_eq!(wakes.count(), 3);
}

#[test]
fn full_stream_is_written_to_after_its_wake() {
    let (client, pipe, _clock, mut driver) = opened(Options::default());
    pipe.script().stalled = true;
    let wakes = Arc::<Wakes>::default();
    let _promise = client.basic_publish("", "q", "x").send();
    assert!(pipe.poll_with(&mut driver, &wakes).is_none());
    assert_eq!((pipe.take_written().len(), wakes.count()), (0, 0));
    pipe.unstall();
    assert_eq!(wakes.count(), 1);
    assert!(pipe.poll_with(&mut driver, &wakes).is_none());
    assert!(!pipe.take_written().is_empty());
}

#[test]
fn interrupted_read_write_or_flush_is_retried() {
    let (client, pipe, _clock, mut driver) = opened(Options::default());
    pipe.script().interruptions = 3;
    pipe.script().flush_errors = [std::io::ErrorKind::Interrupted; 2].into();
    pipe.read(Read::Error(std::io::ErrorKind::Interrupted));
    pipe.read(Read::Error(std::io::ErrorKind::Interrupted));
    let _promise = client.basic_publish("", "q", "x").send();
    assert!(pipe.poll(&mut driver).is_none());
    assert!(!pipe.take_written().is_empty());
    assert!(client.why_closed().is_none());
}

#[test]
fn sleep_is_replaced_for_earlier_or_passed_deadlines() {
    let (pipe, clock) = (Pipe::default(), ManualClock::default());
    let (client, mut driver) = puka::open(
        pipe.clone(),
        clock.clone(),
        Options::default().heartbeat(10),
    );
    pipe.open_with(&mut driver, tune(0, 0, 10));
    let armed = clock.deadlines().len();
    // Each publish postpones the next heartbeat.
    for _ in 0..40 {
        let _promise = client.basic_publish("", "q", "x").send();
        clock.pass(SECOND / 10);
        pipe.feed(&raw(8, 0, b""));
        assert!(pipe.poll(&mut driver).is_none());
    }
    assert_eq!(clock.deadlines().len(), armed, "no new one in 4 s");
    clock.pass(2 * SECOND);
    assert!(pipe.poll(&mut driver).is_none());
    let after = clock.deadlines().len();
    assert!(after <= armed + 2, "{after} after {armed}");
    assert!(pipe.poll(&mut driver).is_none());
    assert_eq!(clock.deadlines().len(), after);
}

#[test]
fn flush_follows_each_write() {
    let (client, pipe, _clock, mut driver) = opened(Options::default());
    let flushes = pipe.script().flushes;
    assert!(pipe.poll(&mut driver).is_none());
    assert_eq!(pipe.script().flushes, flushes, "none without a write");
    let _promise = client.basic_publish("", "q", "x").send();
    assert!(pipe.poll(&mut driver).is_none());
    assert_eq!(pipe.script().flushes, flushes + 1);
}

#[test]
fn unrestrained_publisher_yields_to_the_driver() {
    let (client, pipe, _clock, mut driver) = opened(Options::default());
    let mut publishing = pin!(async {
        for _ in 0..3000 {
            drop(client.basic_publish("", "q", &[7; 1000]).submit().await);
        }
    });
    let mut turns = 0;
    while block_on(poll_once(&mut publishing)).is_none() {
        assert!(pipe.poll(&mut driver).is_none());
        let written = pipe.take_written().len();
        assert!(written < 300 << 10, "{written} bytes at a time");
        turns += 1;
    }
    assert!(turns >= 11, "{turns}");
}

#[test]
fn busy_consumer_yields_so_that_acks_are_written() {
    let (client, pipe, _clock, mut driver) = opened(Options::default());
    let (mut consumer, channel) = consuming(&client, &pipe, &mut driver);
    pipe.feed(&deliveries(&consumer, channel, 1..=2000));
    assert!(pipe.poll(&mut driver).is_none());
    let mut acks = Vec::new();
    let mut taken = 0;
    while taken < 2000 {
        while let Some(delivery) = block_on(poll_once(consumer.next())) {
            delivery.unwrap().unwrap().ack().unwrap();
            taken += 1;
        }
        assert!(pipe.poll(&mut driver).is_none());
        acks.extend(pipe.frames().iter().map(|sent| (taken, sent.name())));
    }
    assert!(
        acks.len() >= 3 && acks.iter().all(|(_, name)| name.ends_with("basic.ack")),
        "{acks:?}"
    );
}

#[test]
fn clients_and_deliveries_expose_the_brokers_data() {
    let (client, pipe, _clock, mut driver) = opened(Options::default());
    let server = client.server_properties();
    assert_eq!(server.product(), "RabbitMQ");
    assert!(server.table().get("product").is_some());
    let got = client.basic_get("q").send();
    let names = pipe.serve(&mut driver);
    let number = names
        .iter()
        .find_map(|name| name.strip_suffix(" basic.get"))
        .unwrap();
    let channel: u16 = number.parse().unwrap();
    let get_ok = basic::GetOk {
        message_count: 7,
        ..crate::peer::get_ok(1)
    };
    pipe.feed(
        &[
            method(channel, &get_ok),
            header(channel, 0, Properties::default()),
        ]
        .concat(),
    );
    assert!(pipe.poll(&mut driver).is_none());
    let got = block_on(poll_once(got)).unwrap().unwrap().unwrap();
    assert_eq!(
        (got.message_count(), got.queue(), got.consumer_tag()),
        (Some(7), None, None)
    );
    let (mut consumer, channel) = consuming(&client, &pipe, &mut driver);
    pipe.feed(&deliveries(&consumer, channel, 1..=1));
    assert!(pipe.poll(&mut driver).is_none());
    let delivery = block_on(poll_once(consumer.next()))
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!((delivery.message_count(), delivery.epoch()), (None, 1));
    assert_eq!(client.current_name("q"), "q");
    assert_eq!(
        (delivery.queue(), delivery.consumer_tag()),
        (Some("q"), Some(consumer.tag()))
    );
}

#[test]
fn notice_wakes_its_listener() {
    let (client, pipe, _clock, mut driver) = opened(Options::default());
    let mut notices = client.notices();
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(wakes.clone());
    let mut cx = Context::from_waker(&waker);
    assert!(pin!(notices.next()).poll(&mut cx).is_pending());
    pipe.feed(&method(
        0,
        &connection::Blocked {
            reason: short("low on memory"),
        },
    ));
    assert!(pipe.poll(&mut driver).is_none());
    assert_eq!(wakes.count(), 1);
    let next = block_on(poll_once(notices.next())).flatten();
    assert!(matches!(next, Some(Notice::Blocked(reason)) if &*reason == "low on memory"));
}

#[test]
fn delivery_wakes_its_consumer() {
    let (client, pipe, _clock, mut driver) = opened(Options::default());
    let (mut consumer, channel) = consuming(&client, &pipe, &mut driver);
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(wakes.clone());
    let mut cx = Context::from_waker(&waker);
    assert!(pin!(consumer.next()).poll(&mut cx).is_pending());
    pipe.feed(&deliveries(&consumer, channel, 1..=1));
    assert!(pipe.poll(&mut driver).is_none());
    assert_eq!(wakes.count(), 1);
}

#[test]
fn promise_debug_output_shows_its_state() {
    let (client, pipe, _clock, mut driver) = opened(Options::default());
    let mut declared = client.queue_declare("q").send();
    assert_eq!(format!("{declared:?}"), "Promise(\"waiting\")");
    pipe.serve(&mut driver);
    block_on(poll_once(&mut declared)).unwrap().unwrap();
    assert_eq!(format!("{declared:?}"), "Promise(\"done\")");
    let refused = client.queue_declare("q".repeat(300)).send();
    assert_eq!(format!("{refused:?}"), "Promise(\"failed\")");
}

#[test]
fn each_refusal_says_whether_to_requeue() {
    let (client, pipe, _clock, mut driver) = opened(Options::default());
    let (mut consumer, channel) = consuming(&client, &pipe, &mut driver);
    pipe.feed(&deliveries(&consumer, channel, 1..=4));
    assert!(pipe.poll(&mut driver).is_none());
    let mut next = || {
        let next = block_on(poll_once(consumer.next()));
        next.flatten().unwrap().unwrap()
    };
    next().requeue().unwrap();
    next().discard().unwrap();
    client.basic_reject(next(), true).unwrap();
    client.basic_reject(next(), false).unwrap();
    assert!(pipe.poll(&mut driver).is_none());
    let frames = pipe.frames();
    let rejects = frames.iter().filter(|sent| sent.is(basic::Reject::ID));
    let rejects = rejects.map(|sent| match sent.method() {
        Method::Basic(basic::Method::Reject(it)) => (it.delivery_tag, it.requeue),
        other => panic!("{other:?}"),
    });
    assert_eq!(
        rejects.collect::<Vec<_>>(),
        [(1, true), (2, false), (3, true), (4, false)]
    );
}

#[test]
fn capacity_wakes_a_waiting_request() {
    let options = Options::default().max_requests(1).request_channels(1);
    let (client, pipe, _clock, mut driver) = opened(options);
    // One is pending, and one is queued for its channel.
    let [first, second] = ["first", "second"].map(|queue| client.queue_declare(queue).send());
    let mut next = pin!(client.queue_declare("next").into_future());
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(wakes.clone());
    let mut cx = Context::from_waker(&waker);
    assert!(next.as_mut().poll(&mut cx).is_pending());
    assert_eq!(wakes.count(), 0);
    pipe.serve(&mut driver);
    assert!(block_on(poll_once(first)).unwrap().is_ok());
    assert!(block_on(poll_once(second)).unwrap().is_ok());
    assert_eq!(wakes.count(), 1);
    assert!(next.as_mut().poll(&mut cx).is_pending());
    pipe.serve(&mut driver);
    assert!(matches!(next.poll(&mut cx), Poll::Ready(Ok(_))));
}

#[test]
fn unblocked_wakes_a_waiting_transaction() {
    let (client, pipe, _clock, mut driver) = opened(Options::default());
    let begun = client.transaction().send();
    let names = pipe.serve(&mut driver);
    let number = names
        .iter()
        .find_map(|name| name.strip_suffix(" tx.select"))
        .unwrap();
    pipe.feed(&method(number.parse().unwrap(), &tx::SelectOk {}));
    pipe.feed(&method(0, &connection::Blocked { reason: short("?") }));
    assert!(pipe.poll(&mut driver).is_none());
    let transaction = block_on(poll_once(begun)).unwrap().unwrap();
    let mut publish = pin!(transaction.basic_publish("", "q", "x").into_future());
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(wakes.clone());
    let mut cx = Context::from_waker(&waker);
    assert!(publish.as_mut().poll(&mut cx).is_pending());
    assert_eq!(wakes.count(), 0);
    pipe.feed(&method(0, &connection::Unblocked {}));
    assert!(pipe.poll(&mut driver).is_none());
    assert_eq!(wakes.count(), 1);
    assert!(matches!(publish.poll(&mut cx), Poll::Ready(Ok(()))));
}
