//! The loop that waits for the system: until the stream of a client is ready, its time has come, or its bell is rung.

use super::conn::Evented;
use crate::error::Error;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

#[cfg(unix)]
pub(super) use std::os::fd::AsFd as Source;

#[cfg(windows)]
pub(super) use std::os::windows::io::AsSocket as Source;

/// Callbacks that are run before the stream has its turn.
const BATCH: usize = 256;

/// The longest wait in one call: more than every system takes for one would be an error.
const LONGEST: Duration = Duration::from_secs(3600);

impl<S: Read + Write + Source + 'static> Evented<S> {
    /// Waits and runs callbacks, until one of them calls [`loop_break`](Self::loop_break), the time is over, or the
    /// connection has ended and its last callbacks have run. Puka's `loop`.
    ///
    /// What waits to be written when it ends is written as far as the stream takes it.
    ///
    /// ```
    /// # puka_test_suite::evented_example(|conn| {
    /// let client = conn.client();
    /// conn.on(client.queue_declare("orders").send(), |conn, queue| {
    ///     let published = conn.client().basic_publish("", queue.unwrap().name, "one").send();
    ///     conn.on(published, |conn, confirmed| {
    ///         confirmed.unwrap();
    ///         conn.loop_break();
    ///     });
    /// });
    /// conn.run(None)?;
    /// # Ok(())
    /// # });
    /// ```
    ///
    /// # Errors
    /// Why the connection has ended, unless it was closed from this side. [`Error::ConnectionBroken`] also when the system
    /// has nothing left to wait with.
    ///
    /// # Panics
    /// When a callback does; it can be called again.
    pub fn run(&mut self, timeout: Option<Duration>) -> Result<(), Error> {
        run(&mut [self], timeout)
    }

    /// Runs for as long as anybody holds a client, a promise, a consumer or a delivery, and then closes the connection: for
    /// a thread that does nothing else.
    ///
    /// ```
    /// # fn main() -> Result<(), puka::Error> {
    /// # let listener = puka_test_broker::Listener::bind("127.0.0.1:0", Default::default())?;
    /// # let uri = format!("amqp://{}/", listener.local_addr()?);
    /// # std::thread::spawn(move || listener.run());
    /// use std::{sync::mpsc, thread};
    ///
    /// let (sender, receiver) = mpsc::channel();
    /// let driving = thread::spawn(move || {
    ///     let conn = puka::evented::connect(&uri)?;
    ///     let _ = sender.send(conn.client());
    ///     conn.run_to_end()
    /// });
    /// let client = receiver.recv().unwrap();
    /// let queue = futures_lite::future::block_on(client.queue_declare("orders").into_future())?;
    /// drop(client);
    /// driving.join().unwrap()
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`run`](Self::run).
    ///
    /// # Panics
    /// When a callback does.
    pub fn run_to_end(mut self) -> Result<(), Error> {
        self.handle = None;
        while !self.is_over() {
            // Whatever breaks the loop does not end it.
            self.run(None)?;
        }
        self.run(None)
    }
}

/// Runs several clients in one loop, until a callback calls [`Evented::loop_break`], the time is over, or all connections
/// have ended. Puka's `loop(clients)`.
///
/// # Errors
/// When all connections have ended, why the first of them did that was not closed from this side. As [`Evented::run`] when
/// the system has nothing left to wait with.
///
/// # Panics
/// When a callback does; it can be called again.
pub fn run<S: Read + Write + Source + 'static>(
    clients: &mut [&mut Evented<S>],
    timeout: Option<Duration>,
) -> Result<(), Error> {
    for client in &mut *clients {
        client.loop_broken = false;
    }
    let outcome = run_until(clients, timeout.and_then(|timeout| Instant::now().checked_add(timeout)));
    for client in clients {
        // What the last callbacks asked for.
        drop(client.drive());
    }
    outcome
}

fn run_until<S: Read + Write + Source + 'static>(
    clients: &mut [&mut Evented<S>],
    deadline: Option<Instant>,
) -> Result<(), Error> {
    loop {
        let mut busy = false;
        for client in &mut *clients {
            // How it ends, if it ends, the callbacks are told, and the caller when all have.
            drop(client.drive());
            for _ in 0..BATCH {
                if !client.run_callback() {
                    break;
                }
                if std::mem::take(&mut client.loop_broken) {
                    return Ok(());
                }
            }
            busy |= client.has_ready_callback() || client.has_more();
        }
        if !busy && clients.iter().all(|client| client.is_over()) {
            let outcomes = clients.iter().filter_map(|client| client.ended.clone());
            return outcomes.fold(Ok(()), Result::and);
        }
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Ok(());
        }
        if !busy {
            sleep(clients, deadline)?;
        }
    }
}

/// Waits until the stream of one of these clients is ready, its time has come, or its bell is rung.
pub(super) fn sleep<S: Read + Write + Source>(
    clients: &mut [&mut Evented<S>],
    until: Option<Instant>,
) -> io::Result<()> {
    let mut until = until;
    let mut interests = Vec::with_capacity(clients.len());
    for client in &mut *clients {
        let mut interest = PollFlags::empty();
        interest.set(PollFlags::IN, client.needs_read());
        interest.set(PollFlags::OUT, client.needs_write());
        interests.push(interest);
        until = [until, client.next_deadline()].into_iter().flatten().min();
    }
    let mut sources = Vec::with_capacity(2 * clients.len());
    let mut rung = false;
    for client in clients.iter() {
        match client.bell.listen()? {
            Some(wire) => sources.push(PollFd::new(wire, PollFlags::IN)),
            None => rung = true,
        }
    }
    for (client, interest) in clients.iter().zip(interests) {
        // One that is not waited for is left out, as the system would tell of its end all the same.
        if !interest.is_empty() {
            sources.push(PollFd::new(client.socket(), interest));
        }
    }
    let slept = if rung { Ok(0) } else { wait_for(&mut sources, until) };
    let mut sources = sources.iter();
    for client in clients.iter() {
        let readable = !rung && sources.next().is_some_and(|wire| !wire.revents().is_empty());
        client.bell.stop_listening(readable);
    }
    slept.map(drop)
}

fn wait_for(sources: &mut [PollFd<'_>], until: Option<Instant>) -> io::Result<usize> {
    let left = until.map(|until| until.saturating_duration_since(Instant::now()).min(LONGEST));
    let left = left.and_then(|left| Timespec::try_from(left).ok());
    match poll(sources, left.as_ref()) {
        Err(rustix::io::Errno::INTR) => Ok(0),
        polled => Ok(polled?),
    }
}
