//! Field tables and arrays (spec 4.2.5.5), stored as their encoded bytes.
//!
//! A table is validated once, in one pass and without recursion, and then read in place, entry by
//! entry. Encoding it into a frame is a copy. Names may repeat and keep their order; a lookup
//! returns the first, as in RabbitMQ.

use super::wire::{Reader, Writer};
use super::{ArrayRef, DecodeError, EncodeError, ShortStr, TableRef, Value};
use std::fmt;

/// The deepest nesting of tables and arrays in a table, not counting the table itself. 32 is far
/// more than applications use, and small enough to read and print with bounded recursion.
pub const MAX_NESTING: usize = 32;

/// The layout of a container: named entries, or bare values.
#[derive(Clone, Copy, PartialEq)]
enum Shape {
    Table,
    Array,
}

/// Validates a container and everything in it. Returns the nesting depth, 0 if nothing is nested.
fn check(bytes: &[u8], mut shape: Shape) -> Result<usize, DecodeError> {
    let mut reader = Reader::new(bytes);
    // The enclosing containers, each with the position after the nested one.
    let mut enclosing = Vec::new();
    let mut deepest = 0;
    loop {
        let at = reader.position();
        if reader.rest().is_empty() {
            let Some(outer) = enclosing.pop() else {
                return Ok(deepest);
            };
            (shape, reader) = outer;
            continue;
        }
        let overrun = |error| match error {
            DecodeError::TruncatedPayload { .. } => DecodeError::BadTable { at },
            other => other,
        };
        if shape == Shape::Table {
            reader.shortstr().map_err(overrun)?;
        }
        let nested = match reader.rest().first() {
            Some(b'F') => Shape::Table,
            Some(b'A') => Shape::Array,
            _ => {
                Value::decode(&mut reader).map_err(overrun)?;
                continue;
            }
        };
        reader.octet()?;
        let inner = reader.counted().map_err(overrun)?;
        if enclosing.len() == MAX_NESTING {
            return Err(DecodeError::NestingTooDeep { limit: MAX_NESTING });
        }
        enclosing.push((shape, reader));
        deepest = deepest.max(enclosing.len());
        (shape, reader) = (nested, inner);
    }
}

/// Refuses a value that is nested too deeply for a container.
fn check_depth(value: Value<'_>) -> Result<(), EncodeError> {
    let depth = match value {
        Value::Table(table) => check(table.as_bytes(), Shape::Table),
        Value::Array(array) => check(array.as_bytes(), Shape::Array),
        _ => return Ok(()),
    };
    match depth {
        Ok(depth) if depth < MAX_NESTING => Ok(()),
        _ => Err(EncodeError::NestingTooDeep { limit: MAX_NESTING }),
    }
}

/// A field table that owns its entries and can be extended. It is compared as a [`TableRef`].
#[derive(Clone, Default)]
pub struct Table(Vec<u8>);

impl Table {
    /// Creates an empty table.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Appends an entry. Does not look for an existing entry of the same name.
    ///
    /// # Errors
    /// [`EncodeError::ShortStrTooLong`] if the name has more than 255 bytes,
    /// [`EncodeError::NestingTooDeep`] if the value is nested too deeply. The table is unchanged
    /// then.
    pub fn insert<'v>(
        &mut self,
        name: &str,
        value: impl Into<Value<'v>>,
    ) -> Result<(), EncodeError> {
        self.push(ShortStr::new(name)?, value.into())
    }

    /// Appends an entry with a name that need not be UTF-8.
    ///
    /// # Errors
    /// [`EncodeError::NestingTooDeep`]. The table is unchanged then.
    pub fn push(&mut self, name: ShortStr<'_>, value: Value<'_>) -> Result<(), EncodeError> {
        check_depth(value)?;
        let mut writer = Writer::new(&mut self.0);
        writer.shortstr(name);
        value.encode(&mut writer);
        Ok(())
    }

    /// Returns a reference to read the table.
    #[must_use]
    pub fn as_ref(&self) -> TableRef<'_> {
        TableRef::checked(&self.0)
    }

    /// Returns the first value with this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Value<'_>> {
        self.as_ref().get(name)
    }

    /// Returns the entries in order.
    #[must_use]
    pub fn iter(&self) -> Entries<'_> {
        self.as_ref().iter()
    }

    /// Returns `true` if there are no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'a> From<&'a Table> for Value<'a> {
    fn from(table: &'a Table) -> Self {
        Self::Table(table.as_ref())
    }
}

impl<'a> IntoIterator for &'a Table {
    type Item = (ShortStr<'a>, Value<'a>);
    type IntoIter = Entries<'a>;
    fn into_iter(self) -> Entries<'a> {
        self.iter()
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_ref().fmt(f)
    }
}

impl<'a> TableRef<'a> {
    /// Validates the encoded bytes of a table, without the four bytes of its length.
    ///
    /// # Errors
    /// [`DecodeError::BadTable`], [`DecodeError::UnknownFieldTag`], [`DecodeError::NestingTooDeep`]
    pub fn new(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        check(bytes, Shape::Table)?;
        Ok(Self::checked(bytes))
    }

    /// Returns a copy that can be extended.
    #[must_use]
    pub fn to_table(self) -> Table {
        Table(self.as_bytes().to_vec())
    }

