//! One connection of a client, with what drives it: the same steps as the library's own driver, over a virtual wire.

use crate::ledger::{Checked, Settled, Violation, ensure};
use crate::meddler::Meddler;
use crate::observer::Observer;
use crate::plan::Plan;
use crate::random::Random;
use crate::wire::{End, Read, Wire};
use puka::Broken;
use puka::machine::{Connection, ConsumerId, Delivered, Outgoing, PromiseId};
use puka::protocol::{Decoder, MethodId};
use puka_test_broker::ConnectionId;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Instant;

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Connect,
    Close,
    Queue(String),
    Count(String),
    Done(String),
    Get { queue: String, no_ack: bool },
    Consume { queue: String, no_ack: bool, prefetch: u16 },
    Cancel(ConsumerId),
    Qos(ConsumerId),
    Publish(u64),
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
    pub(crate) id: u64,
    pub(crate) consumer: Option<ConsumerId>,
    /// It was settled along with a later one.
    pub(crate) stale: bool,
}

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) number: usize,
    pub(crate) machine: Connection,
    decoder: Decoder,
    out: Outgoing,
    pub(crate) broker: ConnectionId,
    /// The broker has forgotten the connection.
    pub(crate) broker_gone: bool,
    pub(crate) up: Wire,
    pub(crate) down: Wire,
    pub(crate) cut_end: End,
    pub(crate) observer: Observer,
    pub(crate) meddler: Meddler,
    /// The transport is closed on this side.
    pub(crate) finished: bool,
    write_error: bool,
    transmitted: usize,
    /// What the driver sleeps for.
    armed: Option<Instant>,
    reading: bool,
    most_out: usize,
    pub(crate) hash: u64,
    pub(crate) waiting: BTreeMap<PromiseId, Waiting>,
    pub(crate) abandoned: BTreeSet<PromiseId>,
    pub(crate) consumers: BTreeMap<ConsumerId, Consumer>,
    /// Consumers whose channel was closed: who knows what became of their acks.
    pub(crate) broken_consumers: BTreeSet<ConsumerId>,
    pub(crate) held: Vec<Held>,
    pub(crate) settled: Vec<(Option<ConsumerId>, Settled)>,
    /// Why it may break.
    pub(crate) excuse: Option<&'static str>,
    pub(crate) closing: bool,
    /// The broker has answered its closing.
    pub(crate) clean: bool,
}

impl Session {
    pub(crate) fn new(number: usize, plan: &Plan, broker: ConnectionId, now: Instant) -> Self {
        Self {
            number,
            machine: Connection::new(now, plan.options()),
            decoder: Decoder::new(),
            out: Outgoing::default(),
            broker,
            broker_gone: false,
            up: Wire::new(plan.pace(), now),
            down: Wire::new(plan.pace(), now),
            cut_end: End::Eof,
            observer: Observer::default(),
            meddler: Meddler::new(plan.mischief, plan.random(1000 + number as u64)),
            finished: false,
            write_error: false,
            transmitted: 0,
            armed: None,
            reading: false,
            // As much as may wait and again as much in the transport's hands, beyond which goes one message each.
            most_out: 2 * (plan.outgoing_octets() + plan.most_octets_of_a_body()) + (64 << 10),
            hash: 0,
            waiting: BTreeMap::new(),
            abandoned: BTreeSet::new(),
            consumers: BTreeMap::new(),
            broken_consumers: BTreeSet::new(),
            held: Vec::new(),
            settled: Vec::new(),
            excuse: None,
            closing: false,
            clean: false,
        }
    }

    /// Whether nothing stands in the way of what is asked.
    pub(crate) fn is_sound(&self) -> bool {
        !self.finished && !self.closing && self.excuse.is_none() && self.machine.why_closed().is_none()
    }

    pub(crate) fn hash(&mut self, octets: &[u8]) {
        for octet in octets {
            self.hash = (self.hash ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01B3);
        }
        self.hash = self.hash.rotate_left(17);
    }

