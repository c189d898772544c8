//! The unconfirmed publishes of one channel (RabbitMQ's confirms guide).
//!
//! Publishes are numbered from 1. Confirms arrive in any order, and one with `multiple` covers all
//! publishes up to its number. The cost is proportional to what is confirmed, not to what is
//! pending.

use crate::machine::deadline::later;
use crate::machine::ids::PromiseId;
use crate::machine::publish::overdue::Overdue;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// The state of one publish.
#[derive(Clone, Copy, Debug)]
enum ConfirmState {
    /// Neither confirmed nor returned.
    Open(PromiseId),
    /// The message was returned, so its promise is completed. Its confirm is pending.
    Returned,
    Confirmed,
}

/// The error of a confirm with the tag of no unconfirmed publish.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UnknownTag;

/// The unconfirmed publishes of one channel. The fields that each publish touches come first, so
/// that they share a cache line.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Confirms {
    /// The number of the first publish in `pending`, minus 1.
    before: u64,
    /// The publishes from the lowest open one to the last one.
    pending: VecDeque<ConfirmState>,
    /// The number of open and returned publishes.
    open: usize,
    /// Open publishes far below all others. They are moved here so that `pending` does not become
    /// much longer than the number of open publishes.
    stragglers: BTreeMap<u64, ConfirmState>,
    /// Each deadline with the last number to which it applies, in ascending order.
    deadlines: VecDeque<(u64, Instant)>,
    /// Numbers up to this have a deadline.
    stamped: u64,
    /// Publishes whose deadline has passed. They are not counted as open. Their confirms may still
    /// arrive.
    overdue: Overdue,
}

/// Open publishes are moved to `stragglers` only above this many entries in `pending`.
const SPARSE: usize = 1024;

impl Confirms {
    /// Returns the number of the next publish.
    pub(crate) fn next(&self) -> u64 {
        self.before + self.pending.len() as u64 + 1
    }

    /// Adds the next publish.
    pub(crate) fn push(&mut self, promise: PromiseId) {
        self.pending.push_back(ConfirmState::Open(promise));
        self.open += 1;
    }

    /// Returns the number of unconfirmed publishes, without those whose deadline has passed.
    pub(crate) fn open(&self) -> usize {
        self.open
    }

    /// Returns `true` if exactly one publish is unconfirmed, so an error can only be about that
    /// one.
    pub(crate) fn has_one_unconfirmed(&self) -> bool {
        self.open == 1 && self.overdue.is_empty()
    }

    /// Returns the state of a publish, unless it was removed.
    fn state(&mut self, tag: u64) -> Option<&mut ConfirmState> {
        if tag <= self.before {
            return self.stragglers.get_mut(&tag);
        }
        self.pending
            .get_mut(usize::try_from(tag - self.before - 1).ok()?)
    }

    /// Returns `true` if there are publishes whose deadline passed without a confirm.
    pub(crate) fn has_overdue(&self) -> bool {
        !self.overdue.is_empty()
    }

    /// Takes the promise of a publish that is returned before its confirm.
    pub(crate) fn take_returned(&mut self, tag: u64) -> Option<PromiseId> {
        let state = self.state(tag)?;
        let ConfirmState::Open(promise) = *state else {
            return None;
        };
        *state = ConfirmState::Returned;
        Some(promise)
    }

    /// Confirms a publish, or all publishes up to it, and passes the promises to `each`. "If the
    /// multiple field is 1, and the delivery tag is zero, this indicates acknowledgement of all
    /// outstanding messages" (1.8.3.13).
    pub(crate) fn confirm(
        &mut self,
        tag: u64,
        multiple: bool,
        mut each: impl FnMut(PromiseId),
    ) -> Result<(), UnknownTag> {
        let tag = if multiple && tag == 0 {
            self.next() - 1
        } else {
            tag
        };
        if tag >= self.next() {
            return Err(UnknownTag);
        }
        let mut complete = |state: ConfirmState, open: &mut usize| match state {
            ConfirmState::Open(promise) => {
                *open -= 1;
                each(promise);
            }
            ConfirmState::Returned => *open -= 1,
            ConfirmState::Confirmed => {}
        };
        if multiple {
            self.overdue.remove_up_to(tag);
            while let Some(entry) = self
                .stragglers
                .first_entry()
                .filter(|entry| *entry.key() <= tag)
            {
                complete(entry.remove(), &mut self.open);
            }
            while self.before < tag
                && let Some(state) = self.pending.pop_front()
            {
                self.before += 1;
                complete(state, &mut self.open);
            }
        } else if let Some(state) = self.stragglers.remove(&tag) {
            complete(state, &mut self.open);
        } else {
            match self.state(tag) {
                Some(state @ (ConfirmState::Open(_) | ConfirmState::Returned)) => {
                    let state = std::mem::replace(state, ConfirmState::Confirmed);
                    complete(state, &mut self.open);
                }
                // The promise is already completed, so a late confirm changes nothing.
                _ => {
                    return if self.overdue.remove(tag) {
                        Ok(())
                    } else {
                        Err(UnknownTag)
                    };
                }
            }
        }
        self.trim();
        Ok(())
    }

