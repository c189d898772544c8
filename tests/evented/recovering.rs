//! Lost connections and their recovery: with blocking calls, with callbacks, and in event loops of
//! the application.

use crate::tcp::{SOON, broker, connect_with, cut, to};
use puka::evented::{self, Evented, Stream};
use puka::{Broken, Client, ConnectionState, Error, Recovery};
use puka_test_broker::Server;
use std::cell::Cell;
use std::io::{ErrorKind, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

const HOUR: Duration = Duration::from_secs(3600);

/// A seed for which the first delay is neither zero nor the longest.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// Returns a policy that reconnects within milliseconds.
fn quick() -> Recovery {
    Recovery::default()
        .seed(SEED)
        .backoff(Duration::from_millis(1), Duration::from_millis(5))
}

/// Returns a policy that reconnects after about an hour.
fn slow() -> Recovery {
    Recovery::default().seed(SEED).backoff(HOUR, HOUR)
}

fn connected(recovery: Recovery) -> (Server, Evented<Stream>, Client) {
    let (server, address) = broker();
    let (conn, client) = connect_with(to(address).recovery(recovery));
    (server, conn, client)
}

/// Cuts the connection, and drives it until it has noticed.
fn lose(conn: &mut Evented<Stream>, client: &Client) {
    conn.socket()
        .tcp()
        .unwrap()
        .shutdown(Shutdown::Both)
        .unwrap();
    while matches!(client.state(), ConnectionState::Open) {
        conn.on_read().unwrap();
    }
    assert!(
        matches!(client.state(), ConnectionState::Recovering { .. }),
        "{:?}",
        client.state()
    );
}

#[test]
fn consumer_and_publish_survive_a_loss() {
    let (server, mut conn, client) = connected(quick());
    conn.wait(&mut client.queue_declare("q").send(), SOON)
        .unwrap();
    let consumer = conn
        .wait(&mut client.basic_consume("q").send(), SOON)
        .unwrap();
    let seen = Rc::new(Cell::new(0));
    let count = seen.clone();
    conn.on_each(consumer, move |conn, delivery| {
        let Ok(delivery) = delivery else { return };
        assert_eq!(delivery.body(), count.get().to_string().as_bytes());
        count.set(count.get() + 1);
        delivery.ack().unwrap();
        conn.loop_break();
    });
    for n in 0..20 {
        cut(&server);
        while matches!(client.state(), ConnectionState::Open) {
            conn.on_read().unwrap();
        }
        let publish = client.basic_publish("", "q", n.to_string()).send();
        let confirmed = Rc::new(Cell::new(false));
        let told = confirmed.clone();
        conn.on(publish, move |conn, outcome| {
            outcome.unwrap();
            told.set(true);
            conn.loop_break();
        });
        while seen.get() <= n || !confirmed.get() {
            conn.run(SOON).unwrap();
        }
        // A message that was acknowledged must not be delivered again.
        conn.wait(&mut client.queue_declare("q").send(), SOON)
            .unwrap();
    }
    conn.wait(&mut client.close(), SOON).unwrap();
    conn.run(SOON).unwrap();
    assert!(conn.is_over());
}

#[test]
fn wait_continues_across_a_recovery() {
    let (server, mut conn, client) = connected(quick());
    conn.wait(&mut client.queue_declare("q").send(), SOON)
        .unwrap();
    let mut consumer = conn
        .wait(&mut client.basic_consume("q").send(), SOON)
        .unwrap();
    for n in 0..10 {
        cut(&server);
        let mut declare = client.queue_declare("p").send();
        assert_eq!(conn.wait(&mut declare, SOON).unwrap().name, "p");
        conn.wait(
            &mut client.basic_publish("", "q", n.to_string()).send(),
            SOON,
        )
        .unwrap();
        let delivery = conn.wait(&mut consumer, SOON).unwrap();
        assert_eq!(delivery.body(), n.to_string().as_bytes());
        delivery.ack().unwrap();
        conn.wait(&mut client.queue_declare("q").send(), SOON)
            .unwrap();
    }
}

#[test]
fn several_connections_in_one_loop_recover() {
    let (server, mut one, first) = connected(quick());
    let (mut other, second) = {
        let address: SocketAddr = one.socket().tcp().unwrap().peer_addr().unwrap();
        connect_with(to(address).recovery(quick()))
    };
    one.wait(&mut first.queue_declare("q").send(), SOON)
        .unwrap();
    let consumer = other
        .wait(&mut second.basic_consume("q").send(), SOON)
        .unwrap();
    let seen = Rc::new(Cell::new(false));
    let told = seen.clone();
    other.on_each(consumer, move |conn, delivery| {
        delivery.unwrap().ack().unwrap();
        told.set(true);
        conn.loop_break();
    });
    cut(&server);
    let confirmed = Rc::new(Cell::new(false));
    let told = confirmed.clone();
    one.on(first.queue_declare("p").send(), move |conn, declared| {
        declared.unwrap();
        let told = told.clone();
        conn.on(
            conn.client().basic_publish("", "q", "one").send(),
            move |_, published| {
                published.unwrap();
                told.set(true);
            },
        );
    });
    while !seen.get() || !confirmed.get() {
        evented::run(&mut [&mut one, &mut other], Some(Duration::from_millis(10))).unwrap();
    }
}

#[test]
fn other_threads_make_requests_during_a_loss() {
    let (server, address) = broker();
    let (sender, receiver) = std::sync::mpsc::channel();
    let driving = thread::spawn(move || {
        let conn = evented::connect_with(to(address).recovery(quick())).unwrap();
        sender.send(conn.client()).unwrap();
        conn.run_to_end()
    });
    let client = receiver.recv().unwrap();
    for n in 0..20 {
        let declare = client.queue_declare(format!("q{n}")).into_future();
        futures_lite::future::block_on(declare).unwrap();
        cut(&server);
    }
    drop(client);
    driving.join().unwrap().unwrap();
}

#[test]
fn lost_connection_waits_only_for_its_deadline() {
    let (_server, mut conn, client) = connected(slow());
    let before = conn.socket().generation();
    lose(&mut conn, &client);
    assert_ne!(conn.socket().generation(), before);
    assert!(conn.socket().tcp().is_none());
    assert!(!conn.needs_read() && !conn.needs_write() && !conn.is_over());
    // The broker's last bytes are also awaited only until their deadline.
    conn.on_timeout(Instant::now() + Duration::from_secs(1))
        .unwrap();
    let next = conn.next_timeout().unwrap() - Instant::now();
    assert!(next > HOUR / 100 && next <= HOUR, "{next:?}");

    let start = Instant::now();
    let mut declare = client.queue_declare("q").send();
    let late = conn.next_timeout().unwrap();
    assert!(late > start + Duration::from_secs(29) && late < start + Duration::from_secs(33));
    conn.on_timeout(late).unwrap();
    let late = conn.wait(&mut declare, Some(Duration::ZERO)).unwrap_err();
    assert!(
        matches!(
            late,
            Error::Timeout {
                what: "the request",
                ..
            }
        ),
        "{late:?}"
    );

    // The deadline is reached: hours can pass at once in a test.
    let next = conn.next_timeout().unwrap();
    conn.on_timeout(next).unwrap();
    assert!(conn.socket().tcp().is_some() && conn.needs_write());
    assert_eq!(
        conn.wait(&mut client.queue_declare("q").send(), SOON)
            .unwrap()
            .name,
        "q"
    );
}

#[test]
fn lost_connection_can_be_closed() {
    let (_server, mut conn, client) = connected(slow());
    conn.wait(&mut client.queue_declare("q").send(), SOON)
        .unwrap();
    let mut consumer = conn
        .wait(&mut client.basic_consume("q").send(), SOON)
        .unwrap();
    lose(&mut conn, &client);
    let mut declare = client.queue_declare("p").send();
    let mut close = client.close();
    assert!(
        conn.next_timeout().unwrap() <= Instant::now(),
        "the close is immediate"
    );
    assert!(matches!(
        conn.wait(&mut close, SOON),
        Err(Error::CloseIncomplete { pending: 1 })
    ));
    assert!(matches!(conn.wait(&mut declare, SOON), Err(Error::Closed)));
    assert!(matches!(conn.wait(&mut consumer, SOON), Err(Error::Closed)));
    conn.run(SOON).unwrap();
    assert!(conn.is_over());
    assert_eq!(conn.next_timeout(), None);
}

#[test]
fn dropping_the_last_client_closes_a_lost_connection() {
    let (server, address) = broker();
    let (sender, receiver) = std::sync::mpsc::channel();
    let driving = thread::spawn(move || {
        let conn = evented::connect_with(to(address).recovery(slow())).unwrap();
        sender.send(conn.client()).unwrap();
        conn.run_to_end()
    });
    let client = receiver.recv().unwrap();
    futures_lite::future::block_on(client.connect()).unwrap();
    cut(&server);
    while matches!(client.state(), ConnectionState::Open) {
        thread::yield_now();
    }
    drop(client);
    driving.join().unwrap().unwrap();
}

/// Serves a connection with a new broker.
fn serve(socket: TcpStream) {
    let (from, into) = smol::io::split(smol::Async::new(socket).unwrap());
    let (out, back) = smol::io::split(Server::default().connect());
    smol::spawn(smol::io::copy(from, back)).detach();
    smol::spawn(smol::io::copy(out, into)).detach();
}

/// Returns a client of a broker that accepts only one connection.
fn connected_once(recovery: impl Into<Option<Recovery>>) -> (Evented<Stream>, Client) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let options = to(listener.local_addr().unwrap()).recovery(recovery);
    let mut conn = evented::connect_with(options).unwrap();
    serve(listener.accept().unwrap().0);
    let client = conn.client();
    conn.wait(&mut client.connect(), SOON).unwrap();
    (conn, client)
}

