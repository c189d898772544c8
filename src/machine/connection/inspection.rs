//! What can be read of a connection: whether it lives, how it ended, how much is pending.

use super::{Connection, State};
use crate::error::Error;
use crate::machine::ServerProperties;
use crate::machine::deadline::Deadline;

impl Connection {
    /// Octets that the transport has not taken, those of publishes that are held back included.
    #[must_use]
    pub fn outgoing_octets(&self) -> usize {
        self.held.octets() + self.out.len() + self.in_hand
    }

    /// Whether something is to be done that a driver which sleeps does not know of.
    #[must_use]
    pub fn wants_attention(&self) -> bool {
        self.attention
    }

    /// Whether nothing more comes in. When what there is to write is written, too, the transport can be closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// Whether even the last octets have had their time, and the transport is to be dropped as it is.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_closed() && matches!(self.close_deadline, Deadline::None) || self.is_down_and_over()
    }

    /// Why it is closing or closed.
    #[must_use]
    pub fn why_closed(&self) -> Option<&Error> {
        self.why.as_ref()
    }

    /// How it has ended, once it is closed: as was asked for from this side, or over an error.
    ///
    /// # Errors
    /// Why it ended otherwise.
    pub fn outcome(&self) -> Result<(), Error> {
        match &self.why {
            None | Some(Error::Closed) => Ok(()),
            Some(error) => Err(error.clone()),
        }
    }

    /// Why the broker holds back publishes, if it does.
    #[must_use]
    pub fn blocked(&self) -> Option<&str> {
        self.blocked.as_deref()
    }

    /// What the server says of itself; empty until the connection is open.
    #[must_use]
    pub fn server_properties(&self) -> &ServerProperties {
        &self.server
    }

    /// Whether nothing is under way and nothing is kept for anybody: no promise, no consumer, no message.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.promises.is_empty()
            && self.consumers.is_empty()
            && self.requests.is_empty()
            && self.consumes.is_empty()
            && self.held.is_empty()
            && self.transactions.is_empty()
            && self.publishers.in_flight() == 0
            && self.acking.is_empty()
            && self.unwanted.is_empty()
            && self
                .channels
                .numbers()
                .all(|number| self.channels.get(number).is_none_or(|channel| channel.is_at_rest()))
    }

    /// Which transport this is, or will be, counted from 1. What another brought can't be settled any more.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// How many channels are open.
    #[must_use]
    pub fn open_channels(&self) -> usize {
        self.channels.open()
    }
}
