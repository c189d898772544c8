//! A client on the in-memory broker over a stream that moves a few bytes at a time, and flows that
//! are dropped at each `Pending`.

use futures_lite::{AsyncRead, AsyncWrite};
use puka::{Client, Clock, Driver, Error, Options};
use puka_test_broker::{Config, Server, Stream};
use std::future::{Future, pending};
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// The number of bytes that one turn of the driver moves, in both directions together: less than a
/// frame.
pub(crate) const DRIP: usize = 11;

/// After this many turns, a flow that is not complete counts as hanging.
pub(crate) const TURNS: usize = 2_000;

/// A stream that moves no more bytes than it is allowed to.
pub(crate) struct Dripping {
    pub(crate) stream: Stream,
    pub(crate) allowed: Arc<AtomicUsize>,
}

impl Dripping {
    /// Takes a part of the allowance.
    fn take(&self, wanted: usize) -> usize {
        let taken = wanted.min(self.allowed.load(Ordering::Relaxed));
        self.allowed.fetch_sub(taken, Ordering::Relaxed);
        taken
    }

    fn put_back(&self, bytes: usize) {
        self.allowed.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl AsyncRead for Dripping {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let most = self.take(buffer.len());
        if most == 0 {
            return Poll::Pending;
        }
        let read = Pin::new(&mut self.stream).poll_read(cx, &mut buffer[..most]);
        let used = if let Poll::Ready(Ok(bytes)) = read {
            bytes
        } else {
            0
        };
        self.put_back(most - used);
        read
    }
}

impl AsyncWrite for Dripping {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let most = self.take(bytes.len());
        if most == 0 {
            return Poll::Pending;
        }
        let written = Pin::new(&mut self.stream).poll_write(cx, &bytes[..most]);
        let used = if let Poll::Ready(Ok(bytes)) = written {
            bytes
        } else {
            0
        };
        self.put_back(most - used);
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

/// A clock that advances only when a test sets it.
#[derive(Clone)]
pub(crate) struct Still(pub(crate) Arc<Mutex<Instant>>);

impl Still {
    pub(crate) fn pass(&self, time: Duration) {
        *self.0.lock().unwrap() += time;
    }
}

impl Clock for Still {
    type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

    fn now(&self) -> Instant {
        *self.0.lock().unwrap()
    }

