//! Values of the user whose drop calls the client: none is dropped while the lock is held.

use crate::driver::opened;
use crate::peer::{ack, close, method, rabbitmq, start, tune};
use crate::pipe::{ManualClock, Pipe, Read};
use bytes::Bytes;
use futures_lite::future::{block_on, poll_once};
use puka::protocol::FrameKind;
use puka::protocol::method::{basic, channel, confirm, connection};
use puka::{Client, Credentials, Dial, DialDriver, Options, Recovery, SaslMechanism, Transport};
use std::error::Error;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// Runs a test on its own thread, so that a deadlock fails it.
fn without_deadlock(test: impl FnOnce() + Send + 'static) {
    let (sender, receiver) = mpsc::channel();
    let running = thread::spawn(move || {
        test();
        let _ = sender.send(());
    });
    if receiver.recv_timeout(20 * SECOND) == Err(mpsc::RecvTimeoutError::Timeout) {
        panic!("deadlock");
    }
    if let Err(panic) = running.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Makes values whose drop calls the client, and counts the dropped ones.
#[derive(Clone, Debug, Default)]
struct DropCalls {
    client: Arc<OnceLock<Client>>,
    dropped: Arc<AtomicUsize>,
}

/// A value whose drop calls the client: the owner of a body, an error, a mechanism.
#[derive(Debug)]
struct Owner {
    drop_calls: DropCalls,
    body: Vec<u8>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        if let Some(client) = self.drop_calls.client.get() {
            let _ = client.blocked();
        }
        self.drop_calls.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an owner")
    }
}

impl Error for Owner {}

impl SaslMechanism for Owner {
    fn initial_response(
        &mut self,
        _: &Credentials,
    ) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
        Ok(Vec::new())
    }

    fn answer(&mut self, _: &[u8]) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
        Ok(Vec::new())
    }
}

impl DropCalls {
    fn of(client: &Client) -> Self {
        let drop_calls = Self::default();
        drop_calls.client.set(client.clone()).unwrap();
        drop_calls
    }

    fn owner(&self, len: usize) -> Owner {
        Owner {
            drop_calls: self.clone(),
            body: vec![7; len],
        }
    }

    fn body(&self, len: usize) -> Bytes {
        Bytes::from_owner(self.owner(len))
    }

    fn dropped(&self) -> usize {
        self.dropped.load(Ordering::SeqCst)
    }
}

/// A small body that is copied, one that is shared, and one of several frames.
const SIZES: [usize; 3] = [10, 8 << 10, 300 << 10];

#[test]
fn written_body_is_dropped_without_the_lock() {
    without_deadlock(|| {
        let (client, pipe, _clock, mut driver) = opened(Options::default());
        let drop_calls = DropCalls::of(&client);
        for confirms in [true, false] {
            for size in SIZES {
                drop(
                    client
                        .basic_publish("", "q", drop_calls.body(size))
                        .confirm(confirms)
                        .send(),
                );
            }
        }
        pipe.serve(&mut driver);
        assert_eq!(drop_calls.dropped(), 6);
    });
}

#[test]
fn body_with_an_owner_is_written_whole() {
    let (client, pipe, _clock, mut driver) = opened(Options::default());
    let drop_calls = DropCalls::of(&client);
    pipe.take_written();
    for size in SIZES {
        drop(client.basic_publish("", "q", drop_calls.body(size)).send());
    }
    assert!(pipe.poll(&mut driver).is_none());
    let frames = pipe.frames();
    let bodies = frames.iter().filter(|frame| frame.kind == FrameKind::Body);
    let written: Vec<u8> = bodies.flat_map(|frame| frame.payload.clone()).collect();
    assert!(
        written == vec![7; SIZES.iter().sum()],
        "{} bytes",
        written.len()
    );
}