/// Recovers once, with a filter that receives the client.
fn recovered_with_filter(
    filter: impl Fn(&Client) -> bool + Send + Sync + 'static,
) -> (Evented<Stream>, Client) {
    let shared = Arc::new(OnceLock::<Client>::new());
    let own = shared.clone();
    let (_server, mut conn, client) =
        connected(quick().filter(move |_| filter(own.get().unwrap())));
    shared.set(client.clone()).map_err(drop).unwrap();
    conn.wait(&mut client.queue_declare("q").send(), SOON)
        .unwrap();
    lose(&mut conn, &client);
    conn.wait(&mut client.queue_declare("after").send(), SOON)
        .unwrap();
    assert!(matches!(client.state(), ConnectionState::Open));
    (conn, client)
}

#[test]
fn filter_may_ask_the_client() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let promises = asked.clone();
    let (mut conn, _client) = recovered_with_filter(move |client| {
        assert!(matches!(client.state(), ConnectionState::Recovering { .. }));
        assert_eq!(client.counters().opened, 1);
        promises
            .lock()
            .unwrap()
            .push(client.queue_declare("from the filter").send());
        true
    });
    let mut asked = std::mem::take(&mut *asked.lock().unwrap());
    assert_eq!(
        conn.wait(&mut asked[0], SOON).unwrap().name,
        "from the filter"
    );
}

