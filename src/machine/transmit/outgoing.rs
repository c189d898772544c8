//! Octets that the transport is given, in their order.

use crate::machine::transmit::chunk::Chunk;
use std::collections::VecDeque;

/// Chunks that are kept for the next use.
const SPARES: usize = 2;

/// What the transport has to write, in order.
#[derive(Default)]
pub struct Outgoing {
    chunks: VecDeque<Chunk>,
    len: usize,
    spares: Vec<Chunk>,
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
    pub fn advance(&mut self, octets: usize) {
        self.len = self.len.saturating_sub(octets);
        let mut left = octets;
        while let Some(chunk) = self.chunks.front_mut() {
            left = chunk.advance(left);
            if chunk.len() > 0 {
                return;
            }
            if let Some(mut chunk) = self.chunks.pop_front()
                && self.spares.len() < SPARES
            {
                chunk.clear();
                self.spares.push(chunk);
            }
        }
    }

    pub(crate) fn push(&mut self, chunk: Chunk) {
        self.len += chunk.len();
        self.chunks.push_back(chunk);
    }

    /// An empty chunk, one that was used before if there is one.
    pub(crate) fn spare(&mut self) -> Option<Chunk> {
        self.spares.pop()
    }
}
