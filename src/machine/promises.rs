//! Promises: pending ones, and completed ones whose result is not fetched.
//!
//! A promise completes exactly once. If it was abandoned, [`Promises::complete`] returns the reply
//! to its caller, which disposes of it: it may own a consumer or an unsettled message.

use crate::error::Error;
use crate::machine::channel::content::Got;
use crate::machine::deadline::later;
use crate::machine::handshake::server_properties::ServerProperties;
use crate::machine::ids::{ConsumerId, PromiseId, TransactionId};
use crate::message::{Message, Returned};
use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// The result of a promise without an error.
#[derive(Debug)]
#[non_exhaustive]
pub enum Reply {
    /// The operation succeeded, and there is nothing to return.
    Done,
    /// The connection is open.
    Connected(Box<ServerProperties>),
    /// The queue exists.
    Queue(Box<Queue>),
    /// The number of messages that were purged or deleted.
    Count(u32),
    /// The message from `basic.get`, or `None` if the queue was empty.
    Delivery(Option<Box<Got>>),
    /// The transaction has begun.
    Transaction(TransactionId),
    /// The transaction was committed, and the broker returned these mandatory publishes.
    Committed(Vec<Returned>),
    /// The reply to a call.
    Message(Box<Message>),
    /// The consumer has started.
    Consumer(ConsumerId),
    /// The consumer with this tag has ended.
    Cancelled(Box<str>),
}

/// A queue, as the broker describes it when it is declared.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Queue {
    /// The name. If the declaration had none, the broker made it.
    pub name: String,
    /// The number of messages that are ready for delivery.
    pub message_count: u32,
    /// The number of consumers.
    pub consumer_count: u32,
}

type Outcome = Result<Reply, Error>;

/// The fetched result of a promise.
#[derive(Debug)]
pub(crate) struct Completion(Option<Box<SlotData>>);

impl Completion {
    /// Returns the result, or `None` if it is [`Reply::Done`], which needs no conversion.
    #[inline]
    pub(crate) fn into_unless_done(self) -> Option<Outcome> {
        match *self.0? {
            SlotData::Outcome(outcome) => Some(outcome),
            SlotData::Deadline(_) => None,
        }
    }

    /// Returns the result.
    pub(crate) fn into_outcome(self) -> Outcome {
        self.into_unless_done().unwrap_or(Ok(Reply::Done))
    }
}

/// The state of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PromiseState {
    Free,
    Pending { abandoned: bool },
    Completed,
}

/// The data of a slot's state, for the states that have data.
#[derive(Debug)]
enum SlotData {
    /// The data of `Pending`.
    Deadline(PromiseDeadline),
    /// The data of `Completed`.
    Outcome(Outcome),
}

/// The deadline of a promise.
#[derive(Debug)]
struct PromiseDeadline {
    /// `None` until the next [`stamp`](Promises::stamp).
    at: Option<Instant>,
    /// The timeout, for the error.
    timeout: Duration,
}

/// The storage of one promise. It is reused with another generation.
#[derive(Debug)]
struct Slot {
    generation: u32,
    state: PromiseState,
    /// It counts towards the limit on pending requests.
    is_request: bool,
    /// The data of the state; `None` for [`Reply::Done`]. Publishes, of which there are many, have
    /// no deadline here, and most complete with `Done`, so they need no data. It is boxed so that a
    /// slot stays small.
    data: Option<Box<SlotData>>,
}

impl Slot {
    /// Frees the slot for another promise. Returns the data of its state.
    fn free(&mut self) -> Option<Box<SlotData>> {
        self.generation = self.generation.wrapping_add(1);
        self.state = PromiseState::Free;
        self.data.take()
    }

    fn deadline(&self) -> Option<&PromiseDeadline> {
        if let Some(SlotData::Deadline(deadline)) = self.data.as_deref() {
            Some(deadline)
        } else {
            None
        }
    }

    /// Removes the deadline. Returns its instant if it has started.
    fn remove_deadline(&mut self) -> Option<Instant> {
        let at = self.deadline()?.at;
        self.data = None;
        at
    }
}

/// All promises of a connection.
#[derive(Debug, Default)]
pub(crate) struct Promises {
    slots: Vec<Slot>,
    /// Free indices. The one freed last is reused first, because its slot is still in the CPU
    /// cache. The generation distinguishes its promises.
    free: Vec<u32>,
    /// The number of pending promises.
    pending: usize,
    /// The number of pending promises that count as requests.
    requests: usize,
    /// The started deadlines, the earliest first.
    deadlines: BTreeSet<(Instant, PromiseId)>,
    /// Promises whose deadline starts at the next `stamp`. A promise stays in the list if its
    /// deadline was removed or has started already: searching the list for each restarted deadline
    /// would take quadratic time.
    unstamped: Vec<PromiseId>,
    /// Completed promises that `poll_completed` has not returned.
    completed: VecDeque<PromiseId>,
}

