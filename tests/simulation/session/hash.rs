//! A hash of everything that a connection has sent and received.

/// A hash of bytes. Two runs of a seed must have the same.
#[derive(Debug, Default)]
pub(super) struct BytesHash(u64);

impl BytesHash {
    /// Adds bytes (FNV-1a), and marks the end of the piece.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            // The correlation ids of calls depend on a key from the operating system, so that
            // others cannot guess them, and differ between two runs of a seed. They consist of
            // hexadecimal digits, and their length is fixed, so all such digits are hashed as the
            // same.
            let byte = if byte.is_ascii_hexdigit() {
                b'0'
            } else {
                *byte
            };
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        }
        self.0 = self.0.rotate_left(17);
    }

    /// Returns the hash of all bytes so far.
    pub(super) fn value(&self) -> u64 {
        self.0
    }
}
