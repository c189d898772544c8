//! An I/O error with the host or address that it is about.

use std::fmt;
use std::io;

/// The text of an I/O error, with the host or address that it is about. Only the text is kept,
/// because the error may be a value of the user whose drop runs the user's code.
#[derive(Debug)]
pub(crate) struct Located {
    place: String,
    text: String,
}

impl Located {
    /// Adds a host or an address to an I/O error.
    pub(crate) fn wrap(place: impl fmt::Display, error: &io::Error) -> io::Error {
        let located = Self {
            place: place.to_string(),
            text: error.to_string(),
        };
        io::Error::new(error.kind(), located)
    }

    /// Returns the parts of an error that [`wrap`](Self::wrap) has made.
    pub(crate) fn find(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    /// Returns the text without the host or address.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Located {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.text)
    }
}

impl std::error::Error for Located {}
