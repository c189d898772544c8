//! The driver of a session. It writes, reads and handles timeouts in the order of the library's own
//! pump. It is simpler: it does not flush or yield, waits for no close of the stream, and finds out
//! that a transport has no input by reading.

use super::{Session, connection_reset};
use crate::observer::Observed;
use crate::plan::PlantedFault;
use crate::publish_observer::id_of_copy;
use crate::random::Random;
use crate::violation::{Checked, ensure};
use crate::wire::{End, Read};
use puka::Broken;
use puka::machine::Dialling;
use std::time::{Duration, Instant};

/// The maximum number of rounds of one poll, ten times that of the longest poll of 20 000 seeds
/// (17 284). A round reads one piece, which may be a single byte.
const MAX_ROUNDS: u32 = 200_000;

/// The maximum number of consecutive rounds whose deadline has passed. A longer sequence means that
/// the machine does not move the deadline. 20 000 seeds have at most two.
const MAX_LATE_ROUNDS: u32 = 1000;

impl Session {
    /// Returns when the driver must be polled. Input that arrives later may require an earlier
    /// poll.
    pub(crate) fn next_poll(&self, now: Instant) -> Option<Instant> {
        self.next_step(now).map(|at| at.max(self.asleep_until))
    }

    /// Returns when the driver can take a step, unless the process is suspended.
    fn next_step(&self, now: Instant) -> Option<Instant> {
        if self.finished {
            return None;
        }
        if self.machine.wants_attention() {
            return Some(now);
        }
        let Some(transport) = &self.transport else {
            return [self.timer, self.dial_ends_at].into_iter().flatten().min();
        };
        let read = if self.reading {
            transport.down.readable_at()
        } else {
            None
        };
        let write = if self.output.is_empty() || self.write_error {
            None
        } else if transport.up.has_ended() {
            Some(now)
        } else {
            transport.up.writable_at()
        };
        [self.timer, read, write].into_iter().flatten().min()
    }

    /// Polls the driver. Returns the endpoints to dial if it needs a transport.
    pub(crate) fn drive(&mut self, now: Instant, random: &mut Random) -> Checked<Option<Dialling>> {
        // Two in sequence are valid: when reading pauses again soon after a pause has timed out,
        // the new pause has its deadline at once.
        let mut late_rounds = 0_u32;
        for round in 0_u32.. {
            ensure(round < MAX_ROUNDS, || {
                "the driver does not become idle".into()
            })?;
            if self.finished {
                break;
            }
            if self.transport.is_none() {
                return self.run_without_transport(now);
            }
            self.report_transmitted(now);
            self.machine.poll_transmit(now, &mut self.output);
            let timeout = self.machine.poll_timeout();
            let is_late = timeout.is_some_and(|timeout| timeout <= now);
            late_rounds = if is_late { late_rounds + 1 } else { 0 };
            ensure(late_rounds < MAX_LATE_ROUNDS, || {
                "a deadline stays in the past".into()
            })?;
            if is_late && self.planted_fault == PlantedFault::HastyTimeout {
                self.machine.handle_timeout(now);
            }
            // The timers of restarts are early, and so are all others.
            if self.planted_fault == PlantedFault::HastyRestart && self.restarts.has_missing() {
                self.machine.handle_timeout(now + Duration::from_secs(5));
            }
            self.timer = timeout;
            self.reading = self.machine.wants_input();
            ensure(self.output.len() <= self.max_queued_bytes, || {
                format!("I8: {} bytes are queued for writing", self.output.len())
            })?;
            if self.machine.is_over() {
                self.release_transport(now);
                continue;
            }
            let closed = self.machine.is_closed() || self.machine.is_down();
            let mut progress = self.write(now, random);
            let mut has_read = false;
            if closed && (self.output.is_empty() || self.write_error) {
                self.release_transport(now);
                continue;
            } else if self.reading || self.write_error && !closed {
                progress |= self.read(now, random);
                has_read = true;
                self.check_partly_received()?;
            }
            if is_late {
                self.expire(now, has_read);
            } else if !progress && !self.machine.wants_attention() {
                break;
            }
        }
        Ok(None)
    }

    /// Reports the bytes that were written since the last report.
    fn report_transmitted(&mut self, now: Instant) {
        match std::mem::take(&mut self.transmitted) {
            0 => {}
            bytes => self.machine.handle_transmitted(now, bytes),
        }
    }

    /// Handles a deadline that has passed, after this round has written and read. If the machine
    /// wants input and this round has not read, the next round reads first.
    fn expire(&mut self, now: Instant, has_read: bool) {
        self.report_transmitted(now);
        if has_read || !self.machine.wants_input() {
            self.machine.handle_timeout(now);
        }
    }

