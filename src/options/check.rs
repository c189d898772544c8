//! Validation of options before anything is written.

use super::{Limits, Options};
use crate::error::Error;
use crate::protocol::ShortStr;
use crate::protocol::frame::FRAME_MIN_SIZE;

impl Options {
    /// Refuses values that cannot be sent, and limits of 0 that would block every request.
    ///
    /// A value that is too small is an error, because another value would not be what the user
    /// asked for. A value that is too large was clamped by its setter: it means "practically
    /// unlimited", and so does the largest value.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let Limits {
            frame_max,
            initial_frame_max,
            requests,
            outgoing_bytes,
            publishes_in_flight,
            buffered_deliveries,
            buffered_bytes,
            ..
        } = self.limits;
        if frame_max != 0 && frame_max < FRAME_MIN_SIZE {
            let why = format!("must be at least {FRAME_MIN_SIZE} bytes, got {frame_max}");
            return Err(Error::invalid("frame_max", why));
        }
        if initial_frame_max < FRAME_MIN_SIZE {
            let why = format!("must be at least {FRAME_MIN_SIZE} bytes, got {initial_frame_max}");
            return Err(Error::invalid("initial_frame_max", why));
        }
        ShortStr::new(&self.virtual_host).map_err(|error| Error::invalid("virtual_host", error))?;
        let limits = [
            ("max_requests", requests),
            ("max_outgoing_bytes", outgoing_bytes),
            ("max_publishes_in_flight", publishes_in_flight),
            ("max_buffered_deliveries", buffered_deliveries),
            ("max_buffered_bytes", buffered_bytes),
        ];
        match limits.into_iter().find(|(_, limit)| *limit == 0) {
            Some((what, _)) => Err(Error::invalid(what, "must be at least 1, got 0")),
            None => self.login.check(),
        }
    }
}
