//! The methods that an event loop calls, one by one.

use crate::memory::{self, answer, open, settle};
use puka::{Error, Options};
use puka_test_broker::Server;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

#[test]
fn request_is_written_in_the_next_iteration() {
    let (mut conn, client) = memory::connected();
    settle(&mut conn).unwrap();
    assert!(conn.needs_read() && !conn.needs_write());
    let promise = client.queue_declare("q").send();
    assert!(conn.needs_write());
    assert!(
        conn.next_timeout().unwrap() <= Instant::now(),
        "an edge-triggered loop must not depend on another event"
    );
    conn.on_write().unwrap();
    assert!(!conn.needs_write());
    assert_eq!(memory::poll_now(promise).unwrap().unwrap().name, "q");
}

#[test]
fn full_stream_is_waited_for() {
    let server = Server::default();
    let mut conn = open(&server, Options::default());
    let client = conn.client();
    answer(&mut conn, client.connect()).unwrap();
    answer(&mut conn, client.queue_declare("q").send()).unwrap();
    server.with(|broker| broker.block("low on memory"));
    conn.on_read().unwrap();
    drop(client.basic_publish("", "q", "one").send());
    // The broker no longer reads from a publishing connection, so more requests fill the stream.
    let mut requests = vec![];
    while requests.len() < 10_000
        && !(conn.needs_write() && conn.next_timeout().unwrap() > Instant::now())
    {
        requests.push(client.queue_declare("q").send());
        conn.on_write().unwrap();
    }
    assert!(requests.len() < 10_000 || !conn.needs_write());
    let now = server.now();
    server.with(|broker| broker.unblock(now));
    settle(&mut conn).unwrap();
    for request in requests {
        answer(&mut conn, request).unwrap();
    }
}

#[test]
fn handshake_begins_by_itself() {
    let mut conn = open(&Server::default(), Options::default());
    assert!(conn.needs_write());
    settle(&mut conn).unwrap();
    assert_eq!(
        conn.client().server_properties().product(),
        "puka-test-broker"
    );
}

#[test]
fn extra_calls_are_harmless() {
    let (mut conn, client) = memory::connected();
    for _ in 0..100 {
        conn.on_write().unwrap();
        conn.on_read().unwrap();
        conn.on_timeout(Instant::now()).unwrap();
        conn.run_any_callbacks();
    }
    answer(&mut conn, client.close()).unwrap();
    for _ in 0..100 {
        conn.on_write().unwrap();
        conn.on_read().unwrap();
        conn.on_timeout(Instant::now()).unwrap();
        conn.run_any_callbacks();
    }
}

#[test]
fn unexpected_end_is_returned_by_each_call() {
    let server = Server::default();
    let mut conn = open(&server, Options::default());
    let client = conn.client();
    answer(&mut conn, client.connect()).unwrap();
    let told = Rc::new(Cell::new(false));
    let seen = told.clone();
    conn.on(client.basic_get("q").send(), move |_, answer| {
        assert!(answer.unwrap_err().is_connection_broken());
        seen.set(true);
    });
    conn.run_any_callbacks();
    let now = server.now();
    server.with(|broker| {
        let id = broker.connections()[0];
        broker.drop_connection(now, id);
    });
    assert!(conn.on_read().unwrap_err().is_connection_broken());
    assert!(conn.on_write().unwrap_err().is_connection_broken());
    assert!(conn.on_timeout(now).unwrap_err().is_connection_broken());
    assert!(conn.is_over() && !conn.needs_read() && !conn.needs_write());
    assert!(conn.next_timeout().is_some(), "a callback is ready");
    conn.run_any_callbacks();
    assert!(told.get());
    assert_eq!(conn.next_timeout(), None);
}

#[test]
fn reading_resumes_after_deliveries_are_taken() {
    let server = Server::default();
    let mut conn = open(&server, Options::default().max_buffered_deliveries(10));
    let client = conn.client();
    answer(&mut conn, client.connect()).unwrap();
    answer(&mut conn, client.queue_declare("q").send()).unwrap();
    for n in 0..100 {
        answer(
            &mut conn,
            client.basic_publish("", "q", vec![n; 50_000]).send(),
        )
        .unwrap();
    }
    let consumer = answer(&mut conn, client.basic_consume("q").no_ack(true).send()).unwrap();
    conn.on_read().unwrap();
    assert!(!conn.needs_read(), "the limit is reached");
    let count = Rc::new(Cell::new(0));
    let seen = count.clone();
    conn.on_each(consumer, move |_, delivery| {
        seen.set(seen.get() + u32::from(delivery.is_ok()))
    });
    // An edge-triggered loop gets no further notice: `next_timeout` alone makes it read the rest.
    while conn.next_timeout().is_some_and(|at| at <= Instant::now()) {
        conn.on_timeout(Instant::now()).unwrap();
        conn.run_any_callbacks();
    }
    assert_eq!(count.get(), 100);
    assert!(conn.needs_read());
}

#[test]
fn dropped_promise_is_harmless() {
    let (mut conn, client) = memory::connected();
    drop(client.queue_declare("q").send());
    conn.on(client.queue_declare("p").send(), |_, declared| {
        assert_eq!(declared.unwrap().name, "p")
    });
    settle(&mut conn).unwrap();
    assert!(matches!(
        answer(&mut conn, client.queue_declare("r").passive(true).send()),
        Err(Error::NotFound(_))
    ));
    answer(&mut conn, client.queue_declare("q").passive(true).send()).unwrap();
}

/// Serves a Unix socket with a new broker.
#[cfg(unix)]
pub(crate) fn serve(socket: std::os::unix::net::UnixStream) {
    let (from, to) = smol::io::split(smol::Async::new(socket).unwrap());
    let (out, into) = smol::io::split(Server::default().connect());
    smol::spawn(smol::io::copy(from, into)).detach();
    smol::spawn(smol::io::copy(out, to)).detach();
}

#[cfg(unix)]
#[test]
fn unix_socket_works() {
    use crate::tcp::SOON;
    use puka::evented::Evented;
    use std::os::unix::net::UnixStream;

    let (near, far) = UnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    serve(far);
    let mut conn = Evented::new(near, Options::default());
    let client = conn.client();
    assert_eq!(
        conn.wait(&mut client.queue_declare("q").send(), SOON)
            .unwrap()
            .name,
        "q"
    );
    let mut confirms: Vec<_> = (0..100)
        .map(|_| client.basic_publish("", "q", vec![0; 100_000]).send())
        .collect();
    for confirmed in conn.wait_for_all(&mut confirms, SOON) {
        confirmed.unwrap();
    }
    conn.wait(&mut client.close(), SOON).unwrap();
}
