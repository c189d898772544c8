//! `wait`, `wait_for_any` and `wait_for_all`.

use crate::tcp::{SOON, broker, connect_to, connect_with, connected, cut, to};
use puka::{Consumer, Error};
use std::pin::pin;
use std::time::{Duration, Instant};

const AT_ONCE: Option<Duration> = Some(Duration::ZERO);

#[test]
fn timed_out_promise_can_be_awaited_again() {
    let (server, address) = broker();
    let (mut conn, client) = connect_to(address);
    conn.wait(&mut client.queue_declare("q").send(), SOON)
        .unwrap();
    let mut consumer = conn
        .wait(&mut client.basic_consume("q").send(), SOON)
        .unwrap();
    server.with(|broker| broker.block("low on memory"));
    let mut publish = client.basic_publish("", "q", "one").send();
    for _ in 0..3 {
        let late = conn
            .wait(&mut consumer, Some(Duration::from_millis(5)))
            .unwrap_err();
        assert_eq!(late.to_string(), "waiting took longer than 0.005 s");
        let late = conn.wait(&mut publish, AT_ONCE).unwrap_err();
        assert!(
            matches!(
                late,
                Error::Timeout {
                    what: "waiting",
                    ..
                }
            ),
            "{late:?}"
        );
    }
    let now = server.now();
    server.with(|broker| broker.unblock(now));
    conn.wait(&mut publish, SOON).unwrap();
    assert_eq!(conn.wait(&mut consumer, SOON).unwrap().body(), b"one");
}

#[test]
fn consumer_can_be_awaited_repeatedly() {
    let (mut conn, client) = connected();
    conn.wait(&mut client.queue_declare("q").send(), SOON)
        .unwrap();
    let mut consumer = conn
        .wait(
            &mut client.basic_consume("q").prefetch_count(1).send(),
            SOON,
        )
        .unwrap();
    for n in 0..100 {
        let body = n.to_string();
        conn.wait(&mut client.basic_publish("", "q", &body).send(), SOON)
            .unwrap();
        let delivery = conn.wait(&mut consumer, SOON).unwrap();
        assert_eq!(delivery.body(), body.as_bytes());
        delivery.ack().unwrap();
    }
}

/// Returns the first error of a consumer, and checks that a second wait returns the same one.
fn end_of(
    conn: &mut puka::evented::Evented<puka::evented::Stream>,
    consumer: &mut Consumer,
) -> Error {
    let first = conn.wait(consumer, SOON).unwrap_err();
    let second = conn.wait(consumer, SOON).unwrap_err();
    assert_eq!(first.to_string(), second.to_string());
    first
}

#[test]
fn ended_consumer_repeats_its_error() {
    let (mut conn, client) = connected();
    for queue in ["a", "b", "c"] {
        conn.wait(&mut client.queue_declare(queue).send(), SOON)
            .unwrap();
    }
    let mut deleted = conn
        .wait(&mut client.basic_consume("a").send(), SOON)
        .unwrap();
    conn.wait(&mut client.queue_delete("a").send(), SOON)
        .unwrap();
    assert!(
        matches!(end_of(&mut conn, &mut deleted), Error::ConsumerCancelled(tag)
            if tag == deleted.tag())
    );

    let mut cancelled = conn
        .wait(&mut client.basic_consume("b").send(), SOON)
        .unwrap();
    conn.wait(&mut cancelled.cancel(), SOON).unwrap();
    let error = end_of(&mut conn, &mut cancelled);
    assert!(
        matches!(
            error,
            Error::InvalidArgument {
                what: "consumer",
                ..
            }
        ),
        "{error:?}"
    );

    let mut closed = conn
        .wait(&mut client.basic_consume("c").send(), SOON)
        .unwrap();
    conn.wait(&mut client.close(), SOON).unwrap();
    let error = end_of(&mut conn, &mut closed);
    assert!(
        matches!(error, Error::InvalidArgument { .. } | Error::Closed),
        "{error:?}"
    );
}

#[test]
fn any_future_can_be_waited_for() {
    let (mut conn, client) = connected();
    let work = async {
        client.queue_declare("q").await?;
        for n in 0..10 {
            client
                .basic_publish("", "q", n.to_string())
                .submit()
                .await?
                .await?;
        }
        client.queue_purge("q").await
    };
    assert_eq!(conn.wait(&mut pin!(work), SOON).unwrap(), 10);
}

#[test]
fn wait_for_any_returns_the_index() {
    let (mut conn, client) = connected();
    conn.wait(&mut client.queue_declare("q").send(), SOON)
        .unwrap();
    conn.wait(&mut client.queue_declare("p").send(), SOON)
        .unwrap();
    let mut consumers = [
        conn.wait(&mut client.basic_consume("q").send(), SOON)
            .unwrap(),
        conn.wait(&mut client.basic_consume("p").send(), SOON)
            .unwrap(),
    ];
    assert!(matches!(
        conn.wait_for_any(&mut consumers, AT_ONCE),
        Err(Error::Timeout { .. })
    ));
    for (queue, place) in [("p", 1), ("q", 0), ("p", 1)] {
        conn.wait(&mut client.basic_publish("", queue, queue).send(), SOON)
            .unwrap();
        let (first, delivery) = conn.wait_for_any(&mut consumers, SOON).unwrap();
        let delivery = delivery.unwrap();
        assert_eq!((first, delivery.body()), (place, queue.as_bytes()));
        delivery.ack().unwrap();
    }
    let nothing = conn.wait_for_any(&mut [] as &mut [Consumer], SOON);
    assert!(matches!(
        nothing,
        Err(Error::InvalidArgument {
            what: "awaited",
            ..
        })
    ));
}