    /// Returns a copy with another value of this name, if the table has the name.
    pub(crate) fn with_value(self, name: &str, value: Value<'_>) -> Table {
        let mut copy = Table::new();
        for (found, old) in self {
            let is_it = found.as_bytes() == name.as_bytes();
            // A value from a table fits at the same depth, and callers replace it with a scalar.
            let _ = copy.push(found, if is_it { value } else { old });
        }
        copy
    }

    /// Returns a copy with the entries sorted by name. Entries of the same name keep their order.
    #[must_use]
    pub(crate) fn sorted_by_name(self) -> Table {
        let mut bytes = Vec::with_capacity(self.as_bytes().len());
        let mut writer = Writer::new(&mut bytes);
        for (name, value) in self.sorted_entries() {
            writer.shortstr(name);
            value.encode(&mut writer);
        }
        Table(bytes)
    }

    fn sorted_entries(self) -> Vec<(ShortStr<'a>, Value<'a>)> {
        let mut entries: Vec<_> = self.iter().collect();
        entries.sort_by_key(|(name, _)| name.as_bytes());
        entries
    }

    /// Returns the first value with this name.
    #[must_use]
    pub fn get(self, name: &str) -> Option<Value<'a>> {
        self.iter()
            .find(|(found, _)| found.as_bytes() == name.as_bytes())
            .map(|(_, value)| value)
    }

    /// Returns the entries in order.
    #[must_use]
    pub fn iter(self) -> Entries<'a> {
        Entries(Reader::new(self.as_bytes()))
    }

    /// Returns `true` if no number in it, including nested ones, is NaN or infinite, which RabbitMQ
    /// cannot parse.
    #[must_use]
    pub fn is_finite(self) -> bool {
        // The recursion is bounded: a validated table is nested at most `MAX_NESTING` deep.
        self.iter().all(|(_, value)| value_is_finite(value))
    }
}

fn value_is_finite(value: Value<'_>) -> bool {
    match value {
        Value::Table(table) => table.is_finite(),
        Value::Array(array) => array.iter().all(value_is_finite),
        value => value.is_finite(),
    }
}

impl<'a> IntoIterator for TableRef<'a> {
    type Item = (ShortStr<'a>, Value<'a>);
    type IntoIter = Entries<'a>;
    fn into_iter(self) -> Entries<'a> {
        self.iter()
    }
}

impl PartialEq for TableRef<'_> {
    fn eq(&self, other: &Self) -> bool {
        // Equal bytes are the usual case, and equal entries have the same length in any order.
        self.as_bytes() == other.as_bytes()
            || self.as_bytes().len() == other.as_bytes().len()
                && self.sorted_entries() == other.sorted_entries()
    }
}

impl PartialEq for Table {
    fn eq(&self, other: &Self) -> bool {
        self.as_ref() == other.as_ref()
    }
}

impl fmt::Debug for TableRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// An iterator over the entries of a table.
#[derive(Clone, Debug)]
pub struct Entries<'a>(Reader<'a>);

impl<'a> Iterator for Entries<'a> {
    type Item = (ShortStr<'a>, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let name = self.0.shortstr().ok()?;
        Some((name, Value::decode(&mut self.0).ok()?))
    }
}

/// An array that owns its values and can be extended. It is compared as an [`ArrayRef`].
#[derive(Clone, Default)]
pub struct Array(Vec<u8>);

impl Array {
    /// Creates an empty array.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Appends a value.
    ///
    /// # Errors
    /// [`EncodeError::NestingTooDeep`]. The array is unchanged then.
    pub fn push<'v>(&mut self, value: impl Into<Value<'v>>) -> Result<(), EncodeError> {
        let value = value.into();
        check_depth(value)?;
        value.encode(&mut Writer::new(&mut self.0));
        Ok(())
    }

    /// Returns a reference to read the array.
    #[must_use]
    pub fn as_ref(&self) -> ArrayRef<'_> {
        ArrayRef::checked(&self.0)
    }
}

impl PartialEq for ArrayRef<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
            || self.as_bytes().len() == other.as_bytes().len() && self.iter().eq(other.iter())
    }
}

impl PartialEq for Array {
    fn eq(&self, other: &Self) -> bool {
        self.as_ref() == other.as_ref()
    }
}

impl<'a> From<&'a Array> for Value<'a> {
    fn from(array: &'a Array) -> Self {
        Self::Array(array.as_ref())
    }
}

impl fmt::Debug for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_ref().fmt(f)
    }
}

impl<'a> ArrayRef<'a> {
    /// Returns the values in order.
    #[must_use]
    pub fn iter(self) -> Values<'a> {
        Values(Reader::new(self.as_bytes()))
    }
}

impl<'a> IntoIterator for ArrayRef<'a> {
    type Item = Value<'a>;
    type IntoIter = Values<'a>;
    fn into_iter(self) -> Values<'a> {
        self.iter()
    }
}

impl fmt::Debug for ArrayRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// An iterator over the values of an array.
#[derive(Clone, Debug)]
pub struct Values<'a>(Reader<'a>);

impl<'a> Iterator for Values<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        Value::decode(&mut self.0).ok()
    }
}

impl<'a> Reader<'a> {
    /// Reads a field table and validates it.
    ///
    /// # Errors
    /// [`DecodeError::TruncatedPayload`], or the error in the table.
    pub fn table(&mut self) -> Result<TableRef<'a>, DecodeError> {
        TableRef::new(self.longstr()?)
    }
}

impl Writer<'_> {
    /// Writes a field table.
    #[inline]
    pub fn table(&mut self, value: TableRef<'_>) {
        self.longstr(value.as_bytes());
    }
}
