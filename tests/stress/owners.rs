//! Values of the user whose drop calls the client, on every path that drops one, in many threads.
//!
//! A value that is dropped while the client's lock is held deadlocks, so the test does not end.
//! Properties and names are not among them: they are borrowed strings and tables, which run no code
//! of the user.

use crate::{THREADS, in_time};
use bytes::Bytes;
use puka::evented::Evented;
use puka::{Client, Credentials, Dial, Error, Options, Recovery, Transport};
use puka_test_broker::Server;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

/// The number of rounds of each thread.
const ROUNDS: usize = 300;

/// The number of outcomes between two losses of all connections.
const BETWEEN_LOSSES: usize = 40;

/// A body that is copied, one that is shared, and one of several frames.
const SIZES: [usize; 3] = [10, 8 << 10, 200 << 10];

/// Makes values whose drop calls the client, and counts them.
#[derive(Clone, Default)]
struct Owners {
    /// Emptied at the end, because the client stores some of the values and would keep itself
    /// alive.
    client: Arc<Mutex<Option<Client>>>,
    made: Arc<AtomicUsize>,
    dropped: Arc<AtomicUsize>,
}

/// The owner of a body, the content of a waker, the capture of a callback, or an error.
struct Owner {
    owners: Owners,
    body: Vec<u8>,
}

impl Owners {
    fn owner(&self, len: usize) -> Owner {
        self.made.fetch_add(1, Ordering::SeqCst);
        Owner {
            owners: self.clone(),
            body: vec![7; len],
        }
    }

    fn body(&self, len: usize) -> Bytes {
        Bytes::from_owner(self.owner(len))
    }

    fn waker(&self) -> Waker {
        Waker::from(Arc::new(self.owner(0)))
    }

    /// Polls twice, each time with a new waker. The second one replaces the first.
    fn poll<F: Future>(&self, future: F) -> Poll<F::Output> {
        let mut future = pin!(future);
        for _ in 0..2 {
            let polled = future
                .as_mut()
                .poll(&mut Context::from_waker(&self.waker()));
            if polled.is_ready() {
                return polled;
            }
        }
        Poll::Pending
    }

