//! Short strings: at most 255 bytes (spec 4.2.5.3).

use super::EncodeError;
use std::borrow::{Borrow, Cow};
use std::fmt;
use std::ops::Deref;

/// A string of at most 255 bytes, such as the name of a queue, a routing key or a consumer tag.
///
/// Received strings should be UTF-8, but brokers do not check those of messages, so the bytes are
/// kept as received.
///
/// ```
/// use puka::protocol::ShortStr;
/// let name = ShortStr::new("orders")?;
/// assert_eq!(name.to_str_lossy(), "orders");
/// assert!(ShortStr::new(&"x".repeat(256)).is_err());
/// # Ok::<(), puka::protocol::EncodeError>(())
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShortStr<'a>(&'a [u8]);

impl<'a> ShortStr<'a> {
    /// The maximum length in bytes.
    pub const MAX: usize = 255;

    /// The empty short string.
    pub const EMPTY: ShortStr<'static> = ShortStr(b"");

    /// Creates a short string from text.
    ///
    /// # Errors
    /// [`EncodeError::ShortStrTooLong`] if it has more than 255 bytes (not characters).
    pub fn new(text: &'a str) -> Result<Self, EncodeError> {
        Self::from_bytes(text.as_bytes())
    }

    /// Creates a short string from bytes, which need not be UTF-8.
    ///
    /// # Errors
    /// [`EncodeError::ShortStrTooLong`] if there are more than 255.
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self, EncodeError> {
        if bytes.len() > Self::MAX {
            return Err(EncodeError::ShortStrTooLong { bytes: bytes.len() });
        }
        Ok(Self(bytes))
    }

    /// Creates a short string from a literal, at compile time.
    ///
    /// # Panics
    /// If it has more than 255 bytes. In a `const` this fails the build.
    #[must_use]
    #[inline]
    pub const fn literal(text: &'static str) -> ShortStr<'static> {
        assert!(
            text.len() <= Self::MAX,
            "a short string must have at most 255 bytes"
        );
        ShortStr(text.as_bytes())
    }

    /// Truncates a text to 255 bytes, at a character boundary. For texts that people read, such as
    /// a reply text.
    #[must_use]
    pub fn cut(text: &'a str) -> Self {
        let mut end = text.len().min(Self::MAX);
        while !text.is_char_boundary(end) {
            end = end.saturating_sub(1);
        }
        Self(text.as_bytes().get(..end).unwrap_or_default())
    }

    /// Returns the bytes.
    #[must_use]
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// Returns the text, if it is UTF-8.
    #[must_use]
    pub fn as_str(self) -> Option<&'a str> {
        std::str::from_utf8(self.0).ok()
    }

    /// Returns the text, with U+FFFD in place of invalid UTF-8.
    #[must_use]
    pub fn to_str_lossy(self) -> Cow<'a, str> {
        String::from_utf8_lossy(self.0)
    }

    /// Returns the length in bytes.
    #[must_use]
    pub fn len(self) -> usize {
        self.0.len()
    }

    /// Returns `true` if it is empty.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for ShortStr<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_str_lossy())
    }
}

impl fmt::Debug for ShortStr<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_str_lossy())
    }
}

/// An owned [`ShortStr`]. The type bounds its length, so it can be sent again without a check.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ShortString(Box<[u8]>);

impl ShortString {
    /// Returns the string.
    pub(crate) fn as_short_str(&self) -> ShortStr<'_> {
        ShortStr(&self.0)
    }
}

impl From<ShortStr<'_>> for ShortString {
    fn from(text: ShortStr<'_>) -> Self {
        Self(text.0.into())
    }
}

impl Deref for ShortString {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Borrow<[u8]> for ShortString {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for ShortString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_short_str().fmt(f)
    }
}