impl Promises {
    /// Opens a promise.
    #[inline]
    pub(crate) fn open(&mut self) -> PromiseId {
        self.pending += 1;
        let pending = PromiseState::Pending { abandoned: false };
        if let Some(index) = self.free.pop()
            && let Some(slot) = self.slots.get_mut(index as usize)
        {
            slot.state = pending;
            return PromiseId {
                index,
                generation: slot.generation,
            };
        }
        let index = self.slots.len() as u32;
        self.slots.push(Slot {
            generation: 0,
            state: pending,
            is_request: false,
            data: None,
        });
        PromiseId {
            index,
            generation: 0,
        }
    }

    /// Opens a promise that is completed with [`Reply::Done`] from the start. No task can wait for
    /// it yet, so no event is reported.
    #[inline]
    pub(crate) fn open_done(&mut self) -> PromiseId {
        let id = self.open();
        self.pending -= 1;
        if let Some(slot) = self.slot(id) {
            slot.state = PromiseState::Completed;
        }
        id
    }

    /// Returns the id of no promise, for operations without one.
    pub(crate) fn none(&self) -> PromiseId {
        PromiseId {
            index: u32::MAX,
            generation: u32::MAX,
        }
    }

    /// Opens a promise with a deadline, which starts at the next [`stamp`](Self::stamp).
    pub(crate) fn open_timed(&mut self, timeout: Duration) -> PromiseId {
        let id = self.open();
        self.set_deadline(id, timeout);
        id
    }

    /// Opens a promise with a deadline. It counts as a pending request until it is completed.
    pub(crate) fn open_request(&mut self, timeout: Duration) -> PromiseId {
        let id = self.open_timed(timeout);
        self.requests += 1;
        if let Some(slot) = self.slot(id) {
            slot.is_request = true;
        }
        id
    }

    /// Returns the number of pending requests that [`open_request`](Self::open_request) opened.
    pub(crate) fn requests(&self) -> usize {
        self.requests
    }

    fn slot(&mut self, id: PromiseId) -> Option<&mut Slot> {
        self.slots
            .get_mut(id.index())
            .filter(|slot| slot.generation == id.generation)
    }

    /// Returns `true` if the promise is pending, even if it was abandoned.
    pub(crate) fn is_pending(&self, id: PromiseId) -> bool {
        self.slots.get(id.index()).is_some_and(|slot| {
            slot.generation == id.generation && matches!(slot.state, PromiseState::Pending { .. })
        })
    }

    /// Returns the number of pending promises.
    pub(crate) fn pending(&self) -> usize {
        self.pending
    }

    /// Completes a promise. Returns the reply if the promise does not take it, because it was
    /// abandoned or is completed already.
    #[inline]
    pub(crate) fn complete(&mut self, id: PromiseId, outcome: Outcome) -> Option<Reply> {
        let Some(slot) = self.complete_slot(id) else {
            return outcome.ok();
        };
        if !matches!(outcome, Ok(Reply::Done)) {
            slot.data = Some(SlotData::Outcome(outcome).into());
        }
        None
    }

    /// Completes a promise with [`Reply::Done`], which needs no disposal. Most publishes complete
    /// so.
    #[inline]
    pub(crate) fn complete_done(&mut self, id: PromiseId) {
        self.complete_slot(id);
    }

    /// Completes a promise. Returns its slot unless it was abandoned or is completed already.
    #[inline]
    fn complete_slot(&mut self, id: PromiseId) -> Option<&mut Slot> {
        let slot = self
            .slots
            .get_mut(id.index())
            .filter(|slot| slot.generation == id.generation)?;
        let PromiseState::Pending { abandoned } = slot.state else {
            return None;
        };
        if let Some(at) = slot.remove_deadline() {
            self.deadlines.remove(&(at, id));
        }
        self.pending -= 1;
        self.requests -= usize::from(std::mem::take(&mut slot.is_request));
        if abandoned {
            slot.free();
            self.free.push(id.index);
            return None;
        }
        slot.state = PromiseState::Completed;
        self.completed.push_back(id);
        Some(slot)
    }

    /// Takes the result of a completed promise and frees its slot.
    #[inline]
    pub(crate) fn fetch(&mut self, id: PromiseId) -> Option<Completion> {
        let slot = self
            .slots
            .get_mut(id.index())
            .filter(|slot| slot.generation == id.generation)?;
        if slot.state != PromiseState::Completed {
            return None;
        }
        self.free.push(id.index);
        Some(Completion(slot.free()))
    }

    /// Drops interest in a promise. Returns its reply if it is completed, for disposal.
    #[inline]
    pub(crate) fn abandon(&mut self, id: PromiseId) -> Option<Reply> {
        if let Some(PromiseState::Pending { abandoned }) = self.slot(id).map(|slot| &mut slot.state)
        {
            *abandoned = true;
            return None;
        }
        self.fetch(id)?.into_outcome().ok()
    }

    /// Returns the number of promises that [`poll_completed`](Self::poll_completed) will return.
    pub(crate) fn completed(&self) -> usize {
        self.completed.len()
    }

