//! One connection of a client, with what drives it: the same steps as the library's own driver,
//! over a virtual wire.

use crate::heard::id_of_copy;
use crate::ledger::{Checked, Settled, Violation, ensure};
use crate::left::Left;
use crate::line::Line;
use crate::observer::{Observer, Said};
use crate::plan::{Feature, Mischief, Plan};
use crate::random::Random;
use crate::record::Record;
use crate::wire::{End, Read};
use puka::machine::{
    Connection, ConnectionState, ConsumerId, Delivered, Dialling, Notice, Outgoing, PromiseId,
    TransactionId,
};
use puka::protocol::{Decoder, MethodId};
use puka::{Broken, Error};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Connect,
    Close,
    Queue(String),
    Count(String),
    Done(String),
    Get {
        queue: String,
        no_ack: bool,
    },
    Consume {
        queue: String,
        no_ack: bool,
        prefetch: u16,
        exclusive: bool,
    },
    Cancel(ConsumerId),
    Qos(ConsumerId),
    Publish(u64),
    /// A message of which nobody is told what becomes.
    Unconfirmed(u64),
    /// A message, and the reply to it.
    Call(u64),
    Begin,
    /// What was published with it, and whether it is to take effect.
    Finish {
        ids: Vec<u64>,
        commits: bool,
    },
}

impl Asked {
    /// The entity that it is about: a name, or `queue|exchange`.
    pub(crate) fn name(&self) -> Option<&str> {
        match self {
            Self::Queue(name) | Self::Count(name) | Self::Done(name) => Some(name),
            Self::Get { queue, .. } | Self::Consume { queue, .. } => Some(queue),
            _ => None,
        }
    }
}

/// A promise that is waited for.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    pub(crate) asked: Asked,
    pub(crate) method: MethodId,
    pub(crate) since: Instant,
    /// Must succeed, because nothing stands in its way.
    pub(crate) surely: bool,
}

/// A consumer, as the application has it.
#[derive(Debug)]
pub(crate) struct Consumer {
    pub(crate) queue: String,
    pub(crate) no_ack: bool,
    pub(crate) prefetch: u16,
    pub(crate) exclusive: bool,
    /// How long the handshake was over when it ended.
    pub(crate) ended_after: Option<Duration>,
    /// The application was told to look, or has not looked yet.
    pub(crate) awake: bool,
    /// The place of the last message that was not redelivered.
    pub(crate) last_place: Option<usize>,
}

/// A delivery in the application's hands.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) delivered: Delivered,
    pub(crate) queue: String,
    pub(crate) copy: u64,
    pub(crate) consumer: Option<ConsumerId>,
    /// It was settled along with a later one.
    pub(crate) stale: bool,
    /// How many lines there were when it came; none when that one was lost by then.
    pub(crate) line: Option<usize>,
}