    /// Reads the state and changes it: both need the lock.
    fn ask(&self) {
        let client = self.client.lock().unwrap().clone();
        if let Some(client) = client {
            let _ = client.blocked();
            let _ = client
                .basic_publish("", "nowhere", "asked")
                .confirm(false)
                .try_send();
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.owners.ask();
        self.owners.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl Wake for Owner {
    fn wake(self: Arc<Self>) {}
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Owner")
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an owner")
    }
}

impl std::error::Error for Owner {}

/// Dials a broker in memory. Every third attempt fails with an error of the user.
struct Net {
    server: Server,
    owners: Owners,
    attempts: AtomicUsize,
}

impl Dial for Net {
    async fn resolve(&self, _: &str, _: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(vec![([127, 0, 0, 1], 5672).into()])
    }

    async fn connect(&self, _: SocketAddr) -> io::Result<Transport> {
        if self.attempts.fetch_add(1, Ordering::SeqCst) % 3 == 2 {
            return Err(io::Error::other(self.owners.owner(0)));
        }
        Ok(Transport::new(self.server.connect()))
    }

    #[cfg(unix)]
    async fn connect_unix(&self, _: &Path) -> io::Result<Transport> {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// Returns a client that recovers, and whose closures call it.
fn recovering(server: &Server, owners: &Owners) -> Client {
    let (asked, filters, logins) = (owners.clone(), owners.clone(), AtomicUsize::new(0));
    let recovery = Recovery::default()
        .backoff(Duration::from_millis(1), Duration::from_millis(5))
        .republish_unconfirmed(3)
        .retry_first_connect(true)
        .filter(move |_| {
            filters.ask();
            true
        });
    let options = Options::default()
        .max_publishes_in_flight(64)
        .recovery(recovery)
        .credentials_from(move || {
            asked.ask();
            match logins.fetch_add(1, Ordering::SeqCst) % 4 {
                3 => Err(asked.owner(0).into()),
                _ => Ok(Credentials::new("guest", "guest")),
            }
        });
    let net = Net {
        server: server.clone(),
        owners: owners.clone(),
        attempts: AtomicUsize::new(0),
    };
    let (client, driver) = puka::connect(net, puka_smol::Clock, options);
    smol::spawn(driver).detach();
    *owners.client.lock().unwrap() = Some(client.clone());
    client
}

/// Publishes in every way. Outcomes are ignored, because connections are lost all the time.
async fn publish(client: &Client, owners: &Owners, round: usize) {
    let body = owners.body(SIZES[round % SIZES.len()]);
    match round % 9 {
        0 => drop(client.basic_publish("", "work", body).await),
        1 => drop(client.basic_publish("", "work", body).send()),
        2 => drop(client.basic_publish("", "work", body).confirm(false).await),
        3 => drop(
            client
                .basic_publish("", "nowhere", body)
                .mandatory(true)
                .await,
        ),
        4 => drop(owners.poll(client.basic_publish("", "work", body).submit())),
        5 => drop(owners.poll(client.basic_publish("", "work", body).into_future())),
        6 => drop(owners.poll(client.rpc("", "work", body).into_future())),
        7 => drop(client.basic_publish("missing", "work", body).await),
        _ => {
            let Ok(transaction) = client.transaction().await else {
                return;
            };
            drop(transaction.basic_publish("", "work", body).await);
            drop(
                transaction
                    .basic_publish("", "work", owners.body(10))
                    .try_send(),
            );
            if round.is_multiple_of(2) {
                drop(transaction.commit().await);
            }
        }
    }
}

/// Consumes, gets and listens, each for a moment.
async fn receive(client: &Client, owners: &Owners) -> Result<(), Error> {
    drop(owners.poll(pin!(client.notices().next())));
    drop(client.basic_get("work").no_ack(true).await?);
    let mut consumer = client.basic_consume("work").prefetch_count(5).await?;
    for _ in 0..3 {
        if let Poll::Ready(Some(Ok(delivery))) = owners.poll(pin!(consumer.next())) {
            delivery.ack()?;
        }
    }
    Ok(())
}

/// Drops all connections of a broker.
fn lose_all(server: &Server) {
    let now = server.now();
    server.with(|broker| {
        let all = broker.connections();
        all.into_iter()
            .for_each(|id| broker.drop_connection(now, id));
    });
}

/// Waits until all values are dropped.
fn all_dropped(owners: &Owners) {
    while owners.dropped.load(Ordering::SeqCst) < owners.made.load(Ordering::SeqCst) {
        thread::yield_now();
    }
}

#[test]
fn no_value_is_dropped_under_the_lock() {
    in_time(|| {
        let (server, owners) = (Server::default(), Owners::default());
        let client = recovering(&server, &owners);
        smol::block_on(client.queue_declare("work").into_future()).unwrap();
        let rounds = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                let (client, owners, rounds) = (client.clone(), owners.clone(), rounds.clone());
                thread::spawn(move || {
                    for round in 0..ROUNDS {
                        smol::block_on(publish(&client, &owners, round));
                        if round.is_multiple_of(10) {
                            let _ = smol::block_on(receive(&client, &owners));
                        }
                        rounds.fetch_add(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        for losses in 1.. {
            while rounds.load(Ordering::SeqCst) < losses * BETWEEN_LOSSES
                && threads.iter().any(|thread| !thread.is_finished())
            {
                thread::yield_now();
            }
            if threads.iter().all(thread::JoinHandle::is_finished) {
                break;
            }
            lose_all(&server);
        }
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        let _ = smol::block_on(client.close());
        drop(owners.client.lock().unwrap().take());
        drop(client);
        all_dropped(&owners);
    });
}

#[test]
fn no_callback_is_dropped_under_the_lock() {
    in_time(|| {
        let threads = [(); THREADS].map(|()| {
            thread::spawn(|| {
                let owners = Owners::default();
                for end in 0..30 {
                    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
                    ours.set_nonblocking(true).unwrap();
                    // The broker's end, which is closed during the handshake or not at all.
                    let theirs = Some(theirs).filter(|_| end % 3 != 0);
                    let mut conn = Evented::new(ours, Options::default());
                    let client = conn.client();
                    *owners.client.lock().unwrap() = Some(client.clone());
                    let mut last = None;
                    for size in SIZES {
                        let (captured, promised) = (owners.owner(0), owners.owner(0));
                        let published = client.basic_publish("", "work", owners.body(size)).send();
                        let future = async move {
                            let _promised = promised;
                            published.await
                        };
                        last = Some(conn.on(future, move |_, _| drop(captured)));
                    }
                    let _ = conn.on_write();
                    conn.run_any_callbacks();
                    if end % 2 == 0
                        && let Some(last) = last
                    {
                        conn.off(last);
                    }
                    drop(theirs);
                    let _ = conn.on_read();
                    conn.run_any_callbacks();
                    drop(conn);
                    drop(owners.client.lock().unwrap().take());
                    drop(client);
                }
                all_dropped(&owners);
            })
        });
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
    });
}
