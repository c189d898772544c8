//! Read access to a connection: its state, its outcome, how much is pending.

use super::{Connection, State};
use crate::error::Error;
use crate::machine::ServerProperties;
use crate::machine::content::Assembly;
use crate::machine::deadline::Deadline;

impl Connection {
    /// Returns the number of bytes that the transport has not taken, including those of queued
    /// publishes.
    #[must_use]
    pub fn outgoing_octets(&self) -> usize {
        self.held.bytes() + self.out.len() + self.in_hand
    }

    /// Returns `true` if there is work that a sleeping driver does not know of.
    #[must_use]
    pub fn wants_attention(&self) -> bool {
        self.attention
    }

    /// Returns `true` if no more input is accepted. The transport can be closed once all output is
    /// written.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// Returns `true` if the time for the last output is over, too, and the transport is to be
    /// dropped.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_closed() && matches!(self.close_deadline, Deadline::None) || self.is_down_and_over()
    }

    /// Returns the reason why the connection is closing or closed.
    #[must_use]
    pub fn why_closed(&self) -> Option<&Error> {
        self.why.as_ref()
    }

    /// Returns the outcome of a closed connection: `Ok` if this side closed it as requested.
    ///
    /// # Errors
    /// The reason, if it ended otherwise.
    pub fn outcome(&self) -> Result<(), Error> {
        match &self.why {
            None | Some(Error::Closed) => Ok(()),
            Some(error) => Err(error.clone()),
        }
    }

    /// Returns the broker's reason for blocking publishes, or `None` if it does not.
    #[must_use]
    pub fn blocked(&self) -> Option<&str> {
        self.blocked.as_deref()
    }

    /// Returns the properties that the server sent; empty until the connection is open.
    #[must_use]
    pub fn server_properties(&self) -> &ServerProperties {
        &self.server
    }

    /// Returns `true` if nothing is pending or stored: no promise, no consumer, no message.
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

    /// Returns the connection epoch, the counter of transports from 1. Deliveries of another epoch
    /// can't be settled.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Returns the sizes in memory, in bytes, of the partly received contents. While there are
    /// several, [`Options::max_buffered_octets`](crate::Options::max_buffered_octets) limits their
    /// sum: the bodies and properties of the largest are dropped.
    pub fn partly_received(&self) -> impl Iterator<Item = usize> + '_ {
        let channels = self.channels.numbers().filter_map(|number| self.channels.get(number));
        let assemblies = channels.filter_map(|channel| channel.assembly.as_ref());
        assemblies.map(Assembly::size).filter(|size| *size > 0)
    }

    /// Returns the number of open channels.
    #[must_use]
    pub fn open_channels(&self) -> usize {
        self.channels.open()
    }
}
