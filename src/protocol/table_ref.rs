//! References to encoded tables and arrays. Their contents are read in `table`.

/// A validated field table that borrows its encoded bytes.
///
/// Tables are equal if they have the same entries, in any order, because RabbitMQ sorts headers
/// since 4.0. Entries of the same name keep their order.
#[derive(Clone, Copy, Default)]
pub struct TableRef<'a>(&'a [u8]);

impl<'a> TableRef<'a> {
    /// The empty table.
    pub const EMPTY: TableRef<'static> = TableRef(b"");

    /// Wraps a table that was validated, by itself or as part of another.
    pub(super) const fn checked(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes, without the four bytes of the length.
    #[must_use]
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// Returns `true` if there are no entries.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }
}

/// A validated array that borrows its encoded bytes. Tables in it are compared as tables.
#[derive(Clone, Copy, Default)]
pub struct ArrayRef<'a>(&'a [u8]);

impl<'a> ArrayRef<'a> {
    /// Wraps an array that was validated, by itself or as part of a table.
    pub(super) const fn checked(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes, without the four bytes of the length.
    #[must_use]
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }
}
