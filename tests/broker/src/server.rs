//! A shared broker: one lock, a clock, and the wakers of tasks that wait for bytes.

use crate::broker::Broker;
use crate::config::Config;
use crate::ids::ConnectionId;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

/// The longest sleep of the timer thread, so that it notices when the last handle is dropped.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// A [`Broker`] behind a lock, with in-memory streams to connect to it. Clones are handles to the
/// same broker.
///
/// It needs no runtime and has no thread of its own. Its time advances when one of its streams is
/// used, or when [`tick`](Self::tick) is called. Work that depends on time alone (heartbeats,
/// expiring messages, delayed confirms) waits for that, unless
/// [`start_timer_thread`](Self::start_timer_thread) was called.
///
/// ```
/// use puka_test_broker::{Config, Server};
/// let server = Server::new(Config::default());
/// let stream = server.connect(); // any executor reads and writes it
/// assert_eq!(server.with(|broker| broker.connections().len()), 1);
/// drop(stream);
/// assert_eq!(server.with(|broker| broker.connections().len()), 0);
/// ```
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
}

struct Shared {
    guarded: Mutex<Guarded>,
    /// Notified when the next deadline has changed.
    deadline_changed: Condvar,
    clock: Box<dyn Fn() -> Instant + Send + Sync>,
}

/// The state behind the lock.
pub(crate) struct Guarded {
    pub(crate) broker: Broker,
    waiting: BTreeMap<ConnectionId, Waiting>,
}

/// The wakers of the tasks that wait for a stream.
#[derive(Default)]
struct Waiting {
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Default for Server {
    fn default() -> Self {
        Self::new(Config::default())
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

impl Server {
    /// Creates a broker with the system's clock.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self::with_clock(config, Instant::now)
    }

    /// Creates a broker with another clock, such as a simulated one.
    #[must_use]
    pub fn with_clock(config: Config, clock: impl Fn() -> Instant + Send + Sync + 'static) -> Self {
        let guarded = Mutex::new(Guarded {
            broker: Broker::new(config),
            waiting: BTreeMap::new(),
        });
        let shared = Shared {
            guarded,
            deadline_changed: Condvar::new(),
            clock: Box::new(clock),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Calls a function with the broker. The lock is held meanwhile, so the function must not use a
    /// stream.
    pub fn with<R>(&self, f: impl FnOnce(&mut Broker) -> R) -> R {
        self.enter(|guarded, _| f(&mut guarded.broker))
    }

    /// Returns the time of the broker's clock, for the calls inside [`with`](Self::with) that need
    /// it.
    #[must_use]
    pub fn now(&self) -> Instant {
        (self.shared.clock)()
    }

    /// Handles everything that is due, and returns the next deadline.
    pub fn tick(&self) -> Option<Instant> {
        self.enter(|guarded, _| guarded.broker.poll_timeout())
    }

    /// Starts a thread that calls [`tick`](Self::tick) at each deadline. It ends when no other
    /// handle and no stream is left.
    ///
    /// # Errors
    /// If the system cannot start a thread.
    pub fn start_timer_thread(&self) -> io::Result<()> {
        let server = self.clone();
        std::thread::Builder::new()
            .name("broker-timer".into())
            .spawn(move || {
                while Arc::strong_count(&server.shared) > 1 {
                    let next = server.tick();
                    let guarded = server.lock();
                    if guarded.broker.poll_timeout() == next {
                        let until = next.map_or(LONGEST_SLEEP, |at| {
                            at.saturating_duration_since(server.now())
                        });
                        let condition = &server.shared.deadline_changed;
                        drop(condition.wait_timeout(guarded, until.min(LONGEST_SLEEP)));
                    }
                }
            })?;
        Ok(())
    }

    /// Locks the broker.
    fn lock(&self) -> MutexGuard<'_, Guarded> {
        self.shared
            .guarded
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Handles what is due, calls a function under the lock, and after releasing it wakes the tasks
    /// that the changes concern.
    pub(crate) fn enter<R>(&self, f: impl FnOnce(&mut Guarded, Instant) -> R) -> R {
        let now = self.now();
        let mut guarded = self.lock();
        let before = guarded.broker.poll_timeout();
        if before.is_some_and(|at| at <= now) {
            guarded.broker.handle_timeout(now);
        }
        let result = f(&mut guarded, now);
        let wakers = guarded.take_wakers();
        let changed = guarded.broker.poll_timeout() != before;
        drop(guarded);
        if changed {
            self.shared.deadline_changed.notify_all();
        }
        for waker in wakers {
            waker.wake();
        }
        result
    }
}

impl Guarded {
    /// Takes the wakers of the tasks that need not wait any longer.
    fn take_wakers(&mut self) -> Vec<Waker> {
        let mut wakers = Vec::new();
        for (&id, waiting) in &mut self.waiting {
            let closed = self.broker.is_closed(id);
            if waiting.reader.is_some() && (closed || self.broker.has_output(id)) {
                wakers.extend(waiting.reader.take());
            }
            if waiting.writer.is_some() && (closed || self.broker.wants_input(id)) {
                wakers.extend(waiting.writer.take());
            }
        }
        wakers
    }

    /// Adds a connection.
    pub(crate) fn connect(&mut self, now: Instant) -> ConnectionId {
        let id = self.broker.connect(now);
        self.waiting.insert(id, Waiting::default());
        id
    }

    /// Registers a task to wake when there are bytes to read.
    pub(crate) fn wait_to_read(&mut self, id: ConnectionId, context: &Context<'_>) {
        self.waiting.entry(id).or_default().reader = Some(context.waker().clone());
    }

    /// Registers a task to wake when bytes can be written.
    pub(crate) fn wait_to_write(&mut self, id: ConnectionId, context: &Context<'_>) {
        self.waiting.entry(id).or_default().writer = Some(context.waker().clone());
    }

    /// Removes a connection. Returns the wakers of its tasks, to be woken without the lock.
    pub(crate) fn disconnect(&mut self, id: ConnectionId, now: Instant) -> Vec<Waker> {
        self.broker.handle_eof(now, id);
        let waiting = self.waiting.remove(&id).unwrap_or_default();
        waiting.reader.into_iter().chain(waiting.writer).collect()
    }
}
