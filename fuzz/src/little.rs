//! A small parser of what a client writes, written from the spec independently of the library: it
//! shares no code with it.
//!
//! It is strict: an incomplete frame, bytes after the last field and unknown types are errors.

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LittleFrame {
    /// The type: 1 method, 2 header, 3 body, 8 heartbeat.
    pub kind: u8,
    /// The channel.
    pub channel: u16,
    /// The payload.
    pub payload: Vec<u8>,
}

/// A field of a method or of the properties.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// An integer of any size.
    Number(u64),
    /// A short string, a long string, or the bytes of a table.
    Bytes(Vec<u8>),
    /// A bit.
    Bit(bool),
}

impl Field {
    /// Returns the integer.
    pub fn number(&self) -> u64 {
        match self {
            Self::Number(number) => *number,
            other => panic!("expected a number, found {other:?}"),
        }
    }

    /// Returns the bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            other => panic!("expected bytes, found {other:?}"),
        }
    }

    /// Returns the bit.
    pub fn bit(&self) -> bool {
        match self {
            Self::Bit(bit) => *bit,
            other => panic!("expected a bit, found {other:?}"),
        }
    }
}

/// The methods that a client sends, with their fields: a digit is an integer of that many bytes,
/// `s` and `S` are a short and a long string, `F` a table, `b` a bit.
const METHODS: [(u16, u16, &str); 38] = [
    (10, 11, "FsSs"),
    (10, 21, "S"),
    (10, 31, "242"),
    (10, 40, "ssb"),
    (10, 50, "2s22"),
    (10, 51, ""),
    (10, 70, "Ss"),
    (20, 10, "s"),
    (20, 20, "b"),
    (20, 21, "b"),
    (20, 40, "2s22"),
    (20, 41, ""),
    (40, 10, "2ssbbbbbF"),
    (40, 20, "2sbb"),
    (40, 30, "2sssbF"),
    (40, 40, "2sssbF"),
    (50, 10, "2sbbbbbF"),
    (50, 20, "2sssbF"),
    (50, 30, "2sb"),
    (50, 40, "2sbbb"),
    (50, 50, "2sssF"),
    (60, 10, "42b"),
    (60, 20, "2ssbbbbF"),
    (60, 30, "sb"),
    (60, 31, "s"),
    (60, 40, "2ssbb"),
    (60, 70, "2sb"),
    (60, 80, "8b"),
    (60, 90, "8b"),
    (60, 100, "b"),
    (60, 110, "b"),
    (60, 120, "8bb"),
    (85, 10, "b"),
    (90, 10, ""),
    (90, 20, ""),
    (90, 30, ""),
    (10, 60, "s"),
    (10, 61, ""),
];

/// The content properties, from the highest flag to the lowest.
const PROPERTIES: [char; 14] = [
    's', 's', 'F', '1', '1', 's', 's', 's', 's', '8', 's', 's', 's', 's',
];

struct Cursor<'a> {
    bytes: &'a [u8],
    /// The last byte read for bits, and how many of its bits were read.
    bits: Option<(u8, u32)>,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        self.bits = None;
        let (taken, rest) = self.bytes.split_at_checked(count)?;
        self.bytes = rest;
        Some(taken)
    }

    fn number(&mut self, bytes: usize) -> Option<u64> {
        Some(
            self.take(bytes)?
                .iter()
                .fold(0, |number, byte| number << 8 | u64::from(*byte)),
        )
    }

    fn counted(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let count = usize::try_from(self.number(bytes)?).ok()?;
        self.take(count)
    }

    fn bit(&mut self) -> Option<bool> {
        let (byte, taken) = match self.bits {
            Some((byte, taken)) if taken < 8 => (byte, taken),
            _ => (self.take(1)?[0], 0),
        };
        self.bits = Some((byte, taken + 1));
        Some(byte >> taken & 1 == 1)
    }

    fn field(&mut self, kind: char) -> Option<Field> {
        Some(match kind {
            'b' => Field::Bit(self.bit()?),
            's' => Field::Bytes(self.counted(1)?.to_vec()),
            'S' => Field::Bytes(self.counted(4)?.to_vec()),
            'F' => {
                let table = self.counted(4)?;
                entries(table)?;
                Field::Bytes(table.to_vec())
            }
            digit => Field::Number(self.number(digit.to_digit(10)? as usize)?),
        })
    }

    /// Reads a table value after its tag. Returns how many values it consists of.
    fn value(&mut self) -> Option<usize> {
        match self.take(1)?[0] {
            b't' | b'b' | b'B' => self.take(1)?,
            b's' | b'u' => self.take(2)?,
            b'I' | b'i' | b'f' => self.take(4)?,
            b'l' | b'd' | b'T' => self.take(8)?,
            b'D' => self.take(5)?,
            b'S' | b'x' => self.counted(4)?,
            b'V' => &[],
            b'F' => return entries(self.counted(4)?).map(|inside| inside + 1),
            b'A' => {
                let mut inside = Cursor {
                    bytes: self.counted(4)?,
                    bits: None,
                };
                let mut values = 1;
                while !inside.bytes.is_empty() {
                    values += inside.value()?;
                }
                return Some(values);
            }
            _ => return None,
        };
        Some(1)
    }
}

