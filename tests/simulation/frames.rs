//! Splits bytes into frames, independently of the library's decoder.

/// Splits a stream of bytes, which arrives in pieces of any size, into whole frames.
#[derive(Debug, Default)]
pub(crate) struct FrameSplitter(Vec<u8>);

/// A whole frame, or the eight bytes at the start of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Frame(pub(crate) Vec<u8>);

impl FrameSplitter {
    /// Adds bytes, and returns the frames that are complete now.
    pub(crate) fn split(&mut self, bytes: &[u8]) -> Vec<Frame> {
        self.0.extend_from_slice(bytes);
        let mut frames = Vec::new();
        let mut start = 0;
        while let Some(length) = length(&self.0[start..]) {
            frames.push(Frame(self.0[start..start + length].to_vec()));
            start += length;
        }
        self.0.drain(..start);
        frames
    }
}

/// Returns the length of the first frame, if it is complete.
fn length(bytes: &[u8]) -> Option<usize> {
    let length = match bytes {
        [b'A', ..] => 8,
        [_, _, _, a, b, c, d, ..] => u32::from_be_bytes([*a, *b, *c, *d]) as usize + 8,
        _ => return None,
    };
    (bytes.len() >= length).then_some(length)
}

impl Frame {
    /// Returns `true` for a method frame.
    pub(crate) fn is_method(&self) -> bool {
        self.0[0] == 1
    }

    /// Returns `true` for the protocol header, the eight bytes with which a client begins.
    pub(crate) fn is_protocol_header(&self) -> bool {
        self.0[0] == b'A'
    }

    /// Returns `true` for a content header frame.
    pub(crate) fn is_header(&self) -> bool {
        self.0[0] == 2
    }

    /// Returns `true` for a body frame.
    pub(crate) fn is_body(&self) -> bool {
        self.0[0] == 3
    }

    /// Returns the number of the channel.
    pub(crate) fn channel(&self) -> u16 {
        u16::from_be_bytes([self.0[1], self.0[2]])
    }

    /// Returns the payload.
    pub(crate) fn payload(&self) -> &[u8] {
        &self.0[7..self.0.len() - 1]
    }

    /// Returns the class and the method of a method frame.
    pub(crate) fn method(&self) -> Option<(u16, u16)> {
        let payload = self.payload();
        self.is_method().then(|| {
            (
                u16::from_be_bytes([payload[0], payload[1]]),
                u16::from_be_bytes([payload[2], payload[3]]),
            )
        })
    }

    /// Returns the size of the body that a content header announces.
    pub(crate) fn body_size(&self) -> Option<u64> {
        let bytes = self.payload().get(4..12).filter(|_| self.is_header())?;
        Some(
            bytes
                .iter()
                .fold(0, |size, byte| size << 8 | u64::from(*byte)),
        )
    }
}
