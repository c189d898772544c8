//! One connection of a client and its driver over a virtual network. The driver takes the steps of
//! the library's own pump in the same order, but without flushing, and it finds out that a
//! transport is empty by reading.

use crate::checker::{Checked, Settled, Violation, ensure};
use crate::left::Left;
use crate::observer::{Observed, Observer};
use crate::pending::{Begun, Consumer, Pending, Unsettled};
use crate::plan::{Feature, Plan, PlantedFault};
use crate::publishes::id_of_copy;
use crate::random::Random;
use crate::record::Record;
use crate::transport::Transport;
use crate::wire::{End, Read};
use puka::machine::{
    Connection, ConnectionState, ConsumerId, Dialling, Notice, Outgoing, PromiseId,
};
use puka::protocol::Decoder;
use puka::{Broken, Error};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) number: usize,
    pub(crate) machine: Connection,
    decoder: Decoder,
    out: Outgoing,
    pub(crate) planted_fault: PlantedFault,
    /// The current transport. `None` before the first dial and after a loss.
    pub(crate) transport: Option<Transport>,
    /// The number of transports so far.
    pub(crate) transports: usize,
    /// Abandoned transports whose end the broker may not have detected yet.
    pub(crate) old_transports: Vec<Transport>,
    /// The end of the current dial.
    pub(crate) dialling: Option<Instant>,
    /// It dials again after a loss.
    pub(crate) recovers: bool,
    /// The transport is closed on the client's side.
    pub(crate) finished: bool,
    write_error: bool,
    transmitted: usize,
    /// The driver's timer.
    armed: Option<Instant>,
    /// The client's machine is suspended until this instant.
    pub(crate) asleep_until: Instant,
    /// The longest suspension so far.
    pub(crate) slept: Duration,
    reading: bool,
    most_out: usize,
    /// The bound of partly received contents in bytes.
    most_partly_received: Option<usize>,
    pub(crate) hash: u64,
    /// Decodes everything that the client receives.
    incoming: Observer,
    /// The latest copy of each returned message.
    came_back: BTreeMap<u64, u64>,
    pub(crate) pending: BTreeMap<PromiseId, Pending>,
    pub(crate) abandoned: BTreeSet<PromiseId>,
    pub(crate) consumers: BTreeMap<ConsumerId, Consumer>,
    /// The tags of consumers that were reported as refused temporarily, or as ended.
    pub(crate) refused: BTreeSet<String>,
    /// The end of the last handshake.
    pub(crate) opened_at: Option<Instant>,
    /// Consumers whose channel was closed, so that the fate of their acks is unknown.
    pub(crate) broken_consumers: BTreeSet<ConsumerId>,
    pub(crate) unsettled: Vec<Unsettled>,
    pub(crate) settled: Vec<(Option<ConsumerId>, Settled)>,
    /// Pending publishes without a confirm.
    pub(crate) unconfirmed: Vec<u64>,
    pub(crate) transactions: Vec<Begun>,
    pub(crate) record: Record,
    /// Server-named queues, by their first names.
    pub(crate) unnamed: Vec<String>,
    /// The reason why the connection may break, or may have broken.
    pub(crate) break_reason: Option<&'static str>,
    pub(crate) closing: bool,
    /// The promises that have ended without the broker's answer since the close began.
    pub(crate) left: Left,
}