    /// Removes confirmed publishes from the front of `pending`. Moves open ones to `stragglers` if
    /// few are open.
    fn trim(&mut self) {
        let sparse = self.pending.len() > SPARSE && self.pending.len() / 4 > self.open;
        while let Some(&state) = self.pending.front() {
            match state {
                ConfirmState::Confirmed => {}
                open if sparse => {
                    self.stragglers.insert(self.before + 1, open);
                }
                _ => break,
            }
            self.pending.pop_front();
            self.before += 1;
        }
    }

    /// Returns the lowest unconfirmed number.
    fn lowest(&self) -> u64 {
        self.stragglers
            .first_key_value()
            .map_or(self.before + 1, |(tag, _)| *tag)
    }

    /// Starts the deadline of the publishes since the last call. Publishes within a sixteenth of
    /// the timeout share one, which bounds the number of deadlines and makes them late by that much
    /// at most.
    pub(crate) fn stamp(&mut self, now: Instant, timeout: Duration) {
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
            Some((tag, deadline)) if later(now, timeout) <= *deadline => *tag = last,
            _ => self
                .deadlines
                .push_back((last, later(later(now, timeout), shared))),
        }
        self.stamped = last;
    }

    /// Returns the earliest deadline of an open publish.
    pub(crate) fn deadline(&mut self) -> Option<Instant> {
        let lowest = self.lowest();
        while self.deadlines.front().is_some_and(|(tag, _)| *tag < lowest) {
            self.deadlines.pop_front();
        }
        self.deadlines.front().map(|(_, deadline)| *deadline)
    }

    /// Passes the promises whose deadline has passed to `each`, with their numbers. These publishes
    /// no longer count as open: a queue that never confirms would otherwise use up the limit on
    /// publishes in flight for ever. Their confirms may still arrive.
    pub(crate) fn expire(&mut self, now: Instant, mut each: impl FnMut(u64, PromiseId)) {
        while let Some(&(last, _)) = self
            .deadlines
            .front()
            .filter(|(_, deadline)| *deadline <= now)
        {
            self.deadlines.pop_front();
            while let Some(entry) = self
                .stragglers
                .first_entry()
                .filter(|entry| *entry.key() <= last)
            {
                let tag = *entry.key();
                let state = entry.remove();
                self.expire_one(tag, state, &mut each);
            }
            while self.before < last
                && let Some(state) = self.pending.pop_front()
            {
                self.before += 1;
                self.expire_one(self.before, state, &mut each);
            }
        }
        self.trim();
    }

    fn expire_one(&mut self, tag: u64, state: ConfirmState, each: &mut impl FnMut(u64, PromiseId)) {
        if let ConfirmState::Open(promise) = state {
            each(tag, promise);
        }
        if !matches!(state, ConfirmState::Confirmed) {
            self.open -= 1;
            self.overdue.add(tag);
        }
    }

    /// Returns the numbers and promises of all open publishes, in order, because the channel is
    /// closed.
    pub(crate) fn drain(self) -> impl Iterator<Item = (u64, PromiseId)> {
        let all = self
            .stragglers
            .into_iter()
            .chain((self.before + 1..).zip(self.pending));
        all.filter_map(|(tag, state)| {
            if let ConfirmState::Open(promise) = state {
                Some((tag, promise))
            } else {
                None
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::promises::Promises;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    const TIMEOUT: Duration = Duration::from_secs(16);

    /// Applies a confirm to a map with one entry per publish.
    fn confirm_naively(
        open: &mut BTreeMap<u64, Option<PromiseId>>,
        tag: u64,
        multiple: bool,
    ) -> Vec<PromiseId> {
        let tags: Vec<u64> = match (tag, multiple) {
            (0, true) => open.keys().copied().collect(),
            (_, true) => open.range(..=tag).map(|(tag, _)| *tag).collect(),
            (_, false) => vec![tag],
        };
        tags.into_iter()
            .filter_map(|tag| open.remove(&tag))
            .flatten()
            .collect()
    }

    #[derive(Clone, Debug)]
    enum ConfirmStep {
        Publish(u16),
        Confirm { back: u64, multiple: bool },
        Return { back: u64 },
        Stamp,
        Expire,
    }

    fn steps() -> impl Strategy<Value = Vec<ConfirmStep>> {
        let step = prop_oneof![
            2 => (1..200_u16).prop_map(ConfirmStep::Publish),
            8 => (0..400_u64, prop::bool::weighted(0.1))
                .prop_map(|(back, multiple)| ConfirmStep::Confirm { back, multiple }),
            1 => (0..50_u64).prop_map(|back| ConfirmStep::Return { back }),
            1 => Just(ConfirmStep::Stamp),
            1 => Just(ConfirmStep::Expire),
        ];
        prop::collection::vec(step, 1..300)
    }

    fn forget_late(overdue: &mut BTreeSet<u64>, tag: u64, multiple: bool) {
        overdue.retain(|late| match multiple {
            true => tag != 0 && *late > tag,
            false => *late != tag,
        });
    }

    proptest! {
        #[test]
        #[cfg_attr(miri, ignore = "it takes Miri minutes")]
        fn confirms_equal_a_naive_map(steps in steps()) {
            let (mut promises, mut confirms) = (Promises::default(), Confirms::default());
            let mut open = BTreeMap::new();
            let (mut now, mut stamped, mut overdue) = (Instant::now(), Vec::new(), BTreeSet::new());
            for step in steps {
                match step {
                    ConfirmStep::Publish(count) => for _ in 0..count {
                        let promise = promises.open();
                        open.insert(confirms.next(), Some(promise));
                        confirms.push(promise);
                    },
                    ConfirmStep::Confirm { back, multiple } => {
                        let tag = confirms.next().saturating_sub(back);
                        let is_late = overdue.contains(&tag);
                        let is_known = open.contains_key(&tag)
                            || is_late
                            || multiple && tag < confirms.next();
                        let mut confirmed = Vec::new();
                        let result =
                            confirms.confirm(tag, multiple, |promise| confirmed.push(promise));
                        prop_assert_eq!(result.is_ok(), is_known);
                        let mut expected = Vec::new();
                        if is_known {
                            expected = confirm_naively(&mut open, tag, multiple);
                            forget_late(&mut overdue, tag, multiple);
                        }
                        prop_assert_eq!(confirmed, expected);
                    }
                    ConfirmStep::Return { back } => {
                        let tag = confirms.next().saturating_sub(back);
                        let expected = open.get_mut(&tag).and_then(Option::take);
                        prop_assert_eq!(confirms.take_returned(tag), expected);
                    }
                    ConfirmStep::Stamp => {
                        now += TIMEOUT;
                        confirms.stamp(now, TIMEOUT);
                        stamped.push((confirms.next() - 1, now + TIMEOUT + TIMEOUT / 16));
                    }
                    ConfirmStep::Expire => {
                        now += TIMEOUT;
                        let last = stamped.iter().rfind(|(_, at)| *at <= now);
                        let last = last.map_or(0, |(last, _)| *last);
                        let rest = open.split_off(&(last + 1));
                        let expected = std::mem::replace(&mut open, rest);
                        overdue.extend(expected.keys());
                        let mut expired = Vec::new();
                        confirms.expire(now, |tag, promise| expired.push((tag, promise)));
                        let expected = expected
                            .into_iter()
                            .filter_map(|(tag, promise)| Some((tag, promise?)));
                        prop_assert_eq!(expired, expected.collect::<Vec<_>>());
                    }
                }
                prop_assert_eq!(confirms.open(), open.len());
                prop_assert_eq!(confirms.overdue.is_empty(), overdue.is_empty());
            }
            let left: Vec<_> = confirms.drain().collect();
            let expected = open.into_iter().filter_map(|(tag, promise)| Some((tag, promise?)));
            prop_assert_eq!(left, expected.collect::<Vec<_>>());
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "it takes Miri minutes")]
    fn unconfirmed_publish_does_not_slow_down_others() {
        let (mut promises, mut confirms) = (Promises::default(), Confirms::default());
        let stuck = promises.open();
        confirms.push(stuck);
        for tag in 2..100_000 {
            confirms.push(stuck);
            assert_eq!(confirms.confirm(tag, false, |_| {}), Ok(()));
        }
        assert!(
            confirms.pending.len() <= SPARSE + 1,
            "{}",
            confirms.pending.len()
        );
        assert_eq!((confirms.open(), confirms.stragglers.len()), (1, 1));
        assert_eq!(
            confirms.confirm(1, false, |promise| assert_eq!(promise, stuck)),
            Ok(())
        );
        assert_eq!((confirms.open(), confirms.lowest()), (0, 100_000));
    }

    #[test]
    fn deadline_expires_only_open_publishes() {
        let (mut promises, mut confirms) = (Promises::default(), Confirms::default());
        let timeout = Duration::from_secs(16);
        let now = Instant::now();
        let early: Vec<_> = (0..3).map(|_| promises.open()).collect();
        early.iter().for_each(|promise| confirms.push(*promise));
        confirms.stamp(now, timeout);
        let late = promises.open();
        confirms.push(late);
        confirms.stamp(now + Duration::from_secs(8), timeout);
        assert_eq!(confirms.confirm(2, false, |_| {}), Ok(()));
        let at = confirms.deadline().unwrap();
        assert!(at >= now + timeout && at <= now + timeout + timeout / 16);
        let mut expired = Vec::new();
        confirms.expire(at, |_, promise| expired.push(promise));
        assert_eq!(expired, [early[0], early[2]]);
        assert_eq!(
            confirms.open(),
            1,
            "the others have given back their places"
        );
        assert!(confirms.deadline() > Some(at));
        assert_eq!(
            confirms.confirm(1, false, |_| panic!("its promise is completed")),
            Ok(())
        );
        assert_eq!(confirms.confirm(1, false, |_| {}), Err(UnknownTag));
        assert!(!confirms.has_one_unconfirmed());
        assert_eq!(
            confirms.confirm(3, true, |_| panic!("its promise is completed")),
            Ok(())
        );
        assert!(confirms.has_one_unconfirmed());
        assert_eq!(
            confirms.confirm(4, false, |promise| assert_eq!(promise, late)),
            Ok(())
        );
    }

    /// Returns publishes of which all but the first `open` are confirmed, and all promises.
    fn mostly_confirmed(open: u64, count: usize) -> (Confirms, Vec<PromiseId>) {
        let (mut promises, mut confirms) = (Promises::default(), Confirms::default());
        let pending: Vec<_> = (0..count).map(|_| promises.open()).collect();
        pending.iter().for_each(|promise| confirms.push(*promise));
        (open + 1..=count as u64).for_each(|tag| confirms.confirm(tag, false, |_| {}).unwrap());
        (confirms, pending)
    }

    #[test]
    fn open_publishes_move_only_from_a_sparse_queue() {
        let (quarter, more) = (SPARSE as u64 / 4, SPARSE + 1);
        for (open, count, moved) in [(1, SPARSE, 0), (1, more, 1), (quarter, more, 0)] {
            let (confirms, _) = mostly_confirmed(open, count);
            assert_eq!(confirms.stragglers.len(), moved, "{open} of {count}");
        }
    }

    #[test]
    fn moved_publishes_are_confirmed_or_expire() {
        let (mut confirms, sent) = mostly_confirmed(3, SPARSE + 1);
        let (mut confirmed, mut expired) = (Vec::new(), Vec::new());
        let result = confirms.confirm(2, true, |promise| confirmed.push(promise));
        assert_eq!((result, &confirmed[..]), (Ok(()), &sent[..2]));
        confirms.stamp(Instant::now(), TIMEOUT);
        let late = Instant::now() + 2 * TIMEOUT;
        confirms.expire(late, |tag, promise| expired.push((tag, promise)));
        assert_eq!((expired, confirms.open()), (vec![(3, sent[2])], 0));
    }

    #[test]
    fn publishes_within_a_sixteenth_share_a_deadline() {
        let (mut promises, mut confirms) = (Promises::default(), Confirms::default());
        let (now, shared) = (Instant::now(), TIMEOUT / 16);
        let mut deadlines_after = |confirms: &mut Confirms, time| {
            confirms.push(promises.open());
            confirms.stamp(now + time, TIMEOUT);
            confirms.deadlines.len()
        };
        for (time, count) in [(0, 1), (1, 1), (2, 2)] {
            assert_eq!(deadlines_after(&mut confirms, time * shared), count);
        }
        confirms.confirm(2, true, |_| {}).unwrap();
        assert_eq!(deadlines_after(&mut confirms, TIMEOUT), 2, "for 3 and 4");
    }
}