#[test]
fn panicking_filter_does_not_stop_the_recovery() {
    recovered_with_filter(|_| panic!("a fault of the filter"));
}

#[test]
fn partial_frame_is_discarded_after_a_loss() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let options = to(listener.local_addr().unwrap()).recovery(quick());
    let mut conn = evented::connect_with(options).unwrap();
    let mut first = listener.accept().unwrap().0;
    serve(first.try_clone().unwrap());
    let client = conn.client();
    conn.wait(&mut client.connect(), SOON).unwrap();
    first.set_nonblocking(false).unwrap();
    first.write_all(&[1, 0, 1, 0]).unwrap();
    first.shutdown(Shutdown::Both).unwrap();
    thread::spawn(move || serve(listener.accept().unwrap().0));
    let declared = conn
        .wait(&mut client.queue_declare("q").send(), SOON)
        .unwrap();
    assert_eq!(declared.name, "q");
    assert!(matches!(client.state(), ConnectionState::Open));
}

#[test]
fn last_refusal_is_the_final_error() {
    let (mut conn, client) = connected_once(quick().max_attempts(3));
    lose(&mut conn, &client);
    let mut declare = client.queue_declare("q").send();
    let refused = conn.wait(&mut declare, SOON).unwrap_err();
    assert!(
        matches!(&refused, Error::ConnectionBroken(Broken::Io(io))
            if io.kind() == ErrorKind::ConnectionRefused),
        "{refused:?}"
    );
    assert!(conn.is_over());
    assert!(conn.run(SOON).unwrap_err().is_connection_broken());
    assert!(conn.on_read().unwrap_err().is_connection_broken());
}

