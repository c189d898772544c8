//! The bytes that the driver has and writes to the transport.

use crate::machine::transmit::chunk::Chunk;
use std::collections::VecDeque;

/// The largest number of empty chunks that are stored for reuse.
const MAX_EMPTY_CHUNKS: usize = 2;

/// The bytes to write to the transport, in order.
#[derive(Default)]
pub struct Outgoing {
    chunks: VecDeque<Chunk>,
    /// The number of unwritten bytes of all chunks.
    len: usize,
    /// Written chunks for reuse.
    empty_chunks: Vec<Chunk>,
}

/// Prints the number of bytes and not the bytes, which contain the login.
impl std::fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outgoing")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

impl Outgoing {
    /// Returns the number of bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns `true` if there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the bytes in order, in pieces for a vectored write.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.chunks.iter().flat_map(Chunk::pieces)
    }

    /// Removes written bytes from the front.
    pub fn advance(&mut self, count: usize) {
        self.len = self.len.saturating_sub(count);
        let mut left = count;
        while let Some(chunk) = self.chunks.front_mut() {
            left = chunk.advance(left);
            if chunk.len() > 0 {
                return;
            }
            if let Some(mut chunk) = self.chunks.pop_front()
                && self.empty_chunks.len() < MAX_EMPTY_CHUNKS
            {
                chunk.clear();
                self.empty_chunks.push(chunk);
            }
        }
    }

    /// Appends a chunk.
    pub(crate) fn push(&mut self, chunk: Chunk) {
        self.len += chunk.len();
        self.chunks.push_back(chunk);
    }

    /// Returns an empty chunk for reuse, if there is one.
    pub(crate) fn take_empty_chunk(&mut self) -> Option<Chunk> {
        self.empty_chunks.pop()
    }
}
