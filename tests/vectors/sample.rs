//! Owned values of every wire type, for the fields of methods, tables and properties in tests.
//!
//! They are compared bit by bit (a NaN equals itself), and tables keep their order.

use puka::protocol::{Array, ArrayRef, EncodeError, ShortStr, Table, TableRef, Value};

/// A value of a field table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Node {
    Bool(bool),
    I8(i8),
    U8(u8),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    F32(u32),
    F64(u64),
    Decimal(u8, u32),
    Timestamp(u64),
    String(Vec<u8>),
    Bytes(Vec<u8>),
    Array(Vec<Node>),
    Table(Entries),
    Void,
}

/// The entries of a table, in order.
pub(crate) type Entries = Vec<(String, Node)>;

impl Node {
    /// Returns the content of a value, including nested containers.
    pub(crate) fn of(value: Value<'_>) -> Self {
        match value {
            Value::Bool(truth) => Self::Bool(truth),
            Value::I8(n) => Self::I8(n),
            Value::U8(n) => Self::U8(n),
            Value::I16(n) => Self::I16(n),
            Value::U16(n) => Self::U16(n),
            Value::I32(n) => Self::I32(n),
            Value::U32(n) => Self::U32(n),
            Value::I64(n) => Self::I64(n),
            Value::F32(n) => Self::F32(n.to_bits()),
            Value::F64(n) => Self::F64(n.to_bits()),
            Value::Decimal { scale, mantissa } => Self::Decimal(scale, mantissa),
            Value::Timestamp(n) => Self::Timestamp(n),
            Value::String(bytes) => Self::String(bytes.to_vec()),
            Value::Bytes(bytes) => Self::Bytes(bytes.to_vec()),
            Value::Array(array) => Self::Array(values(array)),
            Value::Table(table) => Self::Table(entries(table)),
            Value::Void => Self::Void,
            other => panic!("unknown value {other:?}"),
        }
    }

    /// Calls `take` with the value, built from the inside out.
    pub(crate) fn with<R>(&self, take: impl FnOnce(Value<'_>) -> R) -> Result<R, EncodeError> {
        let (array, table);
        Ok(take(match self {
            Self::Bool(truth) => Value::Bool(*truth),
            Self::I8(n) => Value::I8(*n),
            Self::U8(n) => Value::U8(*n),
            Self::I16(n) => Value::I16(*n),
            Self::U16(n) => Value::U16(*n),
            Self::I32(n) => Value::I32(*n),
            Self::U32(n) => Value::U32(*n),
            Self::I64(n) => Value::I64(*n),
            Self::F32(bits) => Value::F32(f32::from_bits(*bits)),
            Self::F64(bits) => Value::F64(f64::from_bits(*bits)),
            Self::Decimal(scale, mantissa) => Value::Decimal {
                scale: *scale,
                mantissa: *mantissa,
            },
            Self::Timestamp(n) => Value::Timestamp(*n),
            Self::String(bytes) => Value::String(bytes),
            Self::Bytes(bytes) => Value::Bytes(bytes),
            Self::Array(values) => {
                array = self::array(values)?;
                Value::Array(array.as_ref())
            }
            Self::Table(entries) => {
                table = self::table(entries)?;
                Value::Table(table.as_ref())
            }
            Self::Void => Value::Void,
        }))
    }
}

/// Returns the entries of a table.
pub(crate) fn entries(table: TableRef<'_>) -> Entries {
    table
        .iter()
        .map(|(name, value)| (name.as_str().unwrap().to_owned(), Node::of(value)))
        .collect()
}

fn values(array: ArrayRef<'_>) -> Vec<Node> {
    array.iter().map(Node::of).collect()
}

/// Returns a table with these entries.
pub(crate) fn table(entries: &[(String, Node)]) -> Result<Table, EncodeError> {
    let mut table = Table::new();
    for (name, value) in entries {
        value.with(|value| table.insert(name, value))??;
    }
    Ok(table)
}

/// Returns an array with these values.
pub(crate) fn array(values: &[Node]) -> Result<Array, EncodeError> {
    let mut array = Array::new();
    for value in values {
        value.with(|value| array.push(value))??;
    }
    Ok(array)
}

/// A field of a method, or a property.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Sample {
    Bit(bool),
    Octet(u8),
    Short(u16),
    Long(u32),
    Longlong(u64),
    Shortstr(Vec<u8>),
    Longstr(Vec<u8>),
    Table(Table),
}

/// The type of a field in a struct of `puka::protocol`.
pub(crate) trait Field<'a>: Copy {
    fn from_sample(sample: &'a Sample) -> Self;
    fn sample(self) -> Sample;
}

macro_rules! plain_fields {
    ($($ty:ty => $Variant:ident;)*) => {
        $(impl<'a> Field<'a> for $ty {
            fn from_sample(sample: &'a Sample) -> Self {
                match sample {
                    Sample::$Variant(value) => *value,
                    other => panic!("{other:?} is not a {}", stringify!($Variant)),
                }
            }
            fn sample(self) -> Sample {
                Sample::$Variant(self)
            }
        })*
    };
}

plain_fields! { bool => Bit; u8 => Octet; u16 => Short; u32 => Long; u64 => Longlong; }

impl<'a> Field<'a> for ShortStr<'a> {
    fn from_sample(sample: &'a Sample) -> Self {
        let Sample::Shortstr(bytes) = sample else {
            panic!("{sample:?} is not a short string")
        };
        ShortStr::from_bytes(bytes).unwrap()
    }
    fn sample(self) -> Sample {
        Sample::Shortstr(self.as_bytes().to_vec())
    }
}

impl<'a> Field<'a> for &'a [u8] {
    fn from_sample(sample: &'a Sample) -> Self {
        let Sample::Longstr(bytes) = sample else {
            panic!("{sample:?} is not a long string")
        };
        bytes
    }
    fn sample(self) -> Sample {
        Sample::Longstr(self.to_vec())
    }
}

impl<'a> Field<'a> for TableRef<'a> {
    fn from_sample(sample: &'a Sample) -> Self {
        let Sample::Table(table) = sample else {
            panic!("{sample:?} is not a table")
        };
        table.as_ref()
    }
    fn sample(self) -> Sample {
        Sample::Table(self.to_table())
    }
}

/// The fields of a method, or the properties that are set, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Fields(pub(crate) Vec<(String, Sample)>);

impl Fields {
    pub(crate) fn find<'a, F: Field<'a>>(&'a self, name: &str) -> Option<F> {
        self.0
            .iter()
            .find(|(found, _)| found == name)
            .map(|(_, sample)| F::from_sample(sample))
    }

    pub(crate) fn get<'a, F: Field<'a>>(&'a self, name: &str) -> F {
        self.find(name)
            .unwrap_or_else(|| panic!("no field {name} in {self:?}"))
    }
}
