//! The loop that waits for the operating system: until a client's stream is ready, its deadline is
//! reached, or its thread waker is called.

use super::connection::Evented;
use crate::error::Error;
use crate::fairness::CALLBACKS;
use crate::machine::earlier;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

#[cfg(unix)]
pub(super) use std::os::fd::AsFd as Source;

#[cfg(windows)]
pub(super) use std::os::windows::io::AsSocket as Source;

/// The longest wait in one call. Some systems return an error for a longer one.
const MAX_WAIT: Duration = Duration::from_secs(3600);

impl<S: Read + Write + Source + 'static> Evented<S> {
    /// Waits and runs callbacks, until one of them calls [`loop_break`](Self::loop_break), the
    /// timeout has passed, or the connection has ended and its last callbacks have run. Puka for
    /// Python calls it `loop`.
    ///
    /// Before it returns, it writes the output that the stream accepts.
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
    /// The error that has ended the connection, unless the client closed it.
    /// [`Error::ConnectionBroken`] also if the system has no resources left for waiting.
    ///
    /// # Panics
    /// If a callback panics. The method can be called again.
    pub fn run(&mut self, timeout: Option<Duration>) -> Result<(), Error> {
        run(&mut [self], timeout)
    }

    /// Runs until the last client, promise, consumer and delivery is dropped, then closes the
    /// connection. Meant for a thread that does nothing else.
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
    /// If a callback panics.
    pub fn run_to_end(mut self) -> Result<(), Error> {
        self.handle = None;
        while !self.is_over() {
            // `loop_break` ends a call of `run`, but not this loop.
            self.run(None)?;
        }
        self.run(None)
    }
}

/// Runs several clients in one loop, until a callback calls [`Evented::loop_break`], the timeout
/// has passed, or all connections have ended. Puka for Python calls it `loop(clients)`.
///
/// # Errors
/// When all connections have ended, the error of the first client in the list whose connection
/// ended with one. As [`Evented::run`] if the system has no resources left for waiting.
///
/// # Panics
/// If a callback panics. The function can be called again.
pub fn run<S: Read + Write + Source + 'static>(
    clients: &mut [&mut Evented<S>],
    timeout: Option<Duration>,
) -> Result<(), Error> {
    for client in &mut *clients {
        client.break_requested = false;
    }
    let outcome = run_until(
        clients,
        timeout.and_then(|timeout| Instant::now().checked_add(timeout)),
    );
    for client in clients {
        // Writes the requests of the last callbacks. An error ends the connection, and the next
        // call of `run` returns it.
        drop(client.drive());
    }
    outcome
}

/// Runs the clients until the deadline. An error is returned once all connections have ended.
fn run_until<S: Read + Write + Source + 'static>(
    clients: &mut [&mut Evented<S>],
    deadline: Option<Instant>,
) -> Result<(), Error> {
    loop {
        let mut busy = false;
        for client in &mut *clients {
            // An error is reported to the callbacks now, and to the caller once all connections
            // have ended.
            drop(client.drive());
            for _ in 0..CALLBACKS {
                if !client.run_callback() {
                    break;
                }
                if std::mem::take(&mut client.break_requested) {
                    return Ok(());
                }
            }
            busy |= client.has_ready_callback() || client.may_have_work();
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

/// Waits until the stream of one of these clients is ready, its deadline is reached, or its thread
/// waker is called.
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
        until = earlier(until, client.next_deadline());
    }
    let mut sources = Vec::with_capacity(2 * clients.len());
    let mut is_woken = false;
    for client in clients.iter() {
        match client.thread_waker.begin_wait()? {
            Some(socket) => sources.push(PollFd::new(socket, PollFlags::IN)),
            None => is_woken = true,
        }
    }
    for (client, interest) in clients.iter().zip(interests) {
        // A stream without an interest is left out, because the system reports that a stream has
        // ended even for an empty interest.
        if !interest.is_empty() {
            sources.push(PollFd::new(client.socket(), interest));
        }
    }
    let slept = if is_woken {
        Ok(0)
    } else {
        wait_for(&mut sources, until)
    };
    let mut sources = sources.iter();
    for client in clients.iter() {
        let readable = !is_woken
            && sources
                .next()
                .is_some_and(|socket| !socket.revents().is_empty());
        client.thread_waker.end_wait(readable);
    }
    slept.map(drop)
}

fn wait_for(sources: &mut [PollFd<'_>], until: Option<Instant>) -> io::Result<usize> {
    let left = until.map(|until| {
        until
            .saturating_duration_since(Instant::now())
            .min(MAX_WAIT)
    });
    let left = left.and_then(|left| Timespec::try_from(left).ok());
    match poll(sources, left.as_ref()) {
        Err(rustix::io::Errno::INTR) => Ok(0),
        polled => Ok(polled?),
    }
}
