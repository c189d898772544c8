//! One transport between a client and the broker, with its observer and fault injector.

use crate::injector::FaultInjector;
use crate::observer::Observer;
use crate::paces::Starts;
use crate::plan::Plan;
use crate::wire::{End, Wire};
use puka_test_broker::ConnectionId;
use std::time::{Duration, Instant};

/// A transport between a client and the broker.
#[derive(Debug)]
pub(crate) struct Transport {
    /// The number of this transport among those of all clients.
    pub(crate) number: usize,
    /// The broker's connection on this transport.
    pub(crate) connection: ConnectionId,
    /// The broker has dropped the connection.
    pub(crate) broker_gone: bool,
    /// The direction from the client to the broker.
    pub(crate) up: Wire,
    /// The direction from the broker to the client.
    pub(crate) down: Wire,
    /// How both directions end when the transport is cut.
    pub(crate) cut_end: End,
    /// Decodes what the broker receives and sends.
    pub(crate) observer: Observer,
    pub(crate) injector: FaultInjector,
    /// The starts of its consumers.
    pub(crate) starts: Starts,
    /// A fault was injected that may break the connection.
    pub(crate) may_break: bool,
}

impl Transport {
    pub(crate) fn new(number: usize, plan: &Plan, connection: ConnectionId, now: Instant) -> Self {
        Self {
            number,
            connection,
            broker_gone: false,
            up: Wire::new(plan.pace(), now),
            down: Wire::new(plan.pace(), now),
            cut_end: End::Eof,
            observer: Observer::default(),
            injector: FaultInjector::new(plan, plan.random(1000 + number as u64)),
            starts: Starts::default(),
            may_break: false,
        }
    }

    /// Ends both directions, as a cut cable does.
    pub(crate) fn cut(&mut self, now: Instant) {
        self.up.end(now, self.cut_end);
        self.down.end(now, self.cut_end);
    }

    /// Loses everything that is sent from now on, without an error.
    pub(crate) fn silence(&mut self) {
        self.up.silent = true;
        self.down.silent = true;
    }

    /// Loses everything that the client sends from now on.
    pub(crate) fn silence_upwards(&mut self) {
        self.up.silent = true;
    }

    /// Returns `true` if a fault delays a direction.
    pub(crate) fn is_delayed(&self, now: Instant) -> bool {
        /// The network itself delays bytes by 30 ms at most, so a longer delay is a fault.
        const DELAY: Duration = Duration::from_millis(100);
        let wires = [&self.up, &self.down];
        wires
            .iter()
            .any(|wire| wire.write_at > now + DELAY || wire.read_at > now + DELAY)
    }

    /// Removes all delays, and cuts that have not happened yet.
    pub(crate) fn remove_delays(&mut self, now: Instant) {
        for wire in [&mut self.up, &mut self.down] {
            wire.write_at = now;
            wire.read_at = now;
            wire.cut_after = None;
        }
    }
}