impl Session {
    pub(crate) fn new(number: usize, plan: &Plan, now: Instant) -> Self {
        let recovers = plan.has(Feature::Recover);
        let options = plan.options(number);
        let mut machine = if recovers {
            Connection::dialled(now, options)
        } else {
            Connection::new(now, options)
        };
        machine.listen();
        Self {
            number,
            machine,
            decoder: Decoder::new(),
            out: Outgoing::default(),
            planted_fault: plan.planted_fault,
            transport: None,
            transports: 0,
            old_transports: Vec::new(),
            dialling: None,
            recovers,
            finished: false,
            write_error: false,
            transmitted: 0,
            armed: None,
            asleep_until: now,
            slept: Duration::ZERO,
            reading: false,
            // The outgoing limit once in the queue and once taken by the transport. Each may be
            // exceeded by one message.
            most_out: 2 * (plan.outgoing_bytes() + plan.most_bytes_of_a_body()) + (64 << 10),
            most_partly_received: plan.most_partly_received(),
            hash: 0,
            incoming: Observer::default(),
            came_back: BTreeMap::new(),
            pending: BTreeMap::new(),
            abandoned: BTreeSet::new(),
            consumers: BTreeMap::new(),
            refused: BTreeSet::new(),
            opened_at: None,
            broken_consumers: BTreeSet::new(),
            unsettled: Vec::new(),
            settled: Vec::new(),
            unconfirmed: Vec::new(),
            transactions: Vec::new(),
            record: Record::default(),
            unnamed: Vec::new(),
            break_reason: None,
            closing: false,
            left: Left::default(),
        }
    }

    /// Returns the number of consumers of a queue that have started and have not ended.
    pub(crate) fn live_consumers(&self, queue: &str) -> usize {
        self.count_consumers(queue, false)
    }

    /// Returns the number of consumers of a queue that are refused temporarily.
    pub(crate) fn refused_consumers(&self, queue: &str) -> usize {
        self.count_consumers(queue, true)
    }

    fn count_consumers(&self, queue: &str, refused: bool) -> usize {
        let of_it = |consumer: &Consumer| {
            *self.machine.current_name(consumer.queue.as_bytes()) == *queue.as_bytes()
        };
        let is_refused = |id| {
            self.machine
                .consumer(id)
                .is_some_and(|consumer| self.refused.contains(consumer.tag()))
        };
        let all = self
            .consumers
            .iter()
            .filter(|(_, consumer)| of_it(consumer));
        all.filter(|(id, _)| {
            self.machine
                .consumer(**id)
                .and_then(|it| it.ended())
                .is_none()
                && is_refused(**id) == refused
        })
        .count()
    }

    /// Records which consumers have ended.
    pub(crate) fn watch_consumers(&mut self, now: Instant) {
        for (id, consumer) in &mut self.consumers {
            if consumer.ended_after.is_none()
                && self
                    .machine
                    .consumer(*id)
                    .and_then(|it| it.ended())
                    .is_some()
            {
                consumer.ended_after = self.opened_at.map(|opened| now - opened);
            }
        }
    }

    /// Processes notices about consumers.
    pub(crate) fn handle_notice(&mut self, notice: Notice) -> Checked {
        match notice {
            Notice::Recovered(report) => {
                let tag_of = |what: &str| {
                    Some(
                        what.strip_prefix("consumer \"")?
                            .strip_suffix('"')?
                            .to_owned(),
                    )
                };
                self.refused = report
                    .failed
                    .iter()
                    .filter_map(|(what, _)| tag_of(what))
                    .collect();
            }
            Notice::ConsumerRestored(tag) => {
                ensure(self.refused.remove(&*tag), || {
                    format!(
                        "the consumer {tag} was reported as restored, but not as refused before"
                    )
                })?;
            }
            Notice::Lost(count) => return Err(Violation(format!("{count} notices were lost"))),
            _ => {}
        }
        Ok(())
    }

    /// Returns `true` if nothing prevents requests from succeeding.
    pub(crate) fn is_sound(&self) -> bool {
        let is_open = !self.recovers || matches!(self.machine.state(), ConnectionState::Open);
        let is_whole = self
            .transport
            .as_ref()
            .is_some_and(|transport| !transport.may_break && !transport.broker_gone);
        !self.finished
            && !self.closing
            && is_open
            && is_whole
            && self.machine.why_closed().is_none()
    }

    /// Records the reason why the connection may break.
    pub(crate) fn expect_break(&mut self, why: &'static str) {
        self.break_reason = Some(why);
        if let Some(transport) = &mut self.transport {
            transport.may_break = true;
        }
    }