    fn sleep_until(&self, deadline: Instant) -> Self::Sleep {
        let is_over = deadline <= self.now();
        Box::pin(async move {
            if !is_over {
                pending::<()>().await;
            }
        })
    }
}

pub(crate) struct World {
    pub(crate) broker: Server,
    pub(crate) client: Client,
    pub(crate) driver: Driver<Dripping, Still>,
    pub(crate) clock: Still,
    pub(crate) allowed: Arc<AtomicUsize>,
    /// The result of the driver.
    pub(crate) over: Option<Result<(), Error>>,
}

pub(crate) fn poll_once<T>(future: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

impl World {
    pub(crate) fn new(options: Options) -> Self {
        let broker = Server::new(Config::default());
        let allowed = Arc::new(AtomicUsize::new(0));
        let stream = Dripping {
            stream: broker.connect(),
            allowed: allowed.clone(),
        };
        let clock = Still(Arc::new(Mutex::new(Instant::now())));
        let (client, driver) = puka::open(stream, clock.clone(), options);
        Self {
            broker,
            client,
            driver,
            clock,
            allowed,
            over: None,
        }
    }

    pub(crate) fn turn(&mut self, bytes: usize) {
        self.allowed.store(bytes, Ordering::Relaxed);
        if self.over.is_none() {
            self.over = poll_once(Pin::new(&mut self.driver));
        }
    }

    /// Moves everything that can be moved.
    pub(crate) fn settle(&mut self) {
        (0..20).for_each(|_| self.turn(usize::MAX >> 1));
    }

    pub(crate) fn wait<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        for _ in 0..TURNS {
            if let Some(value) = poll_once(future.as_mut()) {
                return value;
            }
            self.turn(usize::MAX >> 1);
        }
        panic!("the flow hangs");
    }

    /// Runs a flow and drops it at its `last`th `Pending`. Returns `true` if it completed before.
    pub(crate) fn drop_at(
        &mut self,
        last: usize,
        flow: impl Future<Output = Result<(), Error>>,
    ) -> bool {
        let mut flow = pin!(flow);
        for _ in 0..last {
            if poll_once(flow.as_mut()).is_some() {
                return true;
            }
            self.turn(DRIP);
        }
        assert!(last < TURNS, "the flow hangs");
        false
    }

    /// Creates the queue `q` with three messages, and nothing else.
    pub(crate) fn prepare(&mut self) {
        let client = self.client.clone();
        self.wait(async {
            client.queue_declare("q").await?;
            client.queue_purge("q").await?;
            client.exchange_declare("x").exchange_type("fanout").await?;
            for body in ["one", "two", "three"] {
                client.basic_publish("", "q", body).await?;
            }
            Ok::<(), Error>(())
        })
        .unwrap();
    }

    /// Checks that the client publishes, gets and consumes as usual, and that nothing is left of
    /// the flow.
    pub(crate) fn check(&mut self, what: &str) {
        self.settle();
        let client = self.client.clone();
        let body = self.wait(async {
            client.queue_declare("check").await?;
            client
                .basic_publish("", "check", "got")
                .mandatory(true)
                .await?;
            client.basic_publish("", "check", "consumed").await?;
            let got = client
                .basic_get("check")
                .await?
                .map(|got| (got.body().to_vec(), got.ack()));
            let mut consumer = client.basic_consume("check").await?;
            let consumed = consumer
                .next()
                .await
                .transpose()?
                .map(|one| (one.body().to_vec(), one.ack()));
            client.basic_cancel(&consumer).await?;
            client.queue_delete("check").await?;
            Ok::<_, Error>(
                [got, consumed].map(|one| one.map(|(body, acked)| (body, acked.is_ok()))),
            )
        });
        let expected = ["got", "consumed"].map(|body| Some((body.as_bytes().to_vec(), true)));
        assert_eq!(body.unwrap(), expected, "{what}");
        self.settle();
        // Numbers of promises are reused once their handles are dropped.
        let number = client.queue_declare("q").send().number();
        assert!(
            number.is_none_or(|number| number < 16),
            "{what}: promise {number:?}"
        );
        self.settle();
        for queue in self.broker.with(|broker| broker.queues()) {
            assert_eq!(
                (queue.unacked, queue.consumers),
                (0, 0),
                "{what}: queue {}",
                queue.name
            );
        }
        let channels = self.broker.with(|broker| {
            broker
                .connections()
                .iter()
                .map(|id| broker.channels(*id))
                .sum::<usize>()
        });
        assert!(channels <= 7, "{what}: {channels} channels");
    }
}

/// Returns options with the smallest number of channels.
pub(crate) fn narrow() -> Options {
    Options::default().request_channels(3).publish_channels(4)
}

/// Drops a flow at each of its `Pending`s. Returns their number. Nothing may be left after this
/// time.
pub(crate) fn at_every_pending<F>(
    what: &str,
    options: Options,
    time: Duration,
    flow: impl Fn(Client) -> F,
) -> usize
where
    F: Future<Output = Result<(), Error>>,
{
    let mut world = World::new(options);
    world.prepare();
    for last in 1.. {
        let client = world.client.clone();
        let done = world.drop_at(last, flow(client));
        world.settle();
        world.clock.pass(time);
        world.check(&format!("{what}, dropped at its pending {last}"));
        world.prepare();
        if done {
            assert!(last > 2, "{what}: the flow has no Pending");
            let closed = world.client.close();
            world.wait(closed).unwrap();
            world.settle();
            assert!(
                matches!(world.over, Some(Ok(()))),
                "{what}: {:?}",
                world.over
            );
            assert_eq!(world.broker.with(|broker| broker.connections().len()), 0);
            return last - 1;
        }
    }
    0
}

pub(crate) fn every_pending<F>(what: &str, flow: impl Fn(Client) -> F) -> usize
where
    F: Future<Output = Result<(), Error>>,
{
    at_every_pending(what, narrow(), Duration::ZERO, flow)
}