/// A transaction that goes on, and what was published in it.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) id: TransactionId,
    pub(crate) ids: Vec<u64>,
}

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) number: usize,
    pub(crate) machine: Connection,
    decoder: Decoder,
    out: Outgoing,
    pub(crate) mischief: Mischief,
    /// The transport that it has; none before it has dialled, and after it has lost one.
    pub(crate) line: Option<Line>,
    /// How many it had.
    pub(crate) lines: usize,
    /// Lines that it has let go, and of whose end the broker may not know yet.
    pub(crate) ghosts: Vec<Line>,
    /// Another is dialled, and when that comes to its end.
    pub(crate) dialling: Option<Instant>,
    /// It is dialled again when it is lost.
    pub(crate) recovers: bool,
    /// The transport is closed on this side.
    pub(crate) finished: bool,
    write_error: bool,
    transmitted: usize,
    /// What the driver sleeps for.
    armed: Option<Instant>,
    /// The machine that it runs on does nothing until then.
    pub(crate) asleep_until: Instant,
    /// For how long it has slept at most.
    pub(crate) slept: Duration,
    reading: bool,
    most_out: usize,
    /// How many bytes partly received contents may take together.
    most_partly_received: Option<usize>,
    pub(crate) hash: u64,
    /// Hears what the machine hears.
    ears: Observer,
    /// The latest copy of each message that came back.
    came_back: BTreeMap<u64, u64>,
    pub(crate) waiting: BTreeMap<PromiseId, Waiting>,
    pub(crate) abandoned: BTreeSet<PromiseId>,
    pub(crate) consumers: BTreeMap<ConsumerId, Consumer>,
    /// The tags of consumers that are said to be refused for now, or to have ended.
    pub(crate) refused: BTreeSet<String>,
    /// When the last handshake ended.
    pub(crate) opened_at: Option<Instant>,
    /// Consumers whose channel was closed: who knows what became of their acks.
    pub(crate) broken_consumers: BTreeSet<ConsumerId>,
    pub(crate) held: Vec<Held>,
    pub(crate) settled: Vec<(Option<ConsumerId>, Settled)>,
    /// What was published without a confirm and is on its way.
    pub(crate) unconfirmed: Vec<u64>,
    pub(crate) transactions: Vec<Begun>,
    pub(crate) record: Record,
    /// Queues that the broker has named, by their first names.
    pub(crate) unnamed: Vec<String>,
    /// Why it may break, or may have broken.
    pub(crate) excuse: Option<&'static str>,
    pub(crate) closing: bool,
    /// The promises that ended without the broker's answer since it closes.
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
            mischief: plan.mischief,
            line: None,
            lines: 0,
            ghosts: Vec::new(),
            dialling: None,
            recovers,
            finished: false,
            write_error: false,
            transmitted: 0,
            armed: None,
            asleep_until: now,
            slept: Duration::ZERO,
            reading: false,
            // As much as may wait and again as much in the transport's hands, beyond which goes one
            // message each.
            most_out: 2 * (plan.outgoing_octets() + plan.most_octets_of_a_body()) + (64 << 10),
            most_partly_received: plan.most_partly_received(),
            hash: 0,
            ears: Observer::default(),
            came_back: BTreeMap::new(),
            waiting: BTreeMap::new(),
            abandoned: BTreeSet::new(),
            consumers: BTreeMap::new(),
            refused: BTreeSet::new(),
            opened_at: None,
            broken_consumers: BTreeSet::new(),
            held: Vec::new(),
            settled: Vec::new(),
            unconfirmed: Vec::new(),
            transactions: Vec::new(),
            record: Record::default(),
            unnamed: Vec::new(),
            excuse: None,
            closing: false,
            left: Left::default(),
        }
    }

    /// How many consumers of a queue have started and have not ended.
    pub(crate) fn live_consumers(&self, queue: &str) -> usize {
        self.count_consumers(queue, false)
    }

    /// How many consumers of a queue are refused for now.
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

    /// Notes which consumers have ended.
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

    /// Hears what is said of consumers.
    pub(crate) fn hear(&mut self, notice: Notice) -> Checked {
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
                    format!("the consumer {tag} is said to be back, and was not said to be refused")
                })?;
            }
            Notice::Lost(count) => return Err(Violation(format!("{count} notices were lost"))),
            _ => {}
        }
        Ok(())
    }

    /// Whether nothing stands in the way of what is asked.
    pub(crate) fn is_sound(&self) -> bool {
        let is_open = !self.recovers || matches!(self.machine.state(), ConnectionState::Open);
        let is_whole = self
            .line
            .as_ref()
            .is_some_and(|line| !line.doubtful && !line.broker_gone);
        !self.finished
            && !self.closing
            && is_open
            && is_whole
            && self.machine.why_closed().is_none()
    }

    /// It may break, and for what reason.
    pub(crate) fn doubt(&mut self, why: &'static str) {
        self.excuse = Some(why);
        if let Some(line) = &mut self.line {
            line.doubtful = true;
        }
    }

    /// A message that has come back is not published again.
    pub(crate) fn may_publish(&self, copy: u64) -> Checked {
        let id = id_of_copy(copy);
        let came_back = self.came_back.get(&id).is_some_and(|latest| copy > *latest);
        ensure(!came_back, || {
            format!("message {id} came back and was published again")
        })
    }

    /// Whether it had to give up to be dialled again.
    pub(crate) fn reason_to_give_up(&self) -> bool {
        match self.machine.why_closed() {
            // It does not come back when it was on its way to its end.
            Some(_) if self.closing => true,
            Some(Error::ConnectionBroken(Broken::DriverDropped)) => self.excuse.is_some(),
            Some(Error::AccessRefused(_) | Error::LoginRefused) => self.excuse.is_some(),
            _ => false,
        }
    }

    /// It has a transport.
    pub(crate) fn link(&mut self, line: Line) {
        self.lines += 1;
        self.line = Some(line);
        self.decoder = Decoder::new();
        self.ears = Observer::default();
        self.out = Outgoing::default();
        self.transmitted = 0;
        self.write_error = false;
    }

    /// It lets go of its transport, to have another.
    fn unlink(&mut self, now: Instant) {
        let Some(mut line) = self.line.take() else {
            return;
        };
        line.up.end(now, End::Eof);
        self.ghosts.push(line);
        // Who knows whether they have arrived.
        self.settled.clear();
        self.unconfirmed.clear();
    }

    /// All lines of which the broker may still know: those it has let go, then the one that it has.
    pub(crate) fn lines(&self) -> impl Iterator<Item = &Line> {
        self.ghosts.iter().chain(&self.line)
    }

    /// The line of that place in [`lines`](Self::lines), and whether it is the one that it has.
    pub(crate) fn line_at(&mut self, place: usize) -> Option<(&mut Line, bool)> {
        let ghosts = self.ghosts.len();
        match self.ghosts.get_mut(place) {
            Some(ghost) => Some((ghost, false)),
            None if place == ghosts => self.line.as_mut().map(|line| (line, true)),
            None => None,
        }
    }

    pub(crate) fn hash(&mut self, octets: &[u8]) {
        for octet in octets {
            // The correlation id of a call has unpredictable hexadecimal digits, so each digit
            // counts as the same.
            let octet = if octet.is_ascii_hexdigit() {
                b'0'
            } else {
                *octet
            };
            self.hash = (self.hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01B3);
        }
        self.hash = self.hash.rotate_left(17);
    }

    /// When the driver has to be polled, as far as it knows.
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
        let Some(line) = &self.line else {
            return [self.armed, self.dialling].into_iter().flatten().min();
        };
        let read = if self.reading {
            line.down.readable_at()
        } else {
            None
        };
        let write = if self.out.is_empty() || self.write_error {
            None
        } else if line.up.has_ended() {
            Some(now)
        } else {
            line.up.writable_at()
        };
        [self.armed, read, write].into_iter().flatten().min()
    }

    /// Polls the driver. Gives what is to be dialled, when it wants a transport.
    pub(crate) fn drive(&mut self, now: Instant, random: &mut Random) -> Checked<Option<Dialling>> {
        // Rounds in a row that had a deadline to handle. Some have reason to: a pause of reading
        // that comes back is relieved at once.
        let mut late_rounds = 0_u32;
        for round in 0_u32.. {
            ensure(round < 200_000, || "the driver finds no rest".into())?;
            if self.finished {
                break;
            }
            if self.line.is_none() {
                return self.tend(now);
            }
            match std::mem::take(&mut self.transmitted) {
                0 => {}
                octets => self.machine.handle_transmitted(now, octets),
            }
            self.machine.poll_transmit(now, &mut self.out);
            let mut timeout = self.machine.poll_timeout();
            let is_late = timeout.is_some_and(|timeout| timeout <= now);
            late_rounds = if is_late { late_rounds + 1 } else { 0 };
            if is_late {
                ensure(late_rounds < 1000, || "a deadline stays in the past".into())?;
                self.machine.handle_timeout(now);
                self.machine.poll_transmit(now, &mut self.out);
                timeout = self.machine.poll_timeout();
            }
            self.armed = timeout;
            self.reading = self.machine.wants_input();
            ensure(self.out.len() <= self.most_out, || {
                format!("I8: {} octets wait to be written", self.out.len())
            })?;
            if self.machine.is_over() {
                self.let_go(now);
                continue;
            }
            let closed = self.machine.is_closed() || self.machine.is_down();
            let mut progress = self.write(now, random);
            if closed && (self.out.is_empty() || self.write_error) {
                self.let_go(now);
                continue;
            } else if self.reading || self.write_error && !closed {
                progress |= self.read(now, random);
                self.check_partly_received()?;
            }
            if !progress && !is_late && !self.machine.wants_attention() {
                break;
            }
        }
        Ok(None)
    }

    /// The transport is not needed any more.
    fn let_go(&mut self, now: Instant) {
        if self.machine.is_down() {
            self.unlink(now)
        } else {
            self.finish(now)
        }
    }

    /// Lets time pass without a transport, and dials.
    fn tend(&mut self, now: Instant) -> Checked<Option<Dialling>> {
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
                "a deadline stays in the past, and there is no transport".into()
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
            let Some(line) = &mut self.line else { break };
            if line.up.has_ended() {
                self.write_error = true;
                return true;
            }
            let room = line.up.room(now, random);
            if room == 0 {
                break;
            }
            let mut octets = Vec::new();
            for piece in self.out.pieces() {
                let most = piece.len().min(room - octets.len());
                octets.extend_from_slice(&piece[..most]);
                if octets.len() == room {
                    break;
                }
            }
            self.out.advance(octets.len());
            self.transmitted += octets.len();
            self.hash(&octets);
            let Some(line) = &mut self.line else { break };
            let octets = line.meddler.client_sends(octets);
            if !octets.is_empty() && line.up.send(now, octets, random) {
                line.cut(now);
            }
            progress = true;
        }
        progress
    }

    fn read(&mut self, now: Instant, random: &mut Random) -> bool {
        let Some(line) = &mut self.line else {
            return false;
        };
        let space = self.decoder.space();
        let broken = match line.down.read(now, space.len(), random) {
            Read::Octets(octets) => {
                space[..octets.len()].copy_from_slice(&octets);
                self.decoder.filled(octets.len());
                self.machine.handle_input(now, &mut self.decoder);
                for said in self.ears.broker_says(&octets) {
                    match said {
                        Said::Returned(copy) => {
                            let latest = self.came_back.entry(id_of_copy(copy)).or_default();
                            *latest = copy.max(*latest);
                        }
                        Said::Opened => self.opened_at = Some(now),
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

    /// Checks the bound of the contents that were received in part. A single one may be larger.
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
                "I8: {bytes} bytes of {contents} contents are received in part, where {most} may be"
            )
        })
    }

    /// The transport is closed from this side.
    pub(crate) fn finish(&mut self, now: Instant) {
        self.finished = true;
        self.armed = None;
        self.dialling = None;
        if let Some(line) = &mut self.line {
            line.up.end(now, End::Eof);
        }
    }

    /// The driver is dropped.
    pub(crate) fn drop_driver(&mut self, now: Instant) {
        self.machine.handle_loss(Broken::DriverDropped);
        self.finish(now);
    }

    /// No transport could be had.
    pub(crate) fn dial_fails(&mut self, now: Instant, error: Error) {
        self.machine.handle_dial_failure(now, error);
    }

    /// Drops everything that the application has. Nothing may be left then.
    pub(crate) fn bury(mut self) -> Checked {
        let number = self.number;
        ensure(self.machine.is_closed(), || {
            format!("session {number} is finished and not closed")
        })?;
        if let Some((_, waiting)) = self.waiting.first_key_value() {
            return Err(Violation(format!(
                "session {number} is over and {:?} was never answered",
                waiting.asked
            )));
        }
        for held in &self.held {
            let settled = self.machine.settle(
                &held.delivered,
                puka::machine::Settle::Ack { multiple: false },
            );
            ensure(settled.is_err(), || {
                format!(
                    "message {} was acknowledged after the end",
                    id_of_copy(held.copy)
                )
            })?;
        }
        for begun in &self.transactions {
            self.machine.drop_transaction(begun.id);
        }
        for (id, consumer) in &self.consumers {
            ensure(consumer.awake, || {
                format!(
                    "nobody told the consumer {id:?} of {} of its end",
                    consumer.queue
                )
            })?;
            let ended = self
                .machine
                .consumer(*id)
                .and_then(|it| it.ended())
                .is_some();
            ensure(ended, || {
                format!("the consumer {id:?} of {} lives on", consumer.queue)
            })?;
            self.machine.drop_consumer(*id);
        }
        ensure(self.machine.poll_event().is_none(), || {
            "an event when all is over".into()
        })?;
        ensure(self.machine.is_idle(), || {
            format!("I11: session {number} keeps something: {:?}", self.machine)
        })
    }
}

pub(crate) fn reset() -> Broken {
    Broken::Io(Arc::new(io::ErrorKind::ConnectionReset.into()))
}
