//! What others are told, notices among it, and renewing the secret of the login: what concerns the
//! connection as a whole.

use crate::error::Error;
use crate::machine::connection::{Connection, State};
use crate::machine::{Event, ListenerId, Notice, PromiseId};
use crate::protocol::method::connection as methods;
use crate::protocol::{EncodeError, ShortStr};

impl Connection {
    /// The next thing that somebody should know.
    pub fn poll_event(&mut self) -> Option<Event> {
        if let Some(promise) = self.session.cx.promises.poll_completed() {
            return Some(Event::Answered(promise));
        }
        let deliveries = self
            .session
            .consuming
            .consumers
            .poll_announcement()
            .map(Event::Deliveries);
        deliveries.or_else(|| {
            self.session
                .cx
                .notices
                .poll_announcement()
                .map(Event::Notices)
        })
    }

    /// Returns `true` if [`poll_event`](Self::poll_event), [`poll_login`](Self::poll_login) or
    /// [`poll_filter`](Self::poll_filter) may return something.
    #[must_use]
    pub fn has_event(&self) -> bool {
        self.untold_answers() > 0
            || self.session.consuming.consumers.has_announcement()
            || self.session.cx.notices.has_announcement()
            || self.session.recovery.filtering.is_some()
            || matches!(self.state, State::Handshake(_))
    }

    /// How many promises were answered of which [`poll_event`](Self::poll_event) has not told.
    pub(crate) fn untold_answers(&self) -> usize {
        self.session.cx.promises.completed()
    }

    /// Begins to listen for notices. What happened before is not told, but that the connection is
    /// closed is.
    pub fn listen(&mut self) -> ListenerId {
        let id = self.session.cx.notices.listen();
        if let Some(error) = self
            .close_reason
            .as_ref()
            .filter(|_| matches!(self.state, State::Closed))
        {
            self.session
                .cx
                .notices
                .notify_one(id, &Notice::Closed(error.clone()));
        }
        id
    }

    /// The next notice for a listener, if something happened that it has not been told of.
    pub fn take_notice(&mut self, listener: ListenerId) -> Option<Notice> {
        self.session.cx.notices.take(listener)
    }

    /// Nobody listens there any more.
    pub fn stop_listening(&mut self, listener: ListenerId) {
        self.session.cx.notices.remove(listener);
    }

    /// Gives the broker another secret for the login, such as a fresh OAuth 2 token (RabbitMQ's
    /// `connection.update-secret`). A broker that refuses it closes the connection.
    ///
    /// # Errors
    /// Why the connection is closed; [`Error::Full`]; [`Error::InvalidArgument`] when it is not
    /// open yet, or when the secret does not fit into a frame.
    pub fn update_secret(
        &mut self,
        new_secret: &[u8],
        reason: ShortStr<'_>,
    ) -> Result<PromiseId, Error> {
        self.check_open()?;
        if !matches!(self.state, State::Open) {
            return Err(Error::invalid(
                "update_secret",
                "the connection is not open yet",
            ));
        }
        if !self.session.has_room_to_request() {
            return Err(Error::Full);
        }
        let update = methods::UpdateSecret { new_secret, reason };
        self.session
            .cx
            .out
            .method(0, self.session.cx.frame_max, &update)
            .map_err(|error| match error {
                EncodeError::FrameTooLarge { .. } => Error::invalid("new_secret", error),
                error => error.into(),
            })?;
        let promise = self.session.cx.counted_promise();
        self.updating_secret.push_back(promise);
        Ok(promise)
    }
}
