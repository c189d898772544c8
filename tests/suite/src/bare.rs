//! No runtime: spawned futures, such as the driver, are polled by hand on the thread of the case.

use crate::Runtime;
use async_io::{Async, Timer};
use puka::{Client, Error, Options};
use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::net::TcpStream;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Instant;

/// A runtime of `futures_lite::future::block_on` that polls drivers in turn with the case.
#[derive(Clone, Copy, Debug)]
pub struct Bare;

/// A clock of async-io's reactor, which has its own thread and works with any executor.
#[derive(Clone, Copy, Debug)]
pub struct Clock;

/// A sleep that [`Clock`] returns.
#[derive(Debug)]
pub struct Sleep(Timer);

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(cx).map(drop)
    }
}

impl puka::Clock for Clock {
    type Sleep = Sleep;

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        Sleep(Timer::at(deadline))
    }
}

type Spawned = Pin<Box<dyn Future<Output = ()>>>;

thread_local! {
    static SPAWNED: RefCell<Vec<Spawned>> = const { RefCell::new(Vec::new()) };
}

/// Polls everything that was spawned on this thread.
fn poll_spawned(cx: &mut Context<'_>) {
    let mut running = SPAWNED.take();
    running.retain_mut(|future| future.as_mut().poll(cx).is_pending());
    let fresh = SPAWNED.replace(running);
    if !fresh.is_empty() {
        SPAWNED.with_borrow_mut(|spawned| spawned.extend(fresh));
        cx.waker().wake_by_ref();
    }
}

impl Runtime for Bare {
    type Clock = Clock;

    fn clock() -> Clock {
        Clock
    }

    fn block_on<F: Future>(future: F) -> F::Output {
        let mut future = pin!(future);
        let output = futures_lite::future::block_on(poll_fn(|cx| {
            let output = future.as_mut().poll(cx);
            if output.is_pending() {
                poll_spawned(cx);
            }
            output
        }));
        drop(SPAWNED.take());
        output
    }

    fn spawn(future: impl Future<Output = ()> + Send + 'static) {
        // The case, which spawns futures, is polled before them.
        SPAWNED.with_borrow_mut(|spawned| spawned.push(Box::pin(future)));
    }

    async fn connect(options: Options) -> Result<Client, Error> {
        let stream = dial(&options).await?;
        let (client, driver) = puka::open(stream, Clock, options);
        Self::spawn(async { drop(driver.await) });
        client.connect().await?;
        Ok(client)
    }
}

/// Opens a TCP connection to the first endpoint, which must be an IP address. Works with any
/// executor.
pub(crate) async fn dial(options: &Options) -> Result<Async<TcpStream>, Error> {
    let address = options.get_endpoints()[0]
        .to_string()
        .parse::<std::net::SocketAddr>();
    let address = address.map_err(|error| std::io::Error::other(error.to_string()))?;
    Ok(Async::<TcpStream>::connect(address).await?)
}
