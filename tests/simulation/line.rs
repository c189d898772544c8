//! One transport between a client and the broker, and what sits on it.

use crate::meddler::Meddler;
use crate::observer::Observer;
use crate::plan::Plan;
use crate::wire::{End, Wire};
use puka_test_broker::ConnectionId;
use std::time::Instant;

#[derive(Debug)]
pub(crate) struct Line {
    /// Which of all lines it is.
    pub(crate) number: usize,
    pub(crate) broker: ConnectionId,
    /// The broker has forgotten the connection.
    pub(crate) broker_gone: bool,
    pub(crate) up: Wire,
    pub(crate) down: Wire,
    pub(crate) cut_end: End,
    pub(crate) observer: Observer,
    pub(crate) meddler: Meddler,
    /// Something may have happened to it.
    pub(crate) doubtful: bool,
}

impl Line {
    pub(crate) fn new(number: usize, plan: &Plan, broker: ConnectionId, now: Instant) -> Self {
        Self {
            number,
            broker,
            broker_gone: false,
            up: Wire::new(plan.pace(), now),
            down: Wire::new(plan.pace(), now),
            cut_end: End::Eof,
            observer: Observer::default(),
            meddler: Meddler::new(plan, plan.random(1000 + number as u64)),
            doubtful: false,
        }
    }

    /// The transport is cut.
    pub(crate) fn cut(&mut self, now: Instant) {
        self.up.end(now, self.cut_end);
        self.down.end(now, self.cut_end);
    }

    /// Whatever is sent from now on gets lost, and nobody is told.
    pub(crate) fn silence(&mut self) {
        self.up.silent = true;
        self.down.silent = true;
    }

    /// The broker hears nothing any more.
    pub(crate) fn silence_upwards(&mut self) {
        self.up.silent = true;
    }

    /// Nothing holds it up any more.
    pub(crate) fn calm(&mut self, now: Instant) {
        for wire in [&mut self.up, &mut self.down] {
            wire.write_at = now;
            wire.read_at = now;
            wire.cut_after = None;
        }
    }
}
