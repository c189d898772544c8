//! Reading and writing the wire types in sequence (spec 4.2.5): integers, bits, short and long strings. Tables are added
//! in `table`.
//!
//! Consecutive bits share an octet, the first in the lowest place; any other field ends the octet.

use super::{DecodeError, ShortStr};

/// Reads fields one after another from a payload.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    total: usize,
    /// The octet that the last bit came from, and the mask of the next one; 0 when the next bit begins an octet.
    bits: u8,
    next_bit: u8,
}

macro_rules! integers {
    ($($(#[$doc:meta])* $name:ident $ty:ty;)*) => {
        impl Reader<'_> {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// [`DecodeError::TruncatedPayload`]
                #[inline]
                pub fn $name(&mut self) -> Result<$ty, DecodeError> {
                    self.array().map(<$ty>::from_be_bytes)
                }
            )*
        }
        impl Writer<'_> {
            $(
                $(#[$doc])*
                #[inline]
                pub fn $name(&mut self, value: $ty) {
                    self.octets(&value.to_be_bytes());
                }
            )*
        }
    };
}

integers! {
    /// An octet.
    octet u8;
    /// A short: 16 bit, big endian.
    short u16;
    /// A long: 32 bit, big endian.
    long u32;
    /// A long long: 64 bit, big endian.
    longlong u64;
    /// A timestamp: seconds since 1970-01-01 UTC.
    timestamp u64;
}

impl<'a> Reader<'a> {
    /// A reader at the start of a payload.
    #[must_use]
    pub fn new(payload: &'a [u8]) -> Self {
        Self { rest: payload, total: payload.len(), bits: 0, next_bit: 0 }
    }

    /// What has not been read.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Octets read so far.
    #[must_use]
    pub fn position(&self) -> usize {
        self.total.saturating_sub(self.rest.len())
    }

    fn truncated(&self) -> DecodeError {
        DecodeError::TruncatedPayload { at: self.position() }
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or_else(|| self.truncated())?;
        self.next_bit = 0;
        self.rest = rest;
        Ok(*head)
    }

    /// The next so many octets.
    ///
    /// # Errors
    /// [`DecodeError::TruncatedPayload`]
    #[inline]
    pub fn octets(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.rest.split_at_checked(count).ok_or_else(|| self.truncated())?;
        self.next_bit = 0;
        self.rest = rest;
        Ok(head)
    }

    /// A bit.
    ///
    /// # Errors
    /// [`DecodeError::TruncatedPayload`]
    #[inline]
    pub fn bit(&mut self) -> Result<bool, DecodeError> {
        if self.next_bit == 0 {
            self.bits = self.octet()?;
            self.next_bit = 1;
        }
        let bit = self.bits & self.next_bit != 0;
        self.next_bit = self.next_bit.checked_shl(1).unwrap_or(0);
        Ok(bit)
    }

    /// A short string.
    ///
    /// # Errors
    /// [`DecodeError::TruncatedPayload`]
    #[inline]
    pub fn shortstr(&mut self) -> Result<ShortStr<'a>, DecodeError> {
        let start = self.clone();
        let length = self.octet()?;
        let octets = self.octets(usize::from(length)).map_err(|_| start.truncated())?;
        Ok(ShortStr::from_octets(octets).unwrap_or_default())
    }

    /// A long string: a length of 32 bit, then any octets.
    ///
    /// # Errors
    /// [`DecodeError::TruncatedPayload`]
    #[inline]
    pub fn longstr(&mut self) -> Result<&'a [u8], DecodeError> {
        let start = self.clone();
        let length = self.long()?;
        let length = usize::try_from(length).map_err(|_| start.truncated())?;
        self.octets(length).map_err(|_| start.truncated())
    }

    /// What a long string holds, to read by itself. Its positions count from the same start.
    pub(super) fn counted(&mut self) -> Result<Self, DecodeError> {
        let rest = self.longstr()?;
        Ok(Self { rest, total: self.position(), bits: 0, next_bit: 0 })
    }

    /// Says that the last field has been read.
    ///
    /// # Errors
    /// [`DecodeError::TrailingOctets`] when octets are left.
    #[inline]
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(DecodeError::TrailingOctets { at: self.position() })
    }
}

/// Writes fields one after another to the end of a buffer.
#[derive(Debug)]
pub struct Writer<'o> {
    out: &'o mut Vec<u8>,
    /// The mask of the next bit within the last octet written; 0 when the next bit begins an octet.
    next_bit: u8,
}

impl<'o> Writer<'o> {
    /// A writer at the end of a buffer.
    #[must_use]
    pub fn new(out: &'o mut Vec<u8>) -> Self {
        Self { out, next_bit: 0 }
    }

    /// Octets as they are.
    #[inline]
    pub fn octets(&mut self, octets: &[u8]) {
        self.next_bit = 0;
        self.out.extend_from_slice(octets);
    }

    /// A bit.
    #[inline]
    pub fn bit(&mut self, bit: bool) {
        if self.next_bit == 0 {
            self.out.push(0);
            self.next_bit = 1;
        }
        if bit && let Some(last) = self.out.last_mut() {
            *last |= self.next_bit;
        }
        self.next_bit = self.next_bit.checked_shl(1).unwrap_or(0);
    }

    /// A short string.
    #[inline]
    pub fn shortstr(&mut self, value: ShortStr<'_>) {
        self.octet(u8::try_from(value.len()).unwrap_or(u8::MAX));
        self.octets(value.as_octets());
    }

    /// A long string. One of 4 GiB or more makes a frame that no limit admits, so it is refused with its frame.
    #[inline]
    pub fn longstr(&mut self, value: &[u8]) {
        self.long(u32::try_from(value.len()).unwrap_or(u32::MAX));
        self.octets(value);
    }
}
