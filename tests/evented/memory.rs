//! A client over a stream in memory, which returns `WouldBlock` and has no descriptor, so it can
//! only be driven by hand.

use puka::evented::Evented;
use puka::{Client, Error, Options};
use puka_test_broker::{Server, Stream};
use std::future::Future;
use std::io::{self, Read, Write};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use futures_io::{AsyncRead, AsyncWrite};

/// A stream to the broker in memory.
pub(crate) struct Memory(Stream);

fn blocking<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
    match poll {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

impl Read for Memory {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        blocking(Pin::new(&mut self.0).poll_read(&mut Context::from_waker(Waker::noop()), buffer))
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        blocking(Pin::new(&mut self.0).poll_write(&mut Context::from_waker(Waker::noop()), bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns a client that has sent nothing yet.
pub(crate) fn open(server: &Server, options: Options) -> Evented<Memory> {
    Evented::new(Memory(server.connect()), options)
}

/// Returns a client after its handshake.
pub(crate) fn connected() -> (Evented<Memory>, Client) {
    let mut conn = open(&Server::default(), Options::default());
    let client = conn.client();
    answer(&mut conn, client.connect()).unwrap();
    (conn, client)
}

/// Drives the client until it would have to wait, callbacks included.
pub(crate) fn settle(conn: &mut Evented<Memory>) -> Result<(), Error> {
    loop {
        conn.run_any_callbacks();
        let due = conn.next_timeout().is_some_and(|at| at <= Instant::now());
        if !due && !conn.needs_write() {
            return Ok(());
        }
        conn.on_write()?;
    }
}

/// Returns the result of a promise, which must be there without waiting.
pub(crate) fn answer<T>(
    conn: &mut Evented<Memory>,
    promise: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    drop(conn.on_read());
    poll_now(promise).expect("the result is there")
}

/// Returns the output of a future, if it is ready.
pub(crate) fn poll_now<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}