    /// When the driver has to be polled, as far as it knows.
    pub(crate) fn due(&self, now: Instant) -> Option<Instant> {
        if self.finished {
            return None;
        }
        if self.machine.wants_attention() {
            return Some(now);
        }
        let read = if self.reading { self.down.readable_at() } else { None };
        let write = if self.out.is_empty() || self.write_error {
            None
        } else if self.up.has_ended() {
            Some(now)
        } else {
            self.up.writable_at()
        };
        [self.armed, read, write].into_iter().flatten().min()
    }

    /// Polls the driver.
    pub(crate) fn drive(&mut self, now: Instant, random: &mut Random) -> Checked {
        for round in 0_u32.. {
            ensure(round < 200_000, || "the driver finds no rest".into())?;
            if self.finished {
                break;
            }
            match std::mem::take(&mut self.transmitted) {
                0 => {}
                octets => self.machine.handle_transmitted(now, octets),
            }
            self.machine.poll_transmit(now, &mut self.out);
            let mut timeout = self.machine.poll_timeout();
            let is_late = timeout.is_some_and(|timeout| timeout <= now);
            if is_late {
                ensure(round < 1000, || "a deadline stays in the past".into())?;
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
                self.finish(now);
                break;
            }
            let closed = self.machine.is_closed();
            let mut progress = self.write(now, random);
            if closed && (self.out.is_empty() || self.write_error) {
                self.finish(now);
                break;
            } else if self.reading || self.write_error && !closed {
                progress |= self.read(now, random);
            }
            if !progress && !is_late && !self.machine.wants_attention() {
                break;
            }
        }
        Ok(())
    }

    fn write(&mut self, now: Instant, random: &mut Random) -> bool {
        let mut progress = false;
        while !self.out.is_empty() && !self.write_error {
            if self.up.has_ended() {
                self.write_error = true;
                return true;
            }
            let room = self.up.room(now, random);
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
            let octets = self.meddler.client_sends(octets);
            if !octets.is_empty() && self.up.send(now, octets, random) {
                self.cut(now);
            }
            progress = true;
        }
        progress
    }

    fn read(&mut self, now: Instant, random: &mut Random) -> bool {
        let space = self.decoder.space();
        let broken = match self.down.read(now, space.len(), random) {
            Read::Octets(octets) => {
                space[..octets.len()].copy_from_slice(&octets);
                self.decoder.filled(octets.len());
                self.machine.handle_input(now, &mut self.decoder);
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

    /// The transport is cut.
    pub(crate) fn cut(&mut self, now: Instant) {
        self.up.end(now, self.cut_end);
        self.down.end(now, self.cut_end);
    }

    /// The transport is closed from this side.
    pub(crate) fn finish(&mut self, now: Instant) {
        self.finished = true;
        self.armed = None;
        self.up.end(now, End::Eof);
    }

    /// The driver is dropped.
    pub(crate) fn drop_driver(&mut self, now: Instant) {
        self.machine.handle_loss(Broken::DriverDropped);
        self.finish(now);
    }

    /// Drops everything that the application has. Nothing may be left then.
    pub(crate) fn bury(mut self) -> Checked {
        let number = self.number;
        ensure(self.machine.is_closed(), || format!("session {number} is finished and not closed"))?;
        if let Some((_, waiting)) = self.waiting.first_key_value() {
            return Err(Violation(format!(
                "session {number} is over and {:?} was never answered",
                waiting.asked
            )));
        }
        for held in &self.held {
            let settled =
                self.machine.settle(&held.delivered, puka::machine::Settle::Ack { multiple: false });
            ensure(settled.is_err(), || format!("message {} was acknowledged after the end", held.id))?;
        }
        for (id, consumer) in &self.consumers {
            ensure(consumer.awake, || {
                format!("nobody told the consumer {id:?} of {} of its end", consumer.queue)
            })?;
            let ended = self.machine.ended(*id).is_some();
            ensure(ended, || format!("the consumer {id:?} of {} lives on", consumer.queue))?;
            self.machine.drop_consumer(*id);
        }
        ensure(self.machine.poll_event().is_none(), || "an event when all is over".into())?;
        ensure(self.machine.is_idle(), || {
            format!("I11: session {number} keeps something: {:?}", self.machine)
        })
    }
}

fn reset() -> Broken {
    Broken::Io(Arc::new(io::ErrorKind::ConnectionReset.into()))
}
