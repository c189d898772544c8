//! One direction of a transport of the virtual network. Bytes arrive later, in other pieces, or not
//! at all.

use crate::random::Random;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How the network moves bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// The maximum number of bytes of one read or write.
    pub(crate) max_piece: usize,
    /// The probability of a pause after a piece, in percent.
    pub(crate) pause_percent: usize,
    pub(crate) max_pause: Duration,
    pub(crate) max_latency: Duration,
    /// The maximum number of bytes in flight.
    pub(crate) capacity: usize,
}

/// How a transport ends.
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

/// One direction of a transport.
#[derive(Debug)]
pub(crate) struct Wire {
    pace: Pace,
    /// The pieces in flight, each with the instant of its arrival.
    in_flight: VecDeque<(Instant, Vec<u8>)>,
    /// The number of bytes of the first piece that were read.
    read_of_first: usize,
    /// The number of bytes that were sent and not read.
    unread_bytes: usize,
    last_arrival: Option<Instant>,
    /// When and how the direction ends for its reader.
    end: Option<(Instant, End)>,
    /// The transport is cut after this many more bytes.
    pub(crate) cut_after: Option<usize>,
    /// Everything sent is lost without an error.
    pub(crate) silent: bool,
    /// Nothing can be written before this instant.
    pub(crate) write_at: Instant,
    /// Nothing can be read before this instant.
    pub(crate) read_at: Instant,
}

impl Wire {
    pub(crate) fn new(pace: Pace, now: Instant) -> Self {
        Self {
            pace,
            in_flight: VecDeque::new(),
            read_of_first: 0,
            unread_bytes: 0,
            last_arrival: None,
            end: None,
            cut_after: None,
            silent: false,
            write_at: now,
            read_at: now,
        }
    }

    /// Returns `true` if nothing more can be written.
    pub(crate) fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    /// Returns how many bytes may be written now.
    pub(crate) fn capacity(&self, now: Instant, random: &mut Random) -> usize {
        if self.write_at > now || self.end.is_some() {
            return 0;
        }
        let capacity = self.pace.capacity.saturating_sub(self.unread_bytes);
        let capacity = capacity.min(self.cut_after.unwrap_or(usize::MAX));
        capacity.min(1 + random.below(self.pace.max_piece))
    }

    /// Sends bytes, at most as many as [`capacity`](Self::capacity) has returned. Returns `true` if
    /// the transport must be cut behind them.
    pub(crate) fn send(&mut self, now: Instant, bytes: Vec<u8>, random: &mut Random) -> bool {
        self.unread_bytes += bytes.len();
        if let Some(left) = &mut self.cut_after {
            *left = left.saturating_sub(bytes.len());
        }
        if !self.pace.max_pause.is_zero() && random.chance(self.pace.pause_percent) {
            self.write_at = now + random.micros(0..self.pace.max_pause.as_micros() as usize + 1);
        }
        if !self.silent {
            let latency = random.micros(0..self.pace.max_latency.as_micros() as usize + 1);
            let arrival = self
                .last_arrival
                .map_or(now, |last| last.max(now))
                .max(now + latency);
            self.last_arrival = Some(arrival);
            self.in_flight.push_back((arrival, bytes));
        }
        self.cut_after == Some(0)
    }

    /// Ends the direction behind the bytes in flight. A reset discards these.
    pub(crate) fn end(&mut self, now: Instant, end: End) {
        if self.end.is_some() {
            return;
        }
        if end == End::Reset {
            self.in_flight.clear();
            self.read_of_first = 0;
        }
        let at = if self.in_flight.is_empty() {
            now
        } else {
            self.last_arrival.map_or(now, |last| last.max(now))
        };
        self.end = Some((at, end));
    }

    /// Reads at most this many bytes.
    pub(crate) fn read(&mut self, now: Instant, max: usize, random: &mut Random) -> Read {
        if self.silent || self.read_at > now {
            return Read::Nothing;
        }
        let Some((arrival, front)) = self.in_flight.front() else {
            return match self.end {
                Some((at, end)) if at <= now => Read::Ended(end),
                _ => Read::Nothing,
            };
        };
        if *arrival > now {
            return Read::Nothing;
        }
        let unread = front.len() - self.read_of_first;
        let count = unread.min(max).min(1 + random.below(self.pace.max_piece));
        let bytes = front[self.read_of_first..self.read_of_first + count].to_vec();
        self.read_of_first += count;
        if count == unread {
            self.in_flight.pop_front();
            self.read_of_first = 0;
        }
        self.unread_bytes -= bytes.len();
        if !self.pace.max_pause.is_zero() && random.chance(self.pace.pause_percent) {
            self.read_at = now + random.micros(0..self.pace.max_pause.as_micros() as usize + 1);
        }
        Read::Bytes(bytes)
    }

    /// Returns when a read returns bytes or the end.
    pub(crate) fn readable_at(&self) -> Option<Instant> {
        if self.silent {
            return None;
        }
        let arrival = self.in_flight.front().map(|(arrival, _)| *arrival);
        arrival
            .or(self.end.map(|(at, _)| at))
            .map(|at| at.max(self.read_at))
    }

    /// Returns when bytes can be written. `None` until the reader has read, and after the end.
    pub(crate) fn writable_at(&self) -> Option<Instant> {
        (self.end.is_none() && self.unread_bytes < self.pace.capacity).then_some(self.write_at)
    }
}
