//! A span of a URI's text with its part and offset, and percent-encoding.
//!
//! Decoding is strict: a bad escape or invalid UTF-8 is an error and never replaced, and `+` is a
//! plus sign.
//!
//! Spec: RFC 3986, 2.1 "Percent-Encoding" and 2.3 "Unreserved Characters".

use std::fmt::{self, Write};

use super::error::{UriError, UriPart};

/// A slice of the URI's text, still percent-encoded.
#[derive(Clone, Copy)]
pub(super) struct Span<'a> {
    /// The part, as named in errors.
    pub(super) part: UriPart,
    /// The offset in the whole text, in bytes.
    pub(super) at: usize,
    pub(super) text: &'a str,
}

impl<'a> Span<'a> {
    /// Returns the text before the first `mark`, and the `part` after it, if there is a mark.
    pub(super) fn split(self, mark: char, part: UriPart) -> (Self, Option<Self>) {
        self.with_parts(self.text.split_once(mark), part)
    }

    /// Returns the text before the last `mark`, and the `part` after it, if there is a mark.
    pub(super) fn rsplit(self, mark: char, part: UriPart) -> (Self, Option<Self>) {
        self.with_parts(self.text.rsplit_once(mark), part)
    }

    fn with_parts(self, halves: Option<(&'a str, &'a str)>, part: UriPart) -> (Self, Option<Self>) {
        let Some((before, after)) = halves else {
            return (self, None);
        };
        let at = self.at + (self.text.len() - after.len());
        (
            Self {
                text: before,
                ..self
            },
            Some(Self {
                part,
                at,
                text: after,
            }),
        )
    }

    /// Returns the offset of the first `mark` in the whole text.
    pub(super) fn find(self, mark: char) -> Option<usize> {
        self.text.find(mark).map(|offset| self.at + offset)
    }

    /// Returns the percent-decoded text.
    pub(super) fn decode(self) -> Result<String, UriError> {
        let mut bytes = Vec::with_capacity(self.text.len());
        let mut rest = self.text.as_bytes();
        while let Some((&first, after_first)) = rest.split_first() {
            let (byte, after) = match first {
                b'%' => escaped(after_first).ok_or(UriError::BadEscape {
                    part: self.part,
                    at: self.at + (self.text.len() - rest.len()),
                })?,
                plain => (plain, after_first),
            };
            bytes.push(byte);
            rest = after;
        }
        String::from_utf8(bytes).map_err(|_| UriError::NotUtf8 {
            part: self.part,
            at: self.at,
        })
    }

    /// Returns the percent-decoded text, if it fits the protocol's short string.
    pub(super) fn decode_name(self) -> Result<String, UriError> {
        let name = self.decode()?;
        match name.len() {
            0..=255 => Ok(name),
            bytes => Err(UriError::TooLong {
                part: self.part,
                bytes,
            }),
        }
    }
}

/// Returns the byte that two hexadecimal digits encode, and the text after them.
fn escaped(digits: &[u8]) -> Option<(u8, &[u8])> {
    let (&[high, low], after) = digits.split_first_chunk()?;
    Some((hexadecimal(high)? << 4 | hexadecimal(low)?, after))
}

fn hexadecimal(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

/// Prints a text with all characters percent-encoded except RFC 3986's unreserved ones, so that
/// none has a meaning in a URI.
pub(super) struct Encoded<'a>(pub(super) &'a str);

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.bytes().try_for_each(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                f.write_char(char::from(byte))
            }
            _ => write!(f, "%{byte:02X}"),
        })
    }
}