#[test]
fn wait_for_all_keeps_the_order() {
    let (mut conn, client) = connected();
    let mut promises: Vec<_> = (0..1000)
        .map(|n| client.queue_declare(format!("q{n}")).send())
        .collect();
    promises.insert(500, client.queue_declare("missing").passive(true).send());
    let answers = conn.wait_for_all(&mut promises, SOON);
    assert_eq!(answers.len(), 1001);
    for (n, answer) in answers.into_iter().enumerate() {
        match n {
            500 => assert!(matches!(answer, Err(Error::NotFound(_)))),
            n => assert_eq!(
                answer.unwrap().name,
                format!("q{}", if n < 500 { n } else { n - 1 })
            ),
        }
    }
}

#[test]
fn wait_for_all_returns_timeouts_as_results() {
    let (mut conn, client) = connected();
    conn.wait(&mut client.queue_declare("q").send(), SOON)
        .unwrap();
    conn.wait(&mut client.queue_declare("p").send(), SOON)
        .unwrap();
    conn.wait(&mut client.basic_publish("", "p", "one").send(), SOON)
        .unwrap();
    let mut consumers = [
        conn.wait(&mut client.basic_consume("q").send(), SOON)
            .unwrap(),
        conn.wait(&mut client.basic_consume("p").send(), SOON)
            .unwrap(),
    ];
    // Once the second consumer has its delivery, only the first one is late.
    conn.wait(&mut client.queue_declare("q").send(), SOON)
        .unwrap();
    let answers = conn.wait_for_all(&mut consumers, Some(Duration::from_millis(5)));
    assert!(matches!(
        answers[0],
        Err(Error::Timeout {
            what: "waiting",
            ..
        })
    ));
    assert_eq!(answers[1].as_ref().unwrap().body(), b"one");
    conn.wait(&mut client.basic_publish("", "q", "two").send(), SOON)
        .unwrap();
    assert_eq!(conn.wait(&mut consumers[0], SOON).unwrap().body(), b"two");
}

#[test]
fn large_output_is_written_in_parts() {
    let (mut conn, client) = connected();
    conn.wait(&mut client.queue_declare("q").send(), SOON)
        .unwrap();
    // The confirm arrives only after the whole body was written.
    let body = vec![7; 16 << 20];
    let start = Instant::now();
    conn.wait(
        &mut client.basic_publish("", "q", body.clone()).send(),
        SOON,
    )
    .unwrap();
    let message = conn
        .wait(&mut client.basic_get("q").send(), SOON)
        .unwrap()
        .unwrap();
    assert!(message.body() == body);
    assert!(start.elapsed() < SOON.unwrap() / 2, "{:?}", start.elapsed());
}

#[test]
fn waiting_runs_no_callbacks() {
    let (mut conn, client) = connected();
    conn.on(client.queue_declare("q").send(), |_, _| {
        panic!("a callback ran")
    });
    conn.wait(&mut client.queue_declare("p").send(), SOON)
        .unwrap();
    conn.wait_for_all(&mut [client.queue_declare("p").send()], SOON)
        .pop()
        .unwrap()
        .unwrap();
}

#[test]
fn promise_numbers_are_small_and_unique() {
    let (mut conn, client) = connected();
    let mut promises: Vec<_> = (0..100)
        .map(|n| client.queue_declare(format!("q{n}")).send())
        .collect();
    let mut numbers: Vec<_> = promises
        .iter()
        .map(|promise| promise.number().unwrap())
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 100);
    assert!(numbers.iter().all(|number| *number < 110), "{numbers:?}");

    let mut later = client.queue_declare("q").send();
    conn.wait(&mut later, SOON).unwrap();
    assert_eq!(later.number(), None);
    let refused = client.queue_declare("x".repeat(256)).send();
    assert_eq!(refused.number(), None);
    // Complete, but not fetched: the numbers are still in use.
    let again = client.queue_declare("q").send();
    assert!(!numbers.contains(&again.number().unwrap()));
    for answer in conn.wait_for_all(&mut promises, SOON) {
        answer.unwrap();
    }
    // A number is not reused at once, but it is reused.
    let reused = (0..200).map(|_| {
        let mut promise = client.queue_declare("q").send();
        let number = promise.number().unwrap();
        conn.wait(&mut promise, SOON).unwrap();
        number
    });
    assert!(reused.max().unwrap() < 110);
}

#[test]
fn broken_connection_is_the_result() {
    let (server, address) = broker();
    let (mut conn, client) = connect_with(to(address).recovery(None));
    conn.wait(&mut client.queue_declare("q").send(), SOON)
        .unwrap();
    let mut consumer = conn
        .wait(&mut client.basic_consume("q").send(), SOON)
        .unwrap();
    cut(&server);
    let error = conn.wait(&mut consumer, SOON).unwrap_err();
    assert!(error.is_connection_broken(), "{error:?}");
    assert!(
        conn.wait(&mut client.queue_declare("p").send(), SOON)
            .unwrap_err()
            .is_connection_broken()
    );
    assert!(conn.is_over());
    assert!(conn.run(SOON).unwrap_err().is_connection_broken());
}
