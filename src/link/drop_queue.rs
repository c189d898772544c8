//! The queue of the user's values that were dropped while the lock was held.
//!
//! Dropping such a value may run the user's code, which may call the client. So a value whose last
//! share the state machine may drop is wrapped in a guard. The guard's drop moves the value to the
//! drop queue, and the link drops it after it has released the lock.

use crate::error::{Broken, Error, TlsCause};
use crate::options::{Credentials, SaslMechanism};
use bytes::Bytes;
use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

/// A value to drop when the lock is not held.
pub(super) enum Dropped {
    Body(Bytes),
    Mechanism(Box<dyn SaslMechanism>),
    Cause(Cause),
}

impl Dropped {
    /// Drops the value.
    pub(super) fn drop_now(self) {
        match self {
            Self::Body(body) => drop(body),
            Self::Mechanism(mechanism) => drop(mechanism),
            Self::Cause(cause) => cause.drop_now(),
        }
    }
}

/// The queue that guards move their values to, from any thread.
#[derive(Debug)]
pub(super) struct DropQueue {
    sender: Sender<Dropped>,
    /// The number of values that were moved here and not taken, so that looking into an empty queue
    /// costs one load. Relaxed is enough, because the channel orders the values themselves. If a
    /// thread does not see another thread's value yet, a later call of the link drops it.
    count: AtomicUsize,
}

impl DropQueue {
    /// Returns a drop queue and the receiver of its values.
    pub(super) fn new() -> (Arc<Self>, Receiver<Dropped>) {
        let (sender, receiver) = channel();
        (
            Arc::new(Self {
                sender,
                count: AtomicUsize::new(0),
            }),
            receiver,
        )
    }

    fn push(&self, value: Dropped) {
        // Without a receiver, the state machine was dropped, so no lock is held. The failed send
        // drops the value here.
        if self.sender.send(value).is_ok() {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns `true` if there is no value to take. A value that this thread has moved here is
    /// always seen.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// Moves all values from the receiver to `into`.
    #[cold]
    pub(super) fn take_all(&self, receiver: &Receiver<Dropped>, into: &mut Vec<Dropped>) {
        while !self.is_empty()
            && let Ok(value) = receiver.try_recv()
        {
            self.count.fetch_sub(1, Ordering::Relaxed);
            into.push(value);
        }
    }

    /// Returns a guarded share of a body. Its drop moves the user's share to the queue.
    pub(super) fn guard_body(self: &Arc<Self>, body: &Bytes) -> Bytes {
        Bytes::from_owner(GuardedBody {
            body: body.clone(),
            drop_queue: self.clone(),
        })
    }

    /// Returns a guarded mechanism. Its drop moves the user's mechanism to the queue.
    pub(super) fn guard_mechanism(
        self: &Arc<Self>,
        mechanism: Box<dyn SaslMechanism>,
    ) -> Box<dyn SaslMechanism> {
        Box::new(GuardedMechanism {
            mechanism: Some(mechanism),
            drop_queue: self.clone(),
        })
    }
}

struct GuardedBody {
    body: Bytes,
    drop_queue: Arc<DropQueue>,
}

impl AsRef<[u8]> for GuardedBody {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl Drop for GuardedBody {
    fn drop(&mut self) {
        self.drop_queue
            .push(Dropped::Body(std::mem::take(&mut self.body)));
    }
}

struct GuardedMechanism {
    /// `None` only while the guard is dropped.
    mechanism: Option<Box<dyn SaslMechanism>>,
    drop_queue: Arc<DropQueue>,
}

impl GuardedMechanism {
    fn mechanism(
        &mut self,
    ) -> Result<&mut Box<dyn SaslMechanism>, Box<dyn StdError + Send + Sync>> {
        // The error is unreachable: nothing calls a mechanism that is being dropped.
        self.mechanism
            .as_mut()
            .ok_or_else(|| "the mechanism was dropped".into())
    }
}

impl SaslMechanism for GuardedMechanism {
    fn initial_response(
        &mut self,
        credentials: &Credentials,
    ) -> Result<Vec<u8>, Box<dyn StdError + Send + Sync>> {
        self.mechanism()?.initial_response(credentials)
    }

    fn answer(&mut self, challenge: &[u8]) -> Result<Vec<u8>, Box<dyn StdError + Send + Sync>> {
        self.mechanism()?.answer(challenge)
    }
}

impl Drop for GuardedMechanism {
    fn drop(&mut self) {
        if let Some(mechanism) = self.mechanism.take() {
            self.drop_queue.push(Dropped::Mechanism(mechanism));
        }
    }
}

/// The part of an error that may be a type of the user: the error of a stream, a dialer, a
/// credential source, a mechanism or a certificate verifier.
#[derive(Clone, Debug)]
pub(super) enum Cause {
    Io(Arc<io::Error>),
    Other(TlsCause),
}

impl Cause {
    /// Returns the cause of an error, if it may be a type of the user.
    fn of(error: &Error) -> Option<Self> {
        match error {
            Error::ConnectionBroken(Broken::Io(cause)) => Some(Self::Io(cause.clone())),
            Error::CannotLogIn(cause) => Some(Self::Other(cause.clone())),
            Error::Tls(fault) => Some(Self::Other(fault.cause().clone())),
            _ => None,
        }
    }

    /// Returns `true` if this is the last share of the cause.
    fn is_last(&self) -> bool {
        match self {
            Self::Io(cause) => Arc::strong_count(cause) == 1,
            Self::Other(cause) => Arc::strong_count(cause) == 1,
        }
    }

    fn drop_now(self) {
        match self {
            Self::Io(cause) => drop(cause),
            Self::Other(cause) => drop(cause),
        }
    }
}

/// The causes of the errors that were passed to the state machine.
///
/// The state machine clones, stores and drops errors in many places. While a cause is stored here,
/// none of these drops its last share.
///
/// Storing a cause first removes those that are used nowhere else. So there is at most one entry
/// for each error that the state machine or the user still has, plus those that were released since
/// the last one was stored. An error is stored for each loss, failed attempt to dial or failed
/// login, so scanning the entries is rare.
#[derive(Debug, Default)]
pub(super) struct ErrorCauses(Vec<Cause>);

impl ErrorCauses {
    /// Stores the cause of an error before the error is passed to the state machine. Moves the
    /// causes that are used nowhere else to the drop queue.
    pub(super) fn store(&mut self, error: &Error, drop_queue: &DropQueue) {
        match error {
            Error::CannotConnect(failed) => {
                for attempt in failed.iter() {
                    self.store_one(&attempt.error, drop_queue);
                }
            }
            error => self.store_one(error, drop_queue),
        }
    }

    fn store_one(&mut self, error: &Error, drop_queue: &DropQueue) {
        let Some(cause) = Cause::of(error) else {
            // Most errors contain no value of the user.
            return;
        };
        for last in self.0.extract_if(.., |cause| cause.is_last()) {
            drop_queue.push(Dropped::Cause(last));
        }
        self.0.push(cause);
    }
}