#[test]
fn loss_without_recovery_is_final() {
    let (mut conn, client) = connected_once(None);
    let mut declare = client.queue_declare("q").send();
    conn.socket()
        .tcp()
        .unwrap()
        .shutdown(Shutdown::Both)
        .unwrap();
    assert!(
        conn.wait(&mut declare, SOON)
            .unwrap_err()
            .is_connection_broken()
    );
    assert!(conn.is_over());
    assert!(conn.run(SOON).unwrap_err().is_connection_broken());
}

#[cfg(unix)]
#[test]
fn first_connect_can_wait_for_the_broker() {
    use puka::{Endpoint, Options};
    use std::os::unix::net::UnixListener;

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broker");
    let options = Options::default().endpoint(Endpoint::unix(&path)).unwrap();
    assert!(
        evented::connect_with(options.clone().recovery(quick()))
            .unwrap_err()
            .is_connection_broken()
    );

    let mut conn =
        evented::connect_with(options.recovery(quick().retry_first_connect(true))).unwrap();
    let client = conn.client();
    assert!(matches!(client.state(), ConnectionState::Connecting));
    let mut declare = client.queue_declare("q").send();
    assert!(matches!(
        conn.wait(&mut declare, Some(Duration::from_millis(20))),
        Err(Error::Timeout {
            what: "waiting",
            ..
        })
    ));
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || crate::by_hand::serve(listener.accept().unwrap().0));
    assert_eq!(conn.wait(&mut declare, SOON).unwrap().name, "q");
}

#[cfg(unix)]
mod foreign {
    use super::*;
    use mio::unix::SourceFd;
    use mio::{Events, Interest, Poll, Token};
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use std::os::fd::AsRawFd;

    #[test]
    fn edge_triggered_loop_follows_the_generation() {
        let (server, mut conn, client) = connected(quick());
        conn.wait(&mut client.queue_declare("q").send(), SOON)
            .unwrap();
        let consumer = conn
            .wait(&mut client.basic_consume("q").send(), SOON)
            .unwrap();
        let seen = Rc::new(Cell::new(0));
        let told = seen.clone();
        conn.on_each(consumer, move |_, delivery| {
            delivery.unwrap().ack().unwrap();
            told.set(told.get() + 1);
        });

        let mut mio = Poll::new().unwrap();
        let mut events = Events::with_capacity(16);
        let mut registered = None;
        let (mut turns, mut published) = (0, 0);
        while seen.get() < 20 {
            if published <= seen.get() && matches!(client.state(), ConnectionState::Open) {
                published += 1;
                cut(&server);
                let publish = client.basic_publish("", "q", "one").send();
                // The publish may have been in flight when the connection was lost.
                conn.on(publish, |conn, outcome| {
                    if let Err(Error::Unconfirmed(_)) = outcome {
                        drop(conn.client().basic_publish("", "q", "one").send());
                    }
                });
            }
            let generation = conn.socket().generation();
            if registered.replace(generation) != Some(generation) {
                let interest = Interest::READABLE | Interest::WRITABLE;
                mio.registry()
                    .register(&mut SourceFd(&conn.as_raw_fd()), Token(0), interest)
                    .unwrap();
            }
            let timeout = conn
                .next_timeout()
                .map(|at| at.saturating_duration_since(Instant::now()));
            mio.poll(&mut events, timeout).unwrap();
            for event in &events {
                if event.is_readable() {
                    conn.on_read().unwrap();
                }
                if event.is_writable() {
                    conn.on_write().unwrap();
                }
            }
            conn.on_timeout(Instant::now()).unwrap();
            conn.run_any_callbacks();
            turns += 1;
            assert!(turns < 20_000, "the loop is busy");
        }
    }

    #[test]
    fn loop_sleeps_during_a_loss() {
        let (_server, mut conn, client) = connected(slow());
        lose(&mut conn, &client);
        assert!(!conn.needs_read() && !conn.needs_write());
        // The system reports the end of a stream even for an empty interest.
        let mut descriptors = [PollFd::new(&conn, PollFlags::empty())];
        poll(
            &mut descriptors,
            Some(&Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            }),
        )
        .unwrap();
        assert!(
            descriptors[0].revents().is_empty(),
            "{:?}",
            descriptors[0].revents()
        );
    }
}