    /// Checks that a returned message is not published again.
    pub(crate) fn may_publish(&self, copy: u64) -> Checked {
        let id = id_of_copy(copy);
        let came_back = self.came_back.get(&id).is_some_and(|latest| copy > *latest);
        ensure(!came_back, || {
            format!("message {id} was returned and published again")
        })
    }

    /// Returns `true` if there is a reason why it gave up reconnecting.
    pub(crate) fn reason_to_give_up(&self) -> bool {
        match self.machine.why_closed() {
            // It does not reconnect after a close has begun.
            Some(_) if self.closing => true,
            Some(Error::ConnectionBroken(Broken::DriverDropped)) => self.break_reason.is_some(),
            Some(Error::AccessRefused(_) | Error::LoginRefused) => self.break_reason.is_some(),
            _ => false,
        }
    }

    /// Starts to use a transport.
    pub(crate) fn use_transport(&mut self, transport: Transport) {
        self.transports += 1;
        self.transport = Some(transport);
        self.decoder = Decoder::new();
        self.incoming = Observer::default();
        self.out = Outgoing::default();
        self.transmitted = 0;
        self.write_error = false;
    }

    /// Abandons its transport in order to dial again.
    fn abandon_transport(&mut self, now: Instant) {
        let Some(mut transport) = self.transport.take() else {
            return;
        };
        transport.up.end(now, End::Eof);
        self.old_transports.push(transport);
        // They may have arrived or not.
        self.settled.clear();
        self.unconfirmed.clear();
    }

    /// Returns all transports that the broker may still know: the abandoned ones, then the current
    /// one.
    pub(crate) fn transports(&self) -> impl Iterator<Item = &Transport> {
        self.old_transports.iter().chain(&self.transport)
    }

    /// Returns the transport at a position of [`transports`](Self::transports), and whether it is
    /// the current one.
    pub(crate) fn transport_at(&mut self, place: usize) -> Option<(&mut Transport, bool)> {
        let old_transports = self.old_transports.len();
        match self.old_transports.get_mut(place) {
            Some(old) => Some((old, false)),
            None if place == old_transports => {
                self.transport.as_mut().map(|transport| (transport, true))
            }
            None => None,
        }
    }

    pub(crate) fn hash(&mut self, bytes: &[u8]) {
        for byte in bytes {
            // The correlation id of a call has unpredictable hexadecimal digits, so all digits are
            // hashed as the same.
            let byte = if byte.is_ascii_hexdigit() {
                b'0'
            } else {
                *byte
            };
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        }
        self.hash = self.hash.rotate_left(17);
    }

    /// Returns when the driver must be polled, as far as it knows.
    pub(crate) fn due(&self, now: Instant) -> Option<Instant> {
        self.wakes(now).map(|due| due.max(self.asleep_until))
    }

    fn wakes(&self, now: Instant) -> Option<Instant> {
        if self.finished {
            return None;
        }
        if self.machine.wants_attention() {
            return Some(now);
        }
        let Some(transport) = &self.transport else {
            return [self.armed, self.dialling].into_iter().flatten().min();
        };
        let read = if self.reading {
            transport.down.readable_at()
        } else {
            None
        };
        let write = if self.out.is_empty() || self.write_error {
            None
        } else if transport.up.has_ended() {
            Some(now)
        } else {
            transport.up.writable_at()
        };
        [self.armed, read, write].into_iter().flatten().min()
    }

