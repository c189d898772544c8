//! A client without a runtime: blocking calls, callbacks, or inside your own event loop.
//!
//! [`connect`] returns an [`Evented`]: the connection and its socket, which never blocks, with TLS
//! if the URI says `amqps` and the feature `tls` is enabled. Requests are made with its
//! [`client`](Evented::client), as everywhere else.
//!
//! # Blocking
//! ```no_run
//! # fn main() -> Result<(), puka::Error> {
//! use std::time::Duration;
//! let mut conn = puka::evented::connect("amqp://localhost/")?;
//! let client = conn.client();
//! conn.wait(&mut client.connect(), None)?;
//! let mut declared = client.queue_declare("test").durable(true).send();
//! let queue = conn.wait(&mut declared, Some(Duration::from_secs(5)))?;
//! let mut test = conn.wait(&mut client.basic_consume(queue.name).prefetch_count(1).send(), None)?;
//! let delivery = conn.wait(&mut test, None)?; // a consumer can be waited for repeatedly
//! delivery.ack()?;
//! conn.wait(&mut client.close(), None)
//! # }
//! ```
//!
//! # With callbacks
//! ```no_run
//! # fn main() -> Result<(), puka::Error> {
//! # let mut conn = puka::evented::connect("amqp://localhost/")?;
//! # let client = conn.client();
//! conn.on(client.basic_publish("", "test", "Hello").send(), |conn, confirmed| {
//!     println!("{confirmed:?}");
//!     conn.loop_break();
//! });
//! conn.run(None)
//! # }
//! ```
//! [`run()`] does the same for several clients at once.
//!
//! # In your own loop
//! An event loop that waits for descriptors and for a timeout can drive a client. Each iteration
//! takes these steps, in this order:
//!
//! 1. [`run_any_callbacks`](Evented::run_any_callbacks), if there are callbacks; leave the loop if
//!    the client [`is_over`](Evented::is_over);
//! 2. wait for the [descriptor](Evented#impl-AsFd-for-Evented<S>): until it is readable if the
//!    client [`needs_read`](Evented::needs_read), writable if it
//!    [`needs_write`](Evented::needs_write), and at most until the
//!    [`next_timeout`](Evented::next_timeout);
//! 3. [`on_read`](Evented::on_read), [`on_write`](Evented::on_write) or
//!    [`on_timeout`](Evented::on_timeout), depending on what happened. Each moves what can be moved
//!    before callbacks run, and `next_timeout` returns an instant in the past if there may be more.
//!    So edge-triggered loops work, too, and additional calls are harmless.
//!
//! Ask for the three conditions of step 2 in each iteration, because requests change them: a
//! request is queued at once, and written in the next iteration. If other threads make requests,
//! pass a waker of the loop to [`set_waker`](Evented::set_waker).
//!
//! The descriptor changes with each address that is tried, when the connection is lost, and when it
//! is re-established. It changes only within the calls of step 3. If your loop registers
//! descriptors, register the new one whenever [`Stream::generation`] has changed: the old one is
//! closed, and the new one may have the same number.
//!
//! ```
//! # use std::time::{Duration, Instant};
//! use rustix::event::{PollFd, PollFlags, Timespec, poll};
//! # #[cfg(unix)]
//! # puka_test_suite::evented_example(|conn| {
//! # let close = conn.client().close();
//! # conn.on(close, |_, closed| closed.unwrap());
//! loop {
//!     conn.run_any_callbacks();
//!     if conn.is_over() {
//!         break;
//!     }
//!     let mut wanted = PollFlags::empty();
//!     wanted.set(PollFlags::IN, conn.needs_read());
//!     wanted.set(PollFlags::OUT, conn.needs_write());
//!     let left = conn.next_timeout().map(|at| at.saturating_duration_since(Instant::now()));
//!     let left = left.map(|left| Timespec::try_from(left).unwrap());
//!
//!     // The array can have other descriptors of the program, too.
//!     let mut descriptors = [PollFd::new(conn, wanted)];
//!     poll(&mut descriptors, left.as_ref()).unwrap();
//!     let ready = descriptors[0].revents();
//!
//!     if ready.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
//!         conn.on_read()?;
//!     }
//!     if ready.contains(PollFlags::OUT) {
//!         conn.on_write()?;
//!     }
//!     conn.on_timeout(Instant::now())?;
//! }
//! # Ok(())
//! # });
//! ```
//!
//! # When the connection is lost
//! A client from [`connect`] dials again as [`Recovery`](crate::Recovery) prescribes, and
//! [recovers](crate::recovery) its topology and consumers. [`wait`](Evented::wait),
//! [`run`](Evented::run) and [`run()`] continue meanwhile, and so does your own loop if it follows
//! the descriptor. Only when recovery gives up does [`is_over`](Evented::is_over) return `true` and
//! the calls return the error. Between attempts there is no socket: the descriptor is one that is
//! never ready, and only [`next_timeout`](Evented::next_timeout) matters. While several addresses
//! are tried at once, it also ends each 10 ms to look at those without the descriptor.
//! [`Client::state`](crate::Client::state) and [`Client::notices`](crate::Client::notices) report
//! the state.
//!
//! # Over any stream
//! [`Evented::new`] takes anything that is `Read + Write` and returns
//! [`WouldBlock`](std::io::ErrorKind::WouldBlock) instead of blocking: a Unix socket, a pipe, a TLS
//! session after its handshake. Any such stream can be driven by an event loop; the blocking calls
//! need one with a descriptor. A loss is final, because there is nothing to dial.

mod callbacks;
mod connect;
mod connection;
mod descriptor;
mod dial;
mod dial_state;
mod nonblocking;
mod run;
mod socket;
mod stream;
#[cfg(feature = "tls")]
mod tls_socket;
mod wait;
mod waker;

pub use callbacks::CallbackId;
pub use connect::{connect, connect_with};
pub use connection::Evented;
pub use run::run;
pub use stream::Stream;
pub use wait::Awaited;
