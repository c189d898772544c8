//! One direction of a virtual network: bytes that arrive later, in other pieces, or not at all.

use crate::random::Random;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How the network moves bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// The largest piece of one read or write.
    pub(crate) piece: usize,
    /// The probability of a pause between two pieces in percent, and the longest one.
    pub(crate) pauses: usize,
    pub(crate) pause: Duration,
    /// The longest latency of a piece.
    pub(crate) latency: Duration,
    /// The maximum number of bytes in flight.
    pub(crate) capacity: usize,
}

/// The end of a transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Eof,
    Reset,
}

/// The result of a read.
pub(crate) enum Read {
    Bytes(Vec<u8>),
    Ended(End),
    Nothing,
}

#[derive(Debug)]
pub(crate) struct Wire {
    pace: Pace,
    flying: VecDeque<(Instant, Vec<u8>)>,
    /// The number of bytes of the first piece that were read.
    start: usize,
    bytes: usize,
    last_arrival: Option<Instant>,
    end: Option<(Instant, End)>,
    /// It is cut after this many more bytes.
    pub(crate) cut_after: Option<usize>,
    /// Everything sent is lost without an error.
    pub(crate) silent: bool,
    pub(crate) write_at: Instant,
    pub(crate) read_at: Instant,
}

impl Wire {
    pub(crate) fn new(pace: Pace, now: Instant) -> Self {
        Self {
            pace,
            flying: VecDeque::new(),
            start: 0,
            bytes: 0,
            last_arrival: None,
            end: None,
            cut_after: None,
            silent: false,
            write_at: now,
            read_at: now,
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    /// Returns how many bytes may be written now.
    pub(crate) fn room(&self, now: Instant, random: &mut Random) -> usize {
        if self.write_at > now || self.end.is_some() {
            return 0;
        }
        let room = self.pace.capacity.saturating_sub(self.bytes);
        let room = room.min(self.cut_after.unwrap_or(usize::MAX));
        room.min(1 + random.below(self.pace.piece))
    }

    /// Sends bytes that fit into [`room`](Self::room). Returns `true` if the wire is cut behind
    /// them.
    pub(crate) fn send(&mut self, now: Instant, bytes: Vec<u8>, random: &mut Random) -> bool {
        self.bytes += bytes.len();
        if let Some(left) = &mut self.cut_after {
            *left = left.saturating_sub(bytes.len());
        }
        if !self.pace.pause.is_zero() && random.chance(self.pace.pauses) {
            self.write_at = now + random.micros(0..self.pace.pause.as_micros() as usize + 1);
        }
        if !self.silent {
            let latency = random.micros(0..self.pace.latency.as_micros() as usize + 1);
            let arrival = self
                .last_arrival
                .map_or(now, |last| last.max(now))
                .max(now + latency);
            self.last_arrival = Some(arrival);
            self.flying.push_back((arrival, bytes));
        }
        self.cut_after == Some(0)
    }

    /// Ends it behind the bytes in flight, or at once.
    pub(crate) fn end(&mut self, now: Instant, end: End) {
        if self.end.is_some() {
            return;
        }
        if end == End::Reset {
            self.flying.clear();
            self.start = 0;
        }
        let at = if self.flying.is_empty() {
            now
        } else {
            self.last_arrival.map_or(now, |last| last.max(now))
        };
        self.end = Some((at, end));
    }

    pub(crate) fn read(&mut self, now: Instant, most: usize, random: &mut Random) -> Read {
        if self.silent || self.read_at > now {
            return Read::Nothing;
        }
        let Some((arrival, front)) = self.flying.front() else {
            return match self.end {
                Some((at, end)) if at <= now => Read::Ended(end),
                _ => Read::Nothing,
            };
        };
        if *arrival > now {
            return Read::Nothing;
        }
        let left = front.len() - self.start;
        let count = left.min(most).min(1 + random.below(self.pace.piece));
        let bytes = front[self.start..self.start + count].to_vec();
        self.start += count;
        if count == left {
            self.flying.pop_front();
            self.start = 0;
        }
        self.bytes -= bytes.len();
        if !self.pace.pause.is_zero() && random.chance(self.pace.pauses) {
            self.read_at = now + random.micros(0..self.pace.pause.as_micros() as usize + 1);
        }
        Read::Bytes(bytes)
    }

    /// Returns when input becomes available.
    pub(crate) fn readable_at(&self) -> Option<Instant> {
        if self.silent {
            return None;
        }
        let arrival = self.flying.front().map(|(arrival, _)| *arrival);
        arrival
            .or(self.end.map(|(at, _)| at))
            .map(|at| at.max(self.read_at))
    }

    /// Returns when a writer should try again.
    pub(crate) fn writable_at(&self) -> Option<Instant> {
        (self.end.is_none() && self.bytes < self.pace.capacity).then_some(self.write_at)
    }
}
