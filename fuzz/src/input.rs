//! An input as a series of choices. One that has come to its end goes on with zeros, so that every input means something.

/// What is left of an input.
#[derive(Clone, Debug)]
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// Choices made of octets.
    pub fn new(octets: &'a [u8]) -> Self {
        Self(octets)
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next octet.
    pub fn octet(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// A number below the limit, which is at most 256.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::from(self.octet()) % limit.max(1)
    }

    /// Yes or no.
    pub fn flag(&mut self) -> bool {
        self.octet() & 1 == 1
    }

    /// Two octets.
    pub fn short(&mut self) -> u16 {
        u16::from_be_bytes([self.octet(), self.octet()])
    }

    /// Eight octets.
    pub fn longlong(&mut self) -> u64 {
        u64::from_be_bytes(std::array::from_fn(|_| self.octet()))
    }

    /// So many octets, or what there is.
    pub fn octets(&mut self, most: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// What is left.
    pub fn rest(self) -> &'a [u8] {
        self.0
    }

    /// One of several.
    pub fn one_of<'t, T>(&mut self, all: &'t [T]) -> Option<&'t T> {
        let choice = self.octet();
        all.get(usize::from(choice) % all.len().max(1))
    }
}
