//! The client without any runtime: waited for, with callbacks, or inside your own event loop.
//!
//! [`connect`] gives an [`Evented`]: the connection in hand, over a socket that never blocks, with TLS if the URI says
//! `amqps` and the feature `tls` is on. What is asked of it, is asked of its [`client`](Evented::client), the same as
//! everywhere else.
//!
//! # Straight through
//! ```no_run
//! # fn main() -> Result<(), puka::Error> {
//! use std::time::Duration;
//! let mut conn = puka::evented::connect("amqp://localhost/")?;
//! let client = conn.client();
//! conn.wait(&mut client.connect(), None)?;
//! let queue = conn.wait(&mut client.queue_declare("test").send(), Some(Duration::from_secs(5)))?;
//! let mut test = conn.wait(&mut client.basic_consume(queue.name).prefetch_count(1).send(), None)?;
//! let delivery = conn.wait(&mut test, None)?; // a consumer is waited for like a promise, again and again
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
//! [`run()`] does so with several clients at once.
//!
//! # In your own loop
//! An event loop that can wait until a descriptor is readable or writable, or until a time, can drive a client. Each turn of
//! it does this, in this order:
//!
//! 1. [`run_any_callbacks`](Evented::run_any_callbacks), if there are callbacks; leave when it [`is_over`](Evented::is_over);
//! 2. wait for the [descriptor](Evented#impl-AsFd-for-Evented<S>): until it is readable if the client
//!    [`needs_read`](Evented::needs_read), writable if it [`needs_write`](Evented::needs_write), and no longer than to the
//!    [`next_timeout`](Evented::next_timeout);
//! 3. [`on_read`](Evented::on_read), [`on_write`](Evented::on_write) or [`on_timeout`](Evented::on_timeout), as it came. Each
//!    moves what can be moved before callbacks have their turn, and `next_timeout` tells when there may be more, so a loop that
//!    only tells of changes will do, and calling one too often is harmless.
//!
//! Ask for the three of step 2 anew each time, also after requests that were made elsewhere in the loop: a request is
//! queued at once, and written in the next turn. When other threads make requests, have them wake the loop with
//! [`set_waker`](Evented::set_waker).
//!
//! The descriptor is another one after each address that is tried in turn, and when the connection is lost and when it comes
//! back. It changes only within the calls of step 3. Where it has to be registered, do so anew whenever
//! [`Stream::generation`] says another number: the one before is closed, and the new one may well have the number of an older
//! one.
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
//!     let mut descriptors = [PollFd::new(conn, wanted)]; // and what else the program waits for
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
//! What [`connect`] gave is dialled again, as [`Recovery`](crate::Recovery) says, and [comes back](crate::recovery) with what
//! it had. [`wait`](Evented::wait), [`run`](Evented::run) and [`run()`] go on meanwhile, and so does a loop of your own that
//! follows the descriptor: only when it is given up [`is_over`](Evented::is_over) is true, and the calls give the error. Until
//! it is time to dial there is no socket: the descriptor is one that is never ready, nothing is needed but the
//! [`next_timeout`](Evented::next_timeout). [`Client::state`](crate::Client::state) and
//! [`Client::notices`](crate::Client::notices) tell of it.
//!
//! # Over any stream
//! [`Evented::new`] takes whatever is `Read + Write` and says [`WouldBlock`](std::io::ErrorKind::WouldBlock) instead of
//! waiting: a Unix socket, a pipe, a TLS session that has shaken hands. It can be driven by hand whatever it is; waiting
//! needs one that has a descriptor. When it is lost, that is the end: there is nothing to dial.

mod bell;
mod callbacks;
mod conn;
mod connect;
mod descriptor;
mod dialled;
mod dialling;
mod nonblocking;
mod run;
#[cfg(feature = "tls")]
mod secured;
mod socket;
mod stream;
mod wait;

pub use callbacks::CallbackId;
pub use conn::Evented;
pub use connect::{connect, connect_with};
pub use run::run;
pub use stream::Stream;
pub use wait::Awaited;
