//! A piece of a URI's text that knows which part it is and where it stands, and percent-encoding.
//!
//! Knows nothing of AMQP. Decoding is strict: a bad escape or text that is not UTF-8 is an error, never
//! replaced, and `+` is a plus.
//!
//! Spec: RFC 3986, 2.1 "Percent-Encoding" and 2.3 "Unreserved Characters".

use std::fmt::{self, Write};

use super::error::{UriError, UriPart};

/// Some of the URI's text, still percent-encoded.
#[derive(Clone, Copy)]
pub(super) struct Piece<'a> {
    /// What errors call it.
    pub(super) part: UriPart,
    /// Octets before it in the whole text.
    pub(super) at: usize,
    pub(super) text: &'a str,
}

impl<'a> Piece<'a> {
    /// What stands before the first `mark`, and the `part` behind it, when there is a mark.
    pub(super) fn split(self, mark: char, part: UriPart) -> (Self, Option<Self>) {
        self.cut(self.text.split_once(mark), part)
    }

    /// What stands before the last `mark`, and the `part` behind it, when there is a mark.
    pub(super) fn rsplit(self, mark: char, part: UriPart) -> (Self, Option<Self>) {
        self.cut(self.text.rsplit_once(mark), part)
    }

    fn cut(self, halves: Option<(&'a str, &'a str)>, part: UriPart) -> (Self, Option<Self>) {
        let Some((before, after)) = halves else { return (self, None) };
        let at = self.at + (self.text.len() - after.len());
        (Self { text: before, ..self }, Some(Self { part, at, text: after }))
    }

    /// Where the first `mark` stands in the whole text.
    pub(super) fn find(self, mark: char) -> Option<usize> {
        self.text.find(mark).map(|offset| self.at + offset)
    }

    /// The text behind the encoding.
    pub(super) fn decode(self) -> Result<String, UriError> {
        let mut octets = Vec::with_capacity(self.text.len());
        let mut rest = self.text.as_bytes();
        while let Some((&first, after_first)) = rest.split_first() {
            let (octet, after) = match first {
                b'%' => escaped(after_first).ok_or(UriError::BadEscape {
                    part: self.part,
                    at: self.at + (self.text.len() - rest.len()),
                })?,
                plain => (plain, after_first),
            };
            octets.push(octet);
            rest = after;
        }
        String::from_utf8(octets).map_err(|_| UriError::NotUtf8 { part: self.part, at: self.at })
    }

    /// The text behind the encoding, when it fits the protocol's short string.
    pub(super) fn decode_name(self) -> Result<String, UriError> {
        let name = self.decode()?;
        match name.len() {
            0..=255 => Ok(name),
            octets => Err(UriError::TooLong { part: self.part, octets }),
        }
    }
}

/// The octet that two hexadecimal digits stand for, and what follows them.
fn escaped(digits: &[u8]) -> Option<(u8, &[u8])> {
    let (&[high, low], after) = digits.split_first_chunk()?;
    Some((hexadecimal(high)? << 4 | hexadecimal(low)?, after))
}

fn hexadecimal(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// Prints a text so that it holds no character with a meaning in a URI: all but RFC 3986's unreserved ones
/// are percent-encoded.
pub(super) struct Encoded<'a>(pub(super) &'a str);

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.bytes().try_for_each(|octet| match octet {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                f.write_char(char::from(octet))
            }
            _ => write!(f, "%{octet:02X}"),
        })
    }
}