#[test]
fn buffered_body_is_dropped_without_the_lock() {
    without_deadlock(|| {
        // It expires, the connection is lost, and it is written after the handshake.
        for end in 0..3 {
            let (pipe, clock) = (Pipe::default(), ManualClock::default());
            let options = Options::default().request_timeout(SECOND);
            let (client, mut driver) = puka::open(pipe.clone(), clock.clone(), options);
            let drop_calls = DropCalls::of(&client);
            let promises =
                SIZES.map(|size| client.basic_publish("", "q", drop_calls.body(size)).send());
            let _ = pipe.poll(&mut driver);
            match end {
                0 => clock.pass(2 * SECOND),
                1 => pipe.read(Read::Eof),
                _ => pipe.open(&mut driver),
            }
            pipe.serve(&mut driver);
            assert_eq!(drop_calls.dropped(), SIZES.len(), "end {end}");
            drop(promises);
        }
    });
}

#[test]
fn lost_body_is_dropped_without_the_lock() {
    without_deadlock(|| {
        for drops_driver in [false, true] {
            let (client, pipe, clock, mut driver) = opened(Options::default());
            let drop_calls = DropCalls::of(&client);
            pipe.script().stalled = true;
            for _ in 0..10 {
                drop(
                    client
                        .basic_publish("", "q", drop_calls.body(300 << 10))
                        .send(),
                );
            }
            assert!(pipe.poll(&mut driver).is_none());
            if !drops_driver {
                pipe.feed(&method(0, &close(320, "CONNECTION_FORCED - bye")));
                pipe.read(Read::Eof);
                assert!(pipe.poll(&mut driver).is_none());
                clock.pass(2 * SECOND);
                assert!(pipe.poll(&mut driver).is_some());
            }
            drop(driver);
            assert_eq!(drop_calls.dropped(), 10);
        }
    });
}

/// Dials to a pipe.
pub(crate) struct Net(pub(crate) Pipe);

impl Dial for Net {
    async fn resolve(&self, _: &str, _: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(vec![([127, 0, 0, 1], 5672).into()])
    }

    async fn connect(&self, _: SocketAddr) -> io::Result<Transport> {
        Ok(Transport::new(self.0.clone()))
    }

    #[cfg(unix)]
    async fn connect_unix(&self, _: &Path) -> io::Result<Transport> {
        Err(io::ErrorKind::NotFound.into())
    }
}

pub(crate) fn poll(driver: &mut DialDriver<Net, ManualClock>) -> Poll<Result<(), puka::Error>> {
    Pin::new(driver).poll(&mut Context::from_waker(Waker::noop()))
}

pub(crate) fn complete_handshake(pipe: &Pipe, driver: &mut DialDriver<Net, ManualClock>) {
    pipe.feed(&start(&rabbitmq(), b"PLAIN"));
    pipe.feed(&method(0, &tune(2047, 131_072, 60)));
    pipe.feed(&method(0, &connection::OpenOk {}));
    assert!(poll(driver).is_pending());
    pipe.take_written();
}

#[test]
fn body_to_republish_is_dropped_without_the_lock() {
    without_deadlock(|| {
        // It is confirmed, refused, expires, and is given up after a loss.
        for end in 0..4 {
            let (pipe, clock) = (Pipe::default(), ManualClock::default());
            let recovery = Recovery::default().republish_unconfirmed(1);
            let options = Options::default().recovery(recovery);
            let (client, mut driver) = puka::connect(Net(pipe.clone()), clock.clone(), options);
            complete_handshake(&pipe, &mut driver);
            let drop_calls = DropCalls::of(&client);
            let promises =
                SIZES.map(|size| client.basic_publish("", "q", drop_calls.body(size)).send());
            assert!(poll(&mut driver).is_pending());
            pipe.feed(
                &[
                    method(1, &channel::OpenOk {}),
                    method(1, &confirm::SelectOk {}),
                ]
                .concat(),
            );
            assert!(poll(&mut driver).is_pending());
            match end {
                0 => pipe.feed(&method(1, &ack(3, true))),
                1 => {
                    let nack = basic::Nack {
                        delivery_tag: 3,
                        multiple: true,
                        requeue: false,
                    };
                    pipe.feed(&method(1, &nack));
                }
                2 => clock.pass(40 * SECOND),
                _ => {
                    drop(client.close());
                    pipe.read(Read::Eof);
                }
            }
            for _ in 0..3 {
                let _ = poll(&mut driver);
            }
            assert_eq!(drop_calls.dropped(), SIZES.len(), "end {end}");
            for promise in promises {
                assert!(block_on(poll_once(promise)).is_some(), "end {end}");
            }
        }
    });
}

