//! Tables and arrays as the octets that they are, for values to hold them. What they hold is read in `table`.

/// A field table, checked, as it stands in what was received.
#[derive(Clone, Copy, Default, PartialEq)]
pub struct TableRef<'a>(&'a [u8]);

impl<'a> TableRef<'a> {
    /// A table without entries.
    pub const EMPTY: TableRef<'static> = TableRef(b"");

    /// A table that has been checked, or stands in one that has.
    pub(super) const fn checked(octets: &'a [u8]) -> Self {
        Self(octets)
    }

    /// The octets, without the four of the length.
    #[must_use]
    pub fn as_octets(self) -> &'a [u8] {
        self.0
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }
}

/// An array of values, checked, as it stands in what was received.
#[derive(Clone, Copy, Default, PartialEq)]
pub struct ArrayRef<'a>(&'a [u8]);

impl<'a> ArrayRef<'a> {
    /// An array that has been checked, or stands in a table that has.
    pub(super) const fn checked(octets: &'a [u8]) -> Self {
        Self(octets)
    }

    /// The octets, without the four of the length.
    #[must_use]
    pub fn as_octets(self) -> &'a [u8] {
        self.0
    }
}
