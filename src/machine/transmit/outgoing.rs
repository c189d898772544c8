//! Octets that the transport is given, in their order.

use crate::machine::transmit::chunk::Chunk;
use std::collections::VecDeque;

/// Chunks that are kept for the next use.
const EMPTY_CHUNKS: usize = 2;

/// What the transport has to write, in order.
#[derive(Default)]
pub struct Outgoing {
    chunks: VecDeque<Chunk>,
    len: usize,
    empty_chunks: Vec<Chunk>,
}

/// How many octets there are, and not which: the login is among them.
impl std::fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outgoing")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

impl Outgoing {
    /// How many octets there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The octets in their order, in pieces that a vectored write takes.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.chunks.iter().flat_map(Chunk::pieces)
    }

    /// Forgets the first so many octets, which were written.
    pub fn advance(&mut self, count: usize) {
        self.len = self.len.saturating_sub(count);
        let mut left = count;
        while let Some(chunk) = self.chunks.front_mut() {
            left = chunk.advance(left);
            if chunk.len() > 0 {
                return;
            }
            if let Some(mut chunk) = self.chunks.pop_front()
                && self.empty_chunks.len() < EMPTY_CHUNKS
            {
                chunk.clear();
                self.empty_chunks.push(chunk);
            }
        }
    }

    pub(crate) fn push(&mut self, chunk: Chunk) {
        self.len += chunk.len();
        self.chunks.push_back(chunk);
    }

    /// An empty chunk, one that was used before if there is one.
    pub(crate) fn take_empty_chunk(&mut self) -> Option<Chunk> {
        self.empty_chunks.pop()
    }
}
