//! Sequential reading and writing of the wire types (spec 4.2.5): integers, bits, short and long
//! strings. `table` adds tables.
//!
//! Consecutive bits share a byte, the first in the lowest position; any other field ends the byte.

use super::{DecodeError, ShortStr};

/// A reader of consecutive fields of a payload.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    total: usize,
    /// The byte of the last bit, and the mask of the next bit; 0 if the next bit begins a byte.
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
                    self.bytes(&value.to_be_bytes());
                }
            )*
        }
    };
}

integers! {
    /// An octet: 8 bit.
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
    /// Creates a reader at the start of a payload.
    #[must_use]
    pub fn new(payload: &'a [u8]) -> Self {
        Self {
            rest: payload,
            total: payload.len(),
            bits: 0,
            next_bit: 0,
        }
    }

    /// Returns the bytes that have not been read.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Returns the number of bytes read so far.
    #[must_use]
    pub fn position(&self) -> usize {
        self.total.saturating_sub(self.rest.len())
    }

    fn truncated(&self) -> DecodeError {
        DecodeError::TruncatedPayload {
            at: self.position(),
        }
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or_else(|| self.truncated())?;
        self.next_bit = 0;
        self.rest = rest;
        Ok(*head)
    }

    /// Reads this many bytes.
    ///
    /// # Errors
    /// [`DecodeError::TruncatedPayload`]
    #[inline]
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or_else(|| self.truncated())?;
        self.next_bit = 0;
        self.rest = rest;
        Ok(head)
    }

    /// Reads a bit.
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

    /// Reads a short string.
    ///
    /// # Errors
    /// [`DecodeError::TruncatedPayload`]
    #[inline]
    pub fn shortstr(&mut self) -> Result<ShortStr<'a>, DecodeError> {
        let start = self.clone();
        let length = self.octet()?;
        let bytes = self
            .bytes(usize::from(length))
            .map_err(|_| start.truncated())?;
        Ok(ShortStr::from_bytes(bytes).unwrap_or_default())
    }

    /// Reads a long string: a 32-bit length, then arbitrary bytes.
    ///
    /// # Errors
    /// [`DecodeError::TruncatedPayload`]
    #[inline]
    pub fn longstr(&mut self) -> Result<&'a [u8], DecodeError> {
        let start = self.clone();
        let length = self.long()?;
        let length = usize::try_from(length).map_err(|_| start.truncated())?;
        self.bytes(length).map_err(|_| start.truncated())
    }

    /// Returns a reader for the contents of a long string. Its positions count from the same start.
    pub(super) fn counted(&mut self) -> Result<Self, DecodeError> {
        let rest = self.longstr()?;
        Ok(Self {
            rest,
            total: self.position(),
            bits: 0,
            next_bit: 0,
        })
    }

    /// Checks that no bytes are left after the last field.
    ///
    /// # Errors
    /// [`DecodeError::TrailingBytes`] if bytes are left.
    #[inline]
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(DecodeError::TrailingBytes {
            at: self.position(),
        })
    }
}

/// A writer that appends consecutive fields to a buffer.
#[derive(Debug)]
pub struct Writer<'o> {
    out: &'o mut Vec<u8>,
    /// The mask of the next bit in the last byte written; 0 if the next bit begins a byte.
    next_bit: u8,
}

impl<'o> Writer<'o> {
    /// Creates a writer that appends to a buffer.
    #[must_use]
    pub fn new(out: &'o mut Vec<u8>) -> Self {
        Self { out, next_bit: 0 }
    }

    /// Writes bytes without a length.
    #[inline]
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.next_bit = 0;
        self.out.extend_from_slice(bytes);
    }

    /// Writes a bit.
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

    /// Writes a short string.
    #[inline]
    pub fn shortstr(&mut self, value: ShortStr<'_>) {
        self.octet(u8::try_from(value.len()).unwrap_or(u8::MAX));
        self.bytes(value.as_bytes());
    }

    /// Writes a long string. One of 4 GiB or more exceeds every frame limit, so its frame is
    /// refused.
    #[inline]
    pub fn longstr(&mut self, value: &[u8]) {
        self.long(u32::try_from(value.len()).unwrap_or(u32::MAX));
        self.bytes(value);
    }
}