/// Returns how many values a table has, including nested ones; `None` if it is malformed.
pub fn entries(table: &[u8]) -> Option<usize> {
    let mut inside = Cursor {
        bytes: table,
        bits: None,
    };
    let mut values = 0;
    while !inside.bytes.is_empty() {
        inside.counted(1)?;
        values += inside.value()?;
    }
    Some(values)
}

/// Returns the first frame and its length; `None` if it is incomplete.
///
/// # Panics
/// If the bytes are not a frame.
pub fn next_frame(bytes: &[u8]) -> Option<(LittleFrame, usize)> {
    let (frame, length, end) = cut(bytes)?;
    assert_eq!(
        end, 0xCE,
        "expected frame end 0xCE, found {end:#04x} in {bytes:02x?}"
    );
    assert!(
        matches!(frame.kind, 1..=3 | 8),
        "unknown frame type {}",
        frame.kind
    );
    Some((frame, length))
}

/// Returns the first frame without checking it, its length, and its last byte; `None` if it is
/// incomplete.
pub fn cut(bytes: &[u8]) -> Option<(LittleFrame, usize, u8)> {
    let (header, rest) = bytes.split_first_chunk::<7>()?;
    let &[kind, channel, low_channel, ref size @ ..] = header;
    // On a 32-bit target the length of the frame may exceed `usize`, so the size is checked before
    // anything is added to it.
    let (payload, rest) =
        rest.split_at_checked(usize::try_from(u32::from_be_bytes(*size)).ok()?)?;
    let channel = u16::from_be_bytes([channel, low_channel]);
    Some((
        LittleFrame {
            kind,
            channel,
            payload: payload.to_vec(),
        },
        8 + payload.len(),
        *rest.first()?,
    ))
}

impl LittleFrame {
    /// Returns the class and method.
    pub fn id(&self) -> (u16, u16) {
        let at = |place: usize| self.payload.get(place).copied().unwrap_or_default();
        (
            u16::from_be_bytes([at(0), at(1)]),
            u16::from_be_bytes([at(2), at(3)]),
        )
    }

    /// Returns the class and method, and the fields.
    ///
    /// # Panics
    /// If the method is malformed.
    pub fn method(&self) -> ((u16, u16), Vec<Field>) {
        let id = self.id();
        let known = METHODS
            .iter()
            .find(|(class, method, _)| (*class, *method) == id);
        let (.., kinds) = known.unwrap_or_else(|| panic!("unexpected method {id:?} of a client"));
        let mut cursor = Cursor {
            bytes: &self.payload[4..],
            bits: None,
        };
        let fields: Option<Vec<Field>> = kinds.chars().map(|kind| cursor.field(kind)).collect();
        let fields = fields.unwrap_or_else(|| panic!("{id:?} is malformed: {:02x?}", self.payload));
        assert!(
            cursor.bytes.is_empty(),
            "{id:?} has bytes after its last field: {:02x?}",
            self.payload
        );
        (id, fields)
    }

    /// Returns the size of the body, and the properties.
    ///
    /// # Panics
    /// If the header is malformed.
    pub fn header(&self) -> (u64, Vec<Option<Field>>) {
        let mut cursor = Cursor {
            bytes: &self.payload,
            bits: None,
        };
        assert_eq!(
            (cursor.number(2), cursor.number(2)),
            (Some(60), Some(0)),
            "class and weight"
        );
        let size = cursor.number(8).expect("the header has a body size");
        let flags = cursor.number(2).expect("the header has property flags");
        assert_eq!(flags & 3, 0, "unknown property flags");
        let properties = PROPERTIES.iter().enumerate().map(|(place, kind)| {
            let is_there = flags >> (15 - place) & 1 == 1;
            is_there.then(|| cursor.field(*kind).expect("the header has the property"))
        });
        let properties = properties.collect();
        assert!(
            cursor.bytes.is_empty(),
            "the header has bytes after its last property: {:02x?}",
            self.payload
        );
        (size, properties)
    }
}
