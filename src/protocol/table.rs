//! Field tables and arrays (spec 4.2.5.5), kept as their octets.
//!
//! A table is checked once, in one pass and without recursion, and then read entry by entry, in place. Writing one into
//! a frame is a copy. Names may repeat and keep their order; a look-up finds the first, as RabbitMQ's do.

use super::wire::{Reader, Writer};
use super::{ArrayRef, DecodeError, EncodeError, ShortStr, TableRef, Value};
use std::fmt;

/// How many tables and arrays may stand inside each other within a table, itself not counted: 32, far beyond what people
/// write, and little enough that neither reading nor printing one is a strain.
pub const MAX_NESTING: usize = 32;

/// What a container holds: entries with a name, or bare values.
#[derive(Clone, Copy, PartialEq)]
enum Shape {
    Table,
    Array,
}

/// Checks a container and everything in it. Gives the nesting depth, 0 when nothing is nested.
fn check(octets: &[u8], mut shape: Shape) -> Result<usize, DecodeError> {
    let mut reader = Reader::new(octets);
    // Those that enclose it, and where they go on.
    let mut enclosing = Vec::new();
    let mut deepest = 0;
    loop {
        let at = reader.position();
        if reader.rest().is_empty() {
            let Some(outer) = enclosing.pop() else { return Ok(deepest) };
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

/// Refuses a value that is nested too deep for a container to take it.
fn check_depth(value: Value<'_>) -> Result<(), EncodeError> {
    let depth = match value {
        Value::Table(table) => check(table.as_octets(), Shape::Table),
        Value::Array(array) => check(array.as_octets(), Shape::Array),
        _ => return Ok(()),
    };
    match depth {
        Ok(depth) if depth < MAX_NESTING => Ok(()),
        _ => Err(EncodeError::NestingTooDeep { limit: MAX_NESTING }),
    }
}

/// A field table that its holder may add to.
#[derive(Clone, Default, PartialEq)]
pub struct Table(Vec<u8>);

impl Table {
    /// A table without entries.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds an entry behind the others. It does not look for one of the same name.
    ///
    /// # Errors
    /// [`EncodeError::ShortStrTooLong`] when the name has more than 255 octets, [`EncodeError::NestingTooDeep`] when
    /// the value is nested too deep. The table stays as it was.
    pub fn insert<'v>(&mut self, name: &str, value: impl Into<Value<'v>>) -> Result<(), EncodeError> {
        self.push(ShortStr::new(name)?, value.into())
    }

    /// Adds an entry behind the others, under a name that need not be UTF-8.
    ///
    /// # Errors
    /// [`EncodeError::NestingTooDeep`], which leaves the table as it was.
    pub fn push(&mut self, name: ShortStr<'_>, value: Value<'_>) -> Result<(), EncodeError> {
        check_depth(value)?;
        let mut writer = Writer::new(&mut self.0);
        writer.shortstr(name);
        value.encode(&mut writer);
        Ok(())
    }

    /// The table, to read.
    #[must_use]
    pub fn as_ref(&self) -> TableRef<'_> {
        TableRef::checked(&self.0)
    }

    /// The first value of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Value<'_>> {
        self.as_ref().get(name)
    }

    /// The entries, in their order.
    #[must_use]
    pub fn iter(&self) -> Entries<'_> {
        self.as_ref().iter()
    }

    /// Whether there is no entry.
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
    /// Checks the octets of a table, without the four of its length.
    ///
    /// # Errors
    /// [`DecodeError::BadTable`], [`DecodeError::UnknownFieldTag`], [`DecodeError::NestingTooDeep`]
    pub fn new(octets: &'a [u8]) -> Result<Self, DecodeError> {
        check(octets, Shape::Table)?;
        Ok(Self::checked(octets))
    }

    /// A copy that one may add to.
    #[must_use]
    pub fn to_table(self) -> Table {
        Table(self.as_octets().to_vec())
    }

    /// The first value of that name.
    #[must_use]
    pub fn get(self, name: &str) -> Option<Value<'a>> {
        self.iter().find(|(found, _)| found.as_octets() == name.as_bytes()).map(|(_, value)| value)
    }

    /// The entries, in their order.
    #[must_use]
    pub fn iter(self) -> Entries<'a> {
        Entries(Reader::new(self.as_octets()))
    }

    /// Whether no number in it, nested ones included, is NaN or infinite, which RabbitMQ can't parse.
    #[must_use]
    pub fn is_finite(self) -> bool {
        // Bounded: nothing in a table that exists is nested deeper than `MAX_NESTING`.
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

impl fmt::Debug for TableRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// The entries of a table, in their order.
#[derive(Clone, Debug)]
pub struct Entries<'a>(Reader<'a>);

impl<'a> Iterator for Entries<'a> {
    type Item = (ShortStr<'a>, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let name = self.0.shortstr().ok()?;
        Some((name, Value::decode(&mut self.0).ok()?))
    }
}

/// An array of values that its holder may add to.
#[derive(Clone, Default, PartialEq)]
pub struct Array(Vec<u8>);

impl Array {
    /// An array without values.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a value behind the others.
    ///
    /// # Errors
    /// [`EncodeError::NestingTooDeep`], which leaves the array as it was.
    pub fn push<'v>(&mut self, value: impl Into<Value<'v>>) -> Result<(), EncodeError> {
        let value = value.into();
        check_depth(value)?;
        value.encode(&mut Writer::new(&mut self.0));
        Ok(())
    }

    /// The array, to read.
    #[must_use]
    pub fn as_ref(&self) -> ArrayRef<'_> {
        ArrayRef::checked(&self.0)
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
    /// The values, in their order.
    #[must_use]
    pub fn iter(self) -> Values<'a> {
        Values(Reader::new(self.as_octets()))
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

/// The values of an array, in their order.
#[derive(Clone, Debug)]
pub struct Values<'a>(Reader<'a>);

impl<'a> Iterator for Values<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        Value::decode(&mut self.0).ok()
    }
}

impl<'a> Reader<'a> {
    /// A field table, checked whole.
    ///
    /// # Errors
    /// [`DecodeError::TruncatedPayload`], or what is wrong inside the table.
    pub fn table(&mut self) -> Result<TableRef<'a>, DecodeError> {
        TableRef::new(self.longstr()?)
    }
}

impl Writer<'_> {
    /// A field table.
    #[inline]
    pub fn table(&mut self, value: TableRef<'_>) {
        self.longstr(value.as_octets());
    }
}
