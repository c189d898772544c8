//! Read access to a connection: its state, its outcome, how much is pending.

use crate::error::Error;
use crate::machine::ServerProperties;
use crate::machine::channel::content::Assembly;
use crate::machine::connection::{Connection, State};
use crate::machine::deadline::Deadline;

impl Connection {
    /// Returns `true` if there is work that a sleeping driver does not know of.
    #[must_use]
    pub fn wants_attention(&self) -> bool {
        self.session.cx.attention
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
        self.close_reason.as_ref()
    }

    /// Returns the outcome of a closed connection: `Ok` if this side closed it as requested.
    ///
    /// # Errors
    /// The reason, if it ended otherwise.
    pub fn outcome(&self) -> Result<(), Error> {
        match &self.close_reason {
            None | Some(Error::Closed) => Ok(()),
            Some(error) => Err(error.clone()),
        }
    }

    /// Returns the broker's reason for blocking publishes, or `None` if it does not.
    #[must_use]
    pub fn blocked(&self) -> Option<&str> {
        self.session.publishing.blocked.as_deref()
    }

    /// Returns the properties that the server sent; empty until the connection is open.
    #[must_use]
    pub fn server_properties(&self) -> &ServerProperties {
        &self.session.cx.server
    }

    /// Returns `true` if nothing is pending or stored: no promise, no consumer, no message.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.session.cx.promises.is_empty()
            && self.session.consuming.consumers.is_empty()
            && self.session.requests.queue.is_empty()
            && self.session.consuming.waiting.is_empty()
            && self.session.publishing.queued.is_empty()
            && self.session.transactions.is_empty()
            && self.session.publishing.publishers.in_flight() == 0
            && self.session.cx.acking.is_empty()
            && self.session.cx.disposal.is_empty()
            && self.session.cx.channels.numbers().all(|number| {
                self.session
                    .cx
                    .channels
                    .get(number)
                    .is_none_or(|channel| channel.is_at_rest())
            })
    }

    /// Returns the connection epoch, the counter of transports from 1. Deliveries of another epoch
    /// can't be settled.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.session.cx.epoch
    }

    /// Returns the sizes in memory, in bytes, of the partly received contents. While there are
    /// several, [`Options::max_buffered_octets`](crate::Options::max_buffered_octets) limits their
    /// sum: the bodies and properties of the largest are dropped.
    pub fn partly_received(&self) -> impl Iterator<Item = usize> + '_ {
        let channels = self
            .session
            .cx
            .channels
            .numbers()
            .filter_map(|number| self.session.cx.channels.get(number));
        let assemblies = channels.filter_map(|channel| channel.assembly.as_ref());
        assemblies.map(Assembly::size).filter(|size| *size > 0)
    }

    /// Returns the number of open channels.
    #[must_use]
    pub fn open_channels(&self) -> usize {
        self.session.cx.channels.open()
    }
}