    /// Returns the next completed promise. Those that were abandoned before are not reported.
    pub(crate) fn poll_completed(&mut self) -> Option<PromiseId> {
        self.completed.pop_front()
    }

    /// Starts the deadlines that have not been started.
    pub(crate) fn stamp(&mut self, now: Instant) {
        while let Some(id) = self.unstamped.pop() {
            if let Some(slot) = self.slot(id)
                && let Some(SlotData::Deadline(PromiseDeadline {
                    at: at @ None,
                    timeout,
                })) = slot.data.as_deref_mut()
            {
                let deadline = later(now, *timeout);
                *at = Some(deadline);
                self.deadlines.insert((deadline, id));
            }
        }
    }

    /// Removes the deadline of a promise.
    pub(crate) fn remove_deadline(&mut self, id: PromiseId) {
        if let Some(at) = self.slot(id).and_then(Slot::remove_deadline) {
            self.deadlines.remove(&(at, id));
        }
    }

    /// Replaces the deadline of a promise. It starts at the next [`stamp`](Self::stamp).
    pub(crate) fn restart_deadline(&mut self, id: PromiseId, timeout: Duration) {
        self.remove_deadline(id);
        self.set_deadline(id, timeout);
    }

    fn set_deadline(&mut self, id: PromiseId, timeout: Duration) {
        if self.is_pending(id)
            && let Some(slot) = self.slot(id)
        {
            slot.data = Some(SlotData::Deadline(PromiseDeadline { at: None, timeout }).into());
            self.unstamped.push(id);
        }
    }

    /// Returns the earliest deadline.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Returns a promise whose deadline has passed, and its timeout. The caller must complete it
    /// before the next call.
    pub(crate) fn expired(&self, now: Instant) -> Option<(PromiseId, Duration)> {
        let (_, id) = *self
            .deadlines
            .first()
            .filter(|(deadline, _)| *deadline <= now)?;
        Some((id, self.slots.get(id.index())?.deadline()?.timeout))
    }

    /// Returns `true` if the promise is pending and not abandoned.
    pub(crate) fn is_wanted(&self, id: PromiseId) -> bool {
        let slot = self
            .slots
            .get(id.index())
            .filter(|slot| slot.generation == id.generation);
        slot.is_some_and(|slot| slot.state == PromiseState::Pending { abandoned: false })
    }

    /// Returns all pending promises.
    pub(crate) fn all_pending(&self) -> Vec<PromiseId> {
        let slots = self.slots.iter().enumerate();
        slots
            .filter(|(_, slot)| matches!(slot.state, PromiseState::Pending { .. }))
            .map(|(index, slot)| PromiseId {
                index: index as u32,
                generation: slot.generation,
            })
            .collect()
    }

    /// Returns `true` if no promise is pending and every result was fetched.
    pub(crate) fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len() && self.deadlines.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);

    #[test]
    fn restarted_promise_has_one_deadline() {
        let mut promises = Promises::default();
        let now = Instant::now();
        let [early, late] = [promises.open_timed(TIMEOUT), promises.open_timed(TIMEOUT)];
        promises.stamp(now);
        promises.restart_deadline(late, 2 * TIMEOUT);
        promises.restart_deadline(late, 3 * TIMEOUT);
        assert_eq!(
            (promises.deadline(), promises.deadlines.len()),
            (Some(now + TIMEOUT), 1)
        );
        promises.stamp(now + TIMEOUT / 2);
        promises.remove_deadline(early);
        assert_eq!(promises.deadline(), Some(now + TIMEOUT / 2 + 3 * TIMEOUT));
        assert_eq!(
            promises.expired(now + 4 * TIMEOUT),
            Some((late, 3 * TIMEOUT))
        );
    }

    #[test]
    fn removed_deadline_is_not_started() {
        let mut promises = Promises::default();
        let now = Instant::now();
        let untimed = promises.open_timed(TIMEOUT);
        promises.remove_deadline(untimed);
        let completed = promises.open_timed(TIMEOUT);
        promises.complete_done(completed);
        assert!(
            promises
                .fetch(completed)
                .is_some_and(|completion| completion.into_unless_done().is_none())
        );
        let reused = promises.open();
        assert_eq!(reused.index, completed.index);
        promises.stamp(now);
        assert_eq!((promises.deadline(), promises.unstamped.len()), (None, 0));
    }

    #[test]
    #[cfg_attr(miri, ignore = "it takes Miri minutes")]
    fn restarting_a_deadline_visits_no_other_promise() {
        let mut promises = Promises::default();
        let ids: Vec<_> = (0..65_535).map(|_| promises.open_timed(TIMEOUT)).collect();
        // Entries are not removed, because that would take a search.
        ids.iter()
            .for_each(|id| promises.restart_deadline(*id, TIMEOUT));
        assert_eq!(promises.unstamped.len(), 2 * ids.len());
        promises.stamp(Instant::now());
        assert_eq!(
            (promises.unstamped.len(), promises.deadlines.len()),
            (0, ids.len())
        );
    }
}
