//! Short strings: at most 255 octets (spec 4.2.5.3).

use super::EncodeError;
use std::borrow::Cow;
use std::fmt;

/// A string of at most 255 octets: the name of a queue, a routing key, a consumer tag.
///
/// What a peer sends should be UTF-8, but in messages no broker checks it, so the octets are kept as they came.
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
    /// The most octets that a short string has room for.
    pub const MAX: usize = 255;

    /// A short string of no octets.
    pub const EMPTY: ShortStr<'static> = ShortStr(b"");

    /// Takes a text as it is.
    ///
    /// # Errors
    /// [`EncodeError::ShortStrTooLong`] when it has more than 255 octets (not characters).
    pub fn new(text: &'a str) -> Result<Self, EncodeError> {
        Self::from_octets(text.as_bytes())
    }

    /// Takes octets as they are, UTF-8 or not.
    ///
    /// # Errors
    /// [`EncodeError::ShortStrTooLong`] when there are more than 255.
    pub fn from_octets(octets: &'a [u8]) -> Result<Self, EncodeError> {
        if octets.len() > Self::MAX {
            return Err(EncodeError::ShortStrTooLong { octets: octets.len() });
        }
        Ok(Self(octets))
    }

    /// A short string known when the program is compiled.
    ///
    /// # Panics
    /// When it has more than 255 octets, which in a `const` fails the build.
    #[must_use]
    #[inline]
    pub const fn literal(text: &'static str) -> ShortStr<'static> {
        assert!(text.len() <= Self::MAX, "a short string has room for 255 octets");
        ShortStr(text.as_bytes())
    }

    /// As much of a text as fits, cut between two characters. For texts meant for people, such as a reply text.
    #[must_use]
    pub fn cut(text: &'a str) -> Self {
        let mut end = text.len().min(Self::MAX);
        while !text.is_char_boundary(end) {
            end = end.saturating_sub(1);
        }
        Self(text.as_bytes().get(..end).unwrap_or_default())
    }

    /// The octets.
    #[must_use]
    pub fn as_octets(self) -> &'a [u8] {
        self.0
    }

    /// The text, if it is UTF-8.
    #[must_use]
    pub fn as_str(self) -> Option<&'a str> {
        std::str::from_utf8(self.0).ok()
    }

    /// The text, with U+FFFD for what is not UTF-8.
    #[must_use]
    pub fn to_str_lossy(self) -> Cow<'a, str> {
        String::from_utf8_lossy(self.0)
    }

    /// The number of octets.
    #[must_use]
    pub fn len(self) -> usize {
        self.0.len()
    }

    /// Whether there is no octet.
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
