//! Output that is flushed before the socket is closed.

use crate::tcp::{SOON, broker, connect_to};
use puka::Error;
use puka::evented::{Evented, Stream};
use puka_test_broker::Server;
use std::cell::Cell;
use std::rc::Rc;

fn filled() -> (Server, Evented<Stream>, puka::Client) {
    let (server, address) = broker();
    let (mut conn, client) = connect_to(address);
    conn.wait(&mut client.queue_declare("q").send(), SOON)
        .unwrap();
    for n in 0..3 {
        conn.wait(
            &mut client.basic_publish("", "q", n.to_string()).send(),
            SOON,
        )
        .unwrap();
    }
    (server, conn, client)
}

/// Drops the client without a close, and waits until the broker has noticed.
fn drop_connection(server: &Server, conn: Evented<Stream>) {
    drop(conn);
    while server.with(|broker| !broker.connections().is_empty()) {
        std::thread::yield_now();
    }
}

fn left(server: &Server) -> usize {
    server.with(|broker| broker.queue("/", "q").unwrap().ready.len())
}

#[test]
fn acks_are_flushed_by_any_next_wait() {
    let (server, mut conn, client) = filled();
    let mut consumer = conn
        .wait(&mut client.basic_consume("q").send(), SOON)
        .unwrap();
    let mut answered = client.queue_declare("p").send();
    conn.on_write().unwrap();
    while answered.number().is_some() && conn.wait(&mut answered, SOON).is_err() {}
    for _ in 0..3 {
        conn.wait(&mut consumer, SOON).unwrap().ack().unwrap();
    }
    let mut refused = client.queue_declare("x".repeat(256)).send();
    assert!(
        conn.wait(&mut refused, SOON).is_err(),
        "the result was there before the wait"
    );
    drop_connection(&server, conn);
    assert_eq!(left(&server), 0);
}

#[test]
fn acks_are_flushed_when_the_loop_is_broken() {
    let (server, mut conn, client) = filled();
    let consumer = conn
        .wait(&mut client.basic_consume("q").send(), SOON)
        .unwrap();
    let count = Rc::new(Cell::new(0));
    conn.on_each(consumer, move |conn, delivery| {
        let Ok(delivery) = delivery else { return };
        delivery.ack().unwrap();
        count.set(count.get() + 1);
        if count.get() == 3 {
            conn.loop_break();
        }
    });
    conn.run(SOON).unwrap();
    drop_connection(&server, conn);
    assert_eq!(left(&server), 0);
}

#[test]
fn acks_are_flushed_when_the_loop_times_out() {
    let (server, mut conn, client) = filled();
    let consumer = conn
        .wait(&mut client.basic_consume("q").send(), SOON)
        .unwrap();
    let count = Rc::new(Cell::new(0));
    let seen = count.clone();
    conn.on_each(consumer, move |_, delivery| {
        let Ok(delivery) = delivery else { return };
        delivery.ack().unwrap();
        seen.set(seen.get() + 1);
    });
    while count.get() < 3 {
        conn.run(Some(std::time::Duration::ZERO)).unwrap();
    }
    drop_connection(&server, conn);
    assert_eq!(left(&server), 0);
}

#[test]
fn accepted_requests_complete_before_the_close() {
    let (server, mut conn, client) = filled();
    let mut confirms: Vec<_> = (0..1000)
        .map(|_| client.basic_publish("", "q", vec![0; 5000]).send())
        .collect();
    conn.wait(&mut client.close(), SOON).unwrap();
    for confirmed in conn.wait_for_all(&mut confirms, SOON) {
        confirmed.unwrap();
    }
    assert_eq!(left(&server), 1003);
    assert!(matches!(
        conn.wait(&mut client.queue_declare("q").send(), SOON),
        Err(Error::Closed)
    ));
    conn.run(SOON).unwrap();
    assert!(conn.is_over());
    assert!(!conn.needs_read() && !conn.needs_write() && conn.next_timeout().is_none());
    conn.on_read().unwrap();
}

#[test]
fn dropping_the_client_breaks_the_connection() {
    let (server, conn, client) = filled();
    let promise = client.queue_declare("p").send();
    drop_connection(&server, conn);
    let error = futures_lite::future::block_on(promise).unwrap_err();
    assert!(
        matches!(error, Error::ConnectionBroken(puka::Broken::DriverDropped)),
        "{error:?}"
    );
}
