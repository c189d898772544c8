//! Updates of the login's secret, RabbitMQ's `connection.update-secret`.

use crate::error::Error;
use crate::machine::context::Context;
use crate::machine::{PromiseId, Reply};
use crate::protocol::method::connection::UpdateSecret;
use crate::protocol::{EncodeError, ShortStr};
use std::collections::VecDeque;

/// The maximum number of pending updates. Each stores its secret until the broker replies, even if
/// its promise has timed out. A program needs one.
const MAX_PENDING: usize = 8;

/// The pending updates of the login's secret, in the order of the requests.
#[derive(Debug, Default)]
pub(crate) struct SecretUpdates(VecDeque<SecretUpdate>);

struct SecretUpdate {
    promise: PromiseId,
    secret: Box<[u8]>,
}

impl std::fmt::Debug for SecretUpdate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretUpdate")
            .field("promise", &self.promise)
            .finish_non_exhaustive()
    }
}

impl SecretUpdates {
    /// Returns `true` if no update is pending.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sends an update.
    ///
    /// # Errors
    /// [`Error::Full`] if the broker has not replied to several updates; [`Error::InvalidArgument`]
    /// if the secret does not fit into a frame.
    pub(crate) fn send(
        &mut self,
        cx: &mut Context,
        new_secret: &[u8],
        reason: ShortStr<'_>,
    ) -> Result<PromiseId, Error> {
        if self.0.len() >= MAX_PENDING {
            return Err(Error::Full);
        }
        let update = UpdateSecret { new_secret, reason };
        cx.transmit
            .append_method(0, &update)
            .map_err(|error| match error {
                EncodeError::FrameTooLarge { .. } => Error::invalid("new_secret", error),
                error => error.into(),
            })?;
        let promise = cx.counted_promise();
        self.0.push_back(SecretUpdate {
            promise,
            secret: new_secret.into(),
        });
        Ok(promise)
    }

    /// Handles `update-secret-ok`, which replies to the oldest update. Later logins use its secret.
    pub(crate) fn handle_ok(&mut self, cx: &mut Context) {
        if let Some(SecretUpdate { promise, secret }) = self.0.pop_front() {
            cx.options.login.set_secret(&secret);
            cx.complete(promise, Ok(Reply::Done));
        }
    }

    /// Fails the updates of a lost connection.
    ///
    /// The next login uses the secret of the last one, because a program sends another secret when
    /// the present one expires. That does not apply if the broker has closed the connection over a
    /// request, because it may have refused the secret.
    pub(crate) fn suspend(&mut self, cx: &mut Context, error: &Error) {
        if let Some(SecretUpdate { secret, .. }) = self.0.back()
            && !error.is_caused_by_request()
        {
            cx.options.login.set_secret(secret);
        }
        for SecretUpdate { promise, .. } in self.0.drain(..) {
            cx.complete(promise, Err(error.clone()));
        }
    }

    /// Removes all updates. The caller completes their promises with all others.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}