#[test]
fn users_error_is_dropped_without_the_lock() {
    without_deadlock(|| {
        let drop_calls = DropCalls::default();
        let asked = drop_calls.clone();
        let (pipe, clock) = (Pipe::default(), ManualClock::default());
        let options = Options::default()
            .recovery(Recovery::default().retry_first_connect(true))
            .credentials_from(move || Err(asked.owner(0).into()));
        let (client, mut driver) = puka::connect(Net(pipe.clone()), clock.clone(), options);
        drop_calls.client.set(client).unwrap();
        for _ in 0..50 {
            pipe.feed(&start(&rabbitmq(), b"PLAIN"));
            let _ = poll(&mut driver);
            pipe.script().reads.clear();
            clock.pass(40 * SECOND);
        }
        assert!(drop_calls.dropped() > 0);
    });
}

#[test]
fn streams_error_is_dropped_without_the_lock() {
    without_deadlock(|| {
        let drop_calls = DropCalls::default();
        let (pipe, clock) = (Pipe::default(), ManualClock::default());
        let options = Options::default().recovery(Recovery::default());
        let (client, mut driver) = puka::connect(Net(pipe.clone()), clock.clone(), options);
        drop_calls.client.set(client).unwrap();
        complete_handshake(&pipe, &mut driver);
        for _ in 0..3 {
            pipe.read(Read::OwnError(io::Error::other(drop_calls.owner(0))));
            for _ in 0..2 {
                assert!(poll(&mut driver).is_pending());
                clock.pass(2 * SECOND);
            }
            complete_handshake(&pipe, &mut driver);
        }
        assert!(drop_calls.dropped() > 0);
    });
}

/// A user's stream may be TLS itself, with a verifier of the user, whose error ends the handshake
/// over that stream.
#[cfg(feature = "tls")]
#[test]
fn verifiers_error_is_dropped_without_the_lock() {
    use puka::tls::rustls::{CertificateError, Error as RustlsError, OtherError};
    use puka::{Notice, TlsFault, TlsOptions};
    without_deadlock(|| {
        let drop_calls = DropCalls::default();
        let (pipe, clock) = (Pipe::default(), ManualClock::default());
        let tls = TlsOptions::default().danger_accept_any_certificate(true);
        let options = Options::default()
            .tls(tls)
            .recovery(Recovery::default().retry_first_connect(true));
        let (client, mut driver) = puka::connect(Net(pipe.clone()), clock.clone(), options);
        drop_calls.client.set(client.clone()).unwrap();
        let mut fail = || {
            let refusal = CertificateError::Other(OtherError(Arc::new(drop_calls.owner(0))));
            pipe.read(Read::OwnError(io::Error::other(
                RustlsError::InvalidCertificate(refusal),
            )));
            assert!(poll(&mut driver).is_pending());
            clock.pass(40 * SECOND);
        };
        for _ in 0..3 {
            fail();
        }
        assert!(drop_calls.dropped() > 0);
        // Only now, because a notice shares the error, which the state machine then drops first.
        let mut notices = client.notices();
        fail();
        let notice = block_on(poll_once(notices.next()));
        let Some(Some(Notice::Retrying { cause, .. })) = notice else {
            panic!("{notice:?}")
        };
        assert!(
            matches!(cause, puka::Error::Tls(TlsFault::BadCertificate(_))),
            "{cause:?}"
        );
    });
}

#[test]
fn mechanism_is_dropped_without_the_lock() {
    without_deadlock(|| {
        let drop_calls = DropCalls::default();
        let made = drop_calls.clone();
        let (pipe, clock) = (Pipe::default(), ManualClock::default());
        let options = Options::default()
            .custom_mechanism("OWN", move || made.owner(0))
            .unwrap();
        let (client, mut driver) = puka::open(pipe.clone(), clock, options);
        drop_calls.client.set(client).unwrap();
        pipe.feed(&start(&rabbitmq(), b"OWN"));
        assert!(pipe.poll(&mut driver).is_none());
        pipe.read(Read::Eof);
        assert!(pipe.poll(&mut driver).is_some());
        assert_eq!(drop_calls.dropped(), 1);
    });
}