    /// Closes the transport, or abandons it before another dial.
    fn release_transport(&mut self, now: Instant) {
        if self.machine.is_down() {
            self.abandon_transport(now)
        } else {
            self.finish(now)
        }
    }

    /// Handles deadlines without a transport. Returns the endpoints to dial when a dial is due.
    fn run_without_transport(&mut self, now: Instant) -> Checked<Option<Dialling>> {
        let mut timeout = self.machine.tend(now);
        for round in 0.. {
            if timeout.is_none_or(|timeout| timeout > now) || self.machine.is_closed() {
                break;
            }
            if self.dial_ends_at.is_none()
                && let Some(dialling) = self.machine.poll_dial(now)
            {
                self.timer = self.machine.tend(now);
                return Ok(Some(dialling));
            }
            ensure(round < MAX_LATE_ROUNDS, || {
                "a deadline stays in the past without a transport".into()
            })?;
            self.machine.handle_timeout(now);
            timeout = self.machine.tend(now);
        }
        self.timer = timeout;
        if self.machine.is_closed() {
            self.finish(now);
        }
        Ok(None)
    }

    /// Writes as much output as the network accepts. Returns `true` if there was any progress:
    /// bytes were written, or an error was found.
    fn write(&mut self, now: Instant, random: &mut Random) -> bool {
        let mut progress = false;
        while !self.output.is_empty() && !self.write_error {
            let Some(transport) = &mut self.transport else {
                // Unreachable: `drive` writes only with a transport.
                break;
            };
            if transport.up.has_ended() {
                self.write_error = true;
                return true;
            }
            let capacity = transport.up.capacity(now, random);
            if capacity == 0 {
                break;
            }
            let mut bytes = Vec::new();
            for piece in self.output.pieces() {
                let count = piece.len().min(capacity - bytes.len());
                bytes.extend_from_slice(&piece[..count]);
                if bytes.len() == capacity {
                    break;
                }
            }
            self.output.advance(bytes.len());
            self.transmitted += bytes.len();
            self.bytes_hash.add(&bytes);
            let bytes = transport.injector.rewrite_client_bytes(bytes);
            if !bytes.is_empty() && transport.up.send(now, bytes, random) {
                transport.cut(now);
            }
            progress = true;
        }
        progress
    }

    /// Reads once. Returns `true` if there was any progress: bytes arrived, or the transport is
    /// lost.
    fn read(&mut self, now: Instant, random: &mut Random) -> bool {
        let Some(transport) = &mut self.transport else {
            // Unreachable: `drive` reads only with a transport.
            return false;
        };
        let space = self.decoder.space();
        let broken = match transport.down.read(now, space.len(), random) {
            Read::Bytes(bytes) => {
                space[..bytes.len()].copy_from_slice(&bytes);
                self.decoder.filled(bytes.len());
                self.machine.handle_input(now, &mut self.decoder);
                self.observe_input(now, &bytes);
                return true;
            }
            Read::Ended(End::Eof) => Broken::Eof,
            Read::Ended(End::Reset) => connection_reset(),
            Read::Nothing if self.write_error => connection_reset(),
            Read::Nothing => return false,
        };
        self.machine.handle_loss(broken);
        true
    }

    /// Records returned messages and the end of a handshake.
    fn observe_input(&mut self, now: Instant, bytes: &[u8]) {
        for observed in self.input_observer.observe_broker_bytes(bytes) {
            match observed {
                Observed::Returned(copy) => {
                    let latest = self.returned.entry(id_of_copy(copy)).or_default();
                    *latest = copy.max(*latest);
                }
                Observed::Opened => self.opened_at = Some(now),
                _ => {}
            }
        }
    }

    /// Checks the bound of the contents that were partly received. One content alone may be larger.
    fn check_partly_received(&self) -> Checked {
        /// The maximum size of a content's exchange name and routing key. The machine stores them
        /// even if it drops the body.
        const NAMES: usize = 2 * 255;
        let Some(max_bytes) = self.max_partial_bytes else {
            return Ok(());
        };
        let (mut contents, mut bytes) = (0, 0);
        for size in self.machine.partly_received() {
            contents += 1;
            bytes += size;
        }
        let is_bounded = contents <= 1 || bytes <= max_bytes + contents * NAMES;
        ensure(is_bounded, || {
            format!(
                "I8: {bytes} bytes of {contents} contents are partly received, at a limit of \
                 {max_bytes}"
            )
        })
    }
}
