//! The state of a connection, the report of a recovery and the counters, for the program.

use crate::error::{Error, FailedAttempt, SocketAddress};
use std::time::Instant;

/// The state of a connection.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ConnectionState {
    /// The first connection is being opened.
    Connecting,
    /// The connection is open. After a loss, everything is restored except what
    /// [`Recovered::failed`] lists.
    Open,
    /// The connection was lost and is being recovered.
    Recovering {
        /// The number of attempts, including a pending one.
        attempt: u32,
        /// The cause of the loss.
        cause: Error,
        /// When the next attempt begins; `None` during an attempt.
        next_at: Option<Instant>,
    },
    /// The connection is closed; [`Error::Closed`] if this side closed it.
    Closed(Error),
}

/// A transport to dial: to the first endpoint that can be reached, beginning at
/// [`first`](Self::first) and wrapping around, without what has [`failed`](Self::failed). If that
/// leaves nothing to dial, report an [`Error::CannotConnect`] without attempts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dialling {
    /// The number of attempts since the connection was last open, including this one; 0 for the
    /// very first.
    pub attempt: u32,
    /// The index of the endpoint to begin with.
    pub first: usize,
    /// What has failed in this attempt, by dialling or in the handshake: the index of an endpoint
    /// and one of its addresses, or `None` for the whole endpoint.
    pub failed: Vec<(usize, Option<SocketAddress>)>,
    /// The connection over the last transport was open, so its address is worth trying first.
    pub was_open: bool,
}

/// A transport that was dialled.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Dialled {
    /// The index of the endpoint that was reached.
    pub endpoint: usize,
    /// The address that was reached; `None` for a Unix socket.
    pub address: Option<SocketAddress>,
    /// No other program can read the transport.
    pub is_private: bool,
    /// The failed attempts at other endpoints and addresses. These are not dialled again in this
    /// attempt.
    pub failed: Vec<FailedAttempt>,
    /// The indices of the endpoints that have other addresses, which have not failed. If the
    /// handshake fails, these addresses are dialled. Any other endpoint that has failed is not
    /// dialled again in this attempt.
    pub unfinished: Vec<usize>,
}

impl Dialled {
    /// Returns a transport to the endpoint with this index. `is_private` means that no other
    /// program can read it.
    #[must_use]
    pub fn new(endpoint: usize, is_private: bool) -> Self {
        Self {
            endpoint,
            address: None,
            is_private,
            failed: Vec::new(),
            unfinished: Vec::new(),
        }
    }
}

/// The report of a recovery: what was restored and what was not.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Recovered {
    /// The connection epoch, counted from 1.
    pub epoch: u32,
    /// The number of attempts.
    pub attempts: u32,
    /// The number of exchanges, queues and bindings that were declared again.
    pub entities: usize,
    /// The number of consumers that were started again.
    pub consumers: usize,
    /// The number of buffered deliveries that were dropped. The broker delivers them again, unless
    /// they needed no ack.
    pub lost_deliveries: u64,
    /// Server-named queues with their previous and their new names.
    pub renamed: Vec<(Box<str>, Box<str>)>,
    /// Entities and consumers that are not restored, with the errors. Some are restored later:
    /// those that the broker refused temporarily, those over which it closed the connection, and
    /// consumers without a channel. [`EntityRestored`](crate::Notice::EntityRestored) and
    /// [`ConsumerRestored`](crate::Notice::ConsumerRestored) report that.
    pub failed: Vec<(Box<str>, Error)>,
}

/// Totals of a connection since it was created. They never decrease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// The number of times that it became open: the first time, and once for each recovery.
    pub opened: u64,
    /// The number of times that it was lost or closed while open.
    pub lost: u64,
    /// The number of failed attempts, including failed handshakes and replays.
    pub failed_attempts: u64,
    /// The number of publishes, calls and commits that failed with
    /// [`Unconfirmed`](Error::Unconfirmed): it is unknown whether the broker has them.
    pub unconfirmed: u64,
    /// The number of republished messages. A message counts each time that it is sent again.
    pub republished: u64,
    /// The number of buffered deliveries that were dropped because their channel was closed or
    /// their connection lost.
    pub lost_deliveries: u64,
    /// The number of times that a consumer was restarted because the broker had ended it
    /// ([`Notice::ConsumerInterrupted`](crate::Notice::ConsumerInterrupted)). Restarts after a loss
    /// of the connection are not counted.
    pub restarted_consumers: u64,
    /// The number of settlements that were not sent, because the delivery was stale or settled
    /// already.
    pub stale: u64,
}
