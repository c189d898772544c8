//! A connection whose transport is still being dialled.

use super::Connection;
use crate::error::Error;
use std::time::Instant;

impl Connection {
    /// Tells when the transport will stand at the latest, or that it stands now: the handshake has its time from then on.
    pub fn handle_dialling(&mut self, until: Instant) {
        self.handshake_deadline = until + self.options.deadlines.handshake;
    }

    /// Tells that there will be no transport, and why.
    pub fn handle_no_transport(&mut self, error: Error) {
        self.lose(error);
    }
}