    /// Polls the driver. Returns the endpoints to dial if it needs a transport.
    pub(crate) fn drive(&mut self, now: Instant, random: &mut Random) -> Checked<Option<Dialling>> {
        // Consecutive rounds that had a deadline to handle. Some are legitimate: a pause of reading
        // that starts again is relieved at once.
        let mut late_rounds = 0_u32;
        for round in 0_u32.. {
            ensure(round < 200_000, || "the driver does not become idle".into())?;
            if self.finished {
                break;
            }
            if self.transport.is_none() {
                return self.run_without_transport(now);
            }
            match std::mem::take(&mut self.transmitted) {
                0 => {}
                bytes => self.machine.handle_transmitted(now, bytes),
            }
            self.machine.poll_transmit(now, &mut self.out);
            let timeout = self.machine.poll_timeout();
            let is_late = timeout.is_some_and(|timeout| timeout <= now);
            late_rounds = if is_late { late_rounds + 1 } else { 0 };
            ensure(late_rounds < 1000, || "a deadline stays in the past".into())?;
            if is_late && self.planted_fault == PlantedFault::HastyTimeout {
                self.machine.handle_timeout(now);
            }
            self.armed = timeout;
            self.reading = self.machine.wants_input();
            ensure(self.out.len() <= self.most_out, || {
                format!("I8: {} bytes are queued for writing", self.out.len())
            })?;
            if self.machine.is_over() {
                self.release_transport(now);
                continue;
            }
            let closed = self.machine.is_closed() || self.machine.is_down();
            let mut progress = self.write(now, random);
            let mut has_read = false;
            if closed && (self.out.is_empty() || self.write_error) {
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

    /// Handles a timeout that has passed, after what the client has written and read. If the
    /// machine wants input and nothing was read in this round, the next round reads first.
    fn expire(&mut self, now: Instant, has_read: bool) {
        match std::mem::take(&mut self.transmitted) {
            0 => {}
            bytes => self.machine.handle_transmitted(now, bytes),
        }
        if has_read || !self.machine.wants_input() {
            self.machine.handle_timeout(now);
        }
    }

    /// Suspends the process. A connection survives that while its broker waits, because the client
    /// writes and reads before it judges the broker's silence.
    pub(crate) fn sleep(&mut self, now: Instant, time: Duration, broker_waits: Duration) {
        let is_awake = self.asleep_until <= now;
        let is_open = matches!(self.machine.state(), ConnectionState::Open) && !self.closing;
        let is_delayed = self.transport.as_ref().is_none_or(|it| it.is_delayed(now));
        if !is_awake || !is_open || is_delayed || time > broker_waits {
            self.expect_break("slept");
        }
        self.asleep_until = self.asleep_until.max(now + time);
        self.slept += time;
    }

    /// Closes the transport, or abandons it before another dial.
    fn release_transport(&mut self, now: Instant) {
        if self.machine.is_down() {
            self.abandon_transport(now)
        } else {
            self.finish(now)
        }
    }

    /// Advances time without a transport, and dials.
    fn run_without_transport(&mut self, now: Instant) -> Checked<Option<Dialling>> {
        let mut timeout = self.machine.tend(now);
        for round in 0.. {
            if timeout.is_none_or(|timeout| timeout > now) || self.machine.is_closed() {
                break;
            }
            if self.dialling.is_none()
                && let Some(dialling) = self.machine.poll_dial(now)
            {
                self.armed = self.machine.tend(now);
                return Ok(Some(dialling));
            }
            ensure(round < 1000, || {
                "a deadline stays in the past without a transport".into()
            })?;
            self.machine.handle_timeout(now);
            timeout = self.machine.tend(now);
        }
        self.armed = timeout;
        if self.machine.is_closed() {
            self.finish(now);
        }
        Ok(None)
    }

    fn write(&mut self, now: Instant, random: &mut Random) -> bool {
        let mut progress = false;
        while !self.out.is_empty() && !self.write_error {
            let Some(transport) = &mut self.transport else {
                break;
            };
            if transport.up.has_ended() {
                self.write_error = true;
                return true;
            }
            let room = transport.up.room(now, random);
            if room == 0 {
                break;
            }
            let mut bytes = Vec::new();
            for piece in self.out.pieces() {
                let most = piece.len().min(room - bytes.len());
                bytes.extend_from_slice(&piece[..most]);
                if bytes.len() == room {
                    break;
                }
            }
            self.out.advance(bytes.len());
            self.transmitted += bytes.len();
            self.hash(&bytes);
            let Some(transport) = &mut self.transport else {
                break;
            };
            let bytes = transport.injector.client_sends(bytes);
            if !bytes.is_empty() && transport.up.send(now, bytes, random) {
                transport.cut(now);
            }
            progress = true;
        }
        progress
    }

    fn read(&mut self, now: Instant, random: &mut Random) -> bool {
        let Some(transport) = &mut self.transport else {
            return false;
        };
        let space = self.decoder.space();
        let broken = match transport.down.read(now, space.len(), random) {
            Read::Bytes(bytes) => {
                space[..bytes.len()].copy_from_slice(&bytes);
                self.decoder.filled(bytes.len());
                self.machine.handle_input(now, &mut self.decoder);
                for observed in self.incoming.broker_sent(&bytes) {
                    match observed {
                        Observed::Returned(copy) => {
                            let latest = self.came_back.entry(id_of_copy(copy)).or_default();
                            *latest = copy.max(*latest);
                        }
                        Observed::Opened => self.opened_at = Some(now),
                        _ => {}
                    }
                }
                return true;
            }
            Read::Ended(End::Eof) => Broken::Eof,
            Read::Ended(End::Reset) => reset(),
            Read::Nothing if self.write_error => reset(),
            Read::Nothing => return false,
        };
        self.machine.handle_loss(broken);
        true
    }

    /// Checks the bound of the contents that were partly received. A single one may be larger.
    fn check_partly_received(&self) -> Checked {
        /// The bytes of a content's exchange name and routing key, which are not dropped.
        const NAMES: usize = 2 * 255;
        let Some(most) = self.most_partly_received else {
            return Ok(());
        };
        let (mut contents, mut bytes) = (0, 0);
        for size in self.machine.partly_received() {
            contents += 1;
            bytes += size;
        }
        ensure(contents <= 1 || bytes <= most + contents * NAMES, || {
            format!(
                "I8: {bytes} bytes of {contents} contents are partly received, at a limit of {most}"
            )
        })
    }

    /// Closes the transport from the client's side.
    pub(crate) fn finish(&mut self, now: Instant) {
        self.finished = true;
        self.armed = None;
        self.dialling = None;
        if let Some(transport) = &mut self.transport {
            transport.up.end(now, End::Eof);
        }
    }

    /// Drops the driver.
    pub(crate) fn drop_driver(&mut self, now: Instant) {
        self.machine.handle_loss(Broken::DriverDropped);
        self.finish(now);
    }

    /// Records that no transport could be opened.
    pub(crate) fn dial_fails(&mut self, now: Instant, error: Error) {
        self.machine.handle_dial_failure(now, error);
    }

    /// Drops everything of the application, and checks that nothing is left.
    pub(crate) fn drop_everything(mut self) -> Checked {
        let number = self.number;
        ensure(self.machine.is_closed(), || {
            format!("session {number} is finished and not closed")
        })?;
        if let Some((_, pending)) = self.pending.first_key_value() {
            return Err(Violation(format!(
                "session {number} has ended and {:?} was never completed",
                pending.request
            )));
        }
        for unsettled in &self.unsettled {
            let settled = self.machine.settle(
                &unsettled.delivered,
                puka::machine::Settle::Ack { multiple: false },
            );
            ensure(settled.is_err(), || {
                format!(
                    "message {} was acknowledged after the end",
                    id_of_copy(unsettled.copy)
                )
            })?;
        }
        for begun in &self.transactions {
            self.machine.drop_transaction(begun.id);
        }
        for (id, consumer) in &self.consumers {
            ensure(consumer.awake, || {
                format!(
                    "the consumer {id:?} of {} was not woken by its end",
                    consumer.queue
                )
            })?;
            let ended = self
                .machine
                .consumer(*id)
                .and_then(|it| it.ended())
                .is_some();
            ensure(ended, || {
                format!("the consumer {id:?} of {} has not ended", consumer.queue)
            })?;
            self.machine.drop_consumer(*id);
        }
        ensure(self.machine.poll_event().is_none(), || {
            "an event after the end".into()
        })?;
        ensure(self.machine.is_idle(), || {
            format!("I11: session {number} is not empty: {:?}", self.machine)
        })
    }
}

pub(crate) fn reset() -> Broken {
    Broken::Io(Arc::new(io::ErrorKind::ConnectionReset.into()))
}
