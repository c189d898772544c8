//! The publishes of one channel that the broker has not confirmed (RabbitMQ's confirms guide).
//!
//! Publishes are numbered from 1. Confirms may come in any order, and one may stand for all up to its number. What it
//! costs is proportional to what is confirmed, not to what is pending.

use super::ids::PromiseId;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug)]
enum State {
    Open(PromiseId),
    /// Its promise is answered, but its confirm is still to come.
    Answered,
    Confirmed,
}

/// A publish that the broker has never seen, or has confirmed before.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UnknownTag;

#[derive(Debug, Default)]
pub(super) struct Confirms {
    /// The number of the first in `pending`, less one.
    before: u64,
    pending: VecDeque<State>,
    /// Open ones that others have left far behind, so that `pending` stays as long as what is open.
    stragglers: BTreeMap<u64, State>,
    open: usize,
    /// Up to which number a deadline holds, in ascending order.
    deadlines: VecDeque<(u64, Instant)>,
    /// Numbers up to this have a deadline.
    stamped: u64,
}

/// Pending ones that may be confirmed, before the open ones among them are moved aside.
const SPARSE: usize = 1024;

impl Confirms {
    /// The number that the next publish will have.
    pub(super) fn next(&self) -> u64 {
        self.before + self.pending.len() as u64 + 1
    }

    pub(super) fn push(&mut self, promise: PromiseId) {
        self.pending.push_back(State::Open(promise));
        self.open += 1;
    }

    /// How many are not confirmed.
    pub(super) fn open(&self) -> usize {
        self.open
    }

    fn state(&mut self, tag: u64) -> Option<&mut State> {
        if tag <= self.before {
            return self.stragglers.get_mut(&tag);
        }
        self.pending.get_mut(usize::try_from(tag - self.before - 1).ok()?)
    }

    /// Takes the promise of a publish that is answered before its confirm has come: it was returned, or took too long.
    pub(super) fn answer(&mut self, tag: u64) -> Option<PromiseId> {
        let state = self.state(tag)?;
        let State::Open(promise) = *state else { return None };
        *state = State::Answered;
        Some(promise)
    }

    /// Confirms a publish, with `multiple` all up to it; tag 0 with `multiple` means all there are.
    pub(super) fn confirm(
        &mut self,
        tag: u64,
        multiple: bool,
        mut each: impl FnMut(PromiseId),
    ) -> Result<(), UnknownTag> {
        let tag = if multiple && tag == 0 { self.next() - 1 } else { tag };
        if tag >= self.next() {
            return Err(UnknownTag);
        }
        let mut done = |state: State, open: &mut usize| match state {
            State::Open(promise) => {
                *open -= 1;
                each(promise);
            }
            State::Answered => *open -= 1,
            State::Confirmed => {}
        };
        if multiple {
            while let Some(entry) = self.stragglers.first_entry().filter(|entry| *entry.key() <= tag) {
                done(entry.remove(), &mut self.open);
            }
            while self.before < tag
                && let Some(state) = self.pending.pop_front()
            {
                self.before += 1;
                done(state, &mut self.open);
            }
        } else if let Some(state) = self.stragglers.remove(&tag) {
            done(state, &mut self.open);
        } else {
            let state = self.state(tag).ok_or(UnknownTag)?;
            if matches!(state, State::Confirmed) {
                return Err(UnknownTag);
            }
            let state = std::mem::replace(state, State::Confirmed);
            done(state, &mut self.open);
        }
        self.trim();
        Ok(())
    }

    fn trim(&mut self) {
        let sparse = self.pending.len() > SPARSE && self.pending.len() / 4 > self.open;
        while let Some(&state) = self.pending.front() {
            match state {
                State::Confirmed => {}
                open if sparse => {
                    self.stragglers.insert(self.before + 1, open);
                }
                _ => break,
            }
            self.pending.pop_front();
            self.before += 1;
        }
    }

    /// The lowest number that is not confirmed.
    fn lowest(&self) -> u64 {
        self.stragglers.first_key_value().map_or(self.before + 1, |(tag, _)| *tag)
    }

    /// Gives the publishes since the last call a deadline. Those of a short while share one, which may make it late by
    /// a sixteenth, so that there are few.
    pub(super) fn stamp(&mut self, now: Instant, timeout: Duration) {
        let last = self.next() - 1;
        if last <= self.stamped {
            return;
        }
        let lowest = self.lowest();
        while self.deadlines.front().is_some_and(|(tag, _)| *tag < lowest) {
            self.deadlines.pop_front();
        }
        let shared = timeout / 16;
        match self.deadlines.back_mut() {
            Some((tag, deadline)) if now + timeout <= *deadline => *tag = last,
            _ => self.deadlines.push_back((last, now + timeout + shared)),
        }
        self.stamped = last;
    }

    /// The earliest deadline of what is open.
    pub(super) fn deadline(&mut self) -> Option<Instant> {
        let lowest = self.lowest();
        while self.deadlines.front().is_some_and(|(tag, _)| *tag < lowest) {
            self.deadlines.pop_front();
        }
        self.deadlines.front().map(|(_, deadline)| *deadline)
    }

    /// Takes the promises whose deadline has passed; their confirms may still come.
    pub(super) fn expire(&mut self, now: Instant, mut each: impl FnMut(PromiseId)) {
        while let Some(&(last, deadline)) = self.deadlines.front() {
            if deadline > now {
                return;
            }
            self.deadlines.pop_front();
            for tag in self.open_up_to(last) {
                if let Some(promise) = self.answer(tag) {
                    each(promise);
                }
            }
        }
    }

    fn open_up_to(&self, last: u64) -> Vec<u64> {
        let early = self.stragglers.range(..=last).map(|(tag, _)| *tag);
        let rest = (self.before + 1..=last).take(self.pending.len());
        early.chain(rest).collect()
    }

    /// Takes the promises of everything that is open, in order, because no confirm will come.
    pub(super) fn drain(self) -> impl Iterator<Item = PromiseId> {
        let all = self.stragglers.into_values().chain(self.pending);
        all.filter_map(|state| if let State::Open(promise) = state { Some(promise) } else { None })
    }
}
