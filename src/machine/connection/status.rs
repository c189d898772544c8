//! The calls that return the state and the figures of the connection.

use crate::error::Error;
use crate::machine::connection::Connection;
use crate::machine::connection::state::State;
use crate::machine::session::Stats;
use crate::machine::{ConnectionState, Counters, ServerProperties};

impl Connection {
    /// Returns `true` if the driver has to call [`poll_transmit`](Self::poll_transmit), or
    /// [`tend`](Self::tend) without a transport. Otherwise it may sleep.
    #[must_use]
    pub fn wants_attention(&self) -> bool {
        self.session.cx.attention
    }

    /// Returns `true` if the connection has ended, and no more input is accepted. The transport can
    /// be closed once all output is written, or when [`is_over`](Self::is_over) returns `true`.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.lifecycle.state, State::Closed(_))
    }

    /// Returns `true` if the transport can be dropped: the connection is closed or lost, and the
    /// remaining output is discarded or its deadline has passed.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.lifecycle.state.is_over()
    }

    /// Returns the reason why the connection is closing or closed, and `None` before. It is
    /// [`Error::Closed`] if this side closed it.
    #[must_use]
    pub fn why_closed(&self) -> Option<&Error> {
        self.lifecycle.close_reason.as_ref()
    }

    /// Returns [`why_closed`](Self::why_closed) as a result: `Ok` if this side closed the
    /// connection, or if it is not closed.
    ///
    /// # Errors
    /// The reason why the connection is closed, unless this side closed it.
    pub fn outcome(&self) -> Result<(), Error> {
        match &self.lifecycle.close_reason {
            None | Some(Error::Closed) => Ok(()),
            Some(error) => Err(error.clone()),
        }
    }

    /// Returns the state of the connection as the program sees it.
    #[must_use]
    pub fn state(&self) -> ConnectionState {
        self.lifecycle.report(&self.session.recovery)
    }

    /// Returns the broker's reason for blocking publishes, or `None` if they are not blocked.
    #[must_use]
    pub fn blocked(&self) -> Option<&str> {
        self.session.publishing.blocked.as_deref()
    }

    /// Returns the properties that the server sent. They are empty until the connection is open.
    #[must_use]
    pub fn server_properties(&self) -> &ServerProperties {
        &self.session.cx.server
    }

    /// Returns `true` if nothing is pending or stored: no promise, no consumer, no message.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.session.is_idle()
    }

    /// Returns the counters of the connection since it was created.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.session.counters()
    }

    /// Returns the current figures of the connection.
    #[inline]
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.session.stats()
    }

    /// Returns the sizes in memory, in bytes, of the partly received contents. If there are
    /// several, [`Options::max_buffered_bytes`](crate::Options::max_buffered_bytes) limits their
    /// sum, and the bodies and properties of the largest are dropped above it.
    pub fn partly_received(&self) -> impl Iterator<Item = usize> + '_ {
        self.session.partly_received()
    }
}
