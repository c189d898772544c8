//! Promises: what was asked for and is not answered, or answered and not fetched.
//!
//! A promise is answered exactly once. One whose holder has gone is answered all the same, and what
//! came is handed back to be disposed of.

use crate::error::Error;
use crate::machine::channel::content::Got;
use crate::machine::deadline::later;
use crate::machine::handshake::server_properties::ServerProperties;
use crate::machine::ids::{ConsumerId, PromiseId, TransactionId};
use crate::message::{Message, Returned};
use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// What a promise is answered with.
#[derive(Debug)]
#[non_exhaustive]
pub enum Reply {
    /// It is done.
    Done,
    /// The connection is open.
    Connected(Box<ServerProperties>),
    /// The queue exists.
    Queue(Box<Queue>),
    /// So many messages went.
    Count(u32),
    /// The message that was got, if there was one.
    Delivery(Option<Box<Got>>),
    /// The transaction has begun.
    Transaction(TransactionId),
    /// The transaction took effect, and these mandatory publishes came back.
    Committed(Vec<Returned>),
    /// The reply to a call.
    Message(Box<Message>),
    /// The consumer has started.
    Consumer(ConsumerId),
    /// The consumer of that tag has ended.
    Cancelled(Box<str>),
}

/// What the broker says of a queue when it is declared.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Queue {
    /// Its name, which the broker made if the declaration had none.
    pub name: String,
    /// Messages ready for delivery.
    pub message_count: u32,
    /// Consumers.
    pub consumer_count: u32,
}

type Outcome = Result<Reply, Error>;

/// An answer that was fetched.
#[derive(Debug)]
pub(crate) struct Completion(Option<Box<More>>);

impl Completion {
    /// What it says more than [`Reply::Done`].
    #[inline]
    pub(crate) fn into_more(self) -> Option<Outcome> {
        match *self.0? {
            More::Outcome(outcome) => Some(outcome),
            More::Deadline(_) => None,
        }
    }

    pub(crate) fn into_outcome(self) -> Outcome {
        self.into_more().unwrap_or(Ok(Reply::Done))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PromiseState {
    Free,
    Pending { abandoned: bool },
    Completed,
}

/// What goes with a state.
#[derive(Debug)]
enum More {
    /// With `Waiting`.
    Deadline(PromiseDeadline),
    /// With `Answered`.
    Outcome(Outcome),
}

#[derive(Debug)]
struct PromiseDeadline {
    /// `None` before the next [`stamp`](Promises::stamp).
    at: Option<Instant>,
    /// How much time there was.
    timeout: Duration,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    state: PromiseState,
    /// It counts as a pending request.
    is_request: bool,
    /// Publishes, of which there are many, need nothing more, so that a slot stays small: they have
    /// no deadline here, and most are answered with [`Reply::Done`].
    more: Option<Box<More>>,
}

impl Slot {
    /// Makes it ready for another promise. Gives what went with its state.
    fn free(&mut self) -> Option<Box<More>> {
        self.generation = self.generation.wrapping_add(1);
        self.state = PromiseState::Free;
        self.more.take()
    }

    fn deadline(&self) -> Option<&PromiseDeadline> {
        if let Some(More::Deadline(deadline)) = self.more.as_deref() {
            Some(deadline)
        } else {
            None
        }
    }

    /// Removes the deadline. Returns when it would have been, if it has started.
    fn remove_deadline(&mut self) -> Option<Instant> {
        let at = self.deadline()?.at;
        self.more = None;
        at
    }
}

#[derive(Debug, Default)]
pub(crate) struct Promises {
    slots: Vec<Slot>,
    /// Numbers that are free. The last that became free is the next, while its slot is in the
    /// processor's cache; the generation tells it from what it was before.
    free: Vec<u32>,
    pending: usize,
    requests: usize,
    deadlines: BTreeSet<(Instant, PromiseId)>,
    /// Promises whose deadline starts when the time is next known. A promise stays in the list if
    /// its deadline was removed or has started already. Searching the list would make timing many
    /// promises again quadratic.
    unstamped: Vec<PromiseId>,
    completed: VecDeque<PromiseId>,
}

impl Promises {
    /// A new promise.
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
            more: None,
        });
        PromiseId {
            index,
            generation: 0,
        }
    }

    /// A new promise that is done from the start. Nobody can wait for it yet, so nobody is to be
    /// told.
    #[inline]
    pub(crate) fn open_done(&mut self) -> PromiseId {
        let id = self.open();
        self.pending -= 1;
        if let Some(slot) = self.slot(id) {
            slot.state = PromiseState::Completed;
        }
        id
    }

    /// Nobody's promise, for what is asked on nobody's behalf.
    pub(crate) fn none(&self) -> PromiseId {
        PromiseId {
            index: u32::MAX,
            generation: u32::MAX,
        }
    }

    /// A new promise with a deadline, counted from the next [`stamp`](Self::stamp).
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

    /// Whether it is still to be answered, wanted or not.
    pub(crate) fn is_pending(&self, id: PromiseId) -> bool {
        self.slots.get(id.index()).is_some_and(|slot| {
            slot.generation == id.generation && matches!(slot.state, PromiseState::Pending { .. })
        })
    }

    /// How many are to be answered.
    pub(crate) fn pending(&self) -> usize {
        self.pending
    }

    /// Answers it. Gives back the reply when nobody wants it: the promise was abandoned, or
    /// answered before.
    #[inline]
    pub(crate) fn complete(&mut self, id: PromiseId, outcome: Outcome) -> Option<Reply> {
        let Some(slot) = self.complete_slot(id) else {
            return outcome.ok();
        };
        if !matches!(outcome, Ok(Reply::Done)) {
            slot.more = Some(More::Outcome(outcome).into());
        }
        None
    }

    /// Answers it with [`Reply::Done`], as most publishes are: there is nothing to dispose of.
    #[inline]
    pub(crate) fn done(&mut self, id: PromiseId) {
        self.complete_slot(id);
    }

    /// The slot of a promise that is answered now, and that somebody wants to be.
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

    /// Fetches the answer, once.
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

    /// Its holder has gone. Gives back a reply that was not fetched.
    #[inline]
    pub(crate) fn abandon(&mut self, id: PromiseId) -> Option<Reply> {
        if let Some(PromiseState::Pending { abandoned }) = self.slot(id).map(|slot| &mut slot.state)
        {
            *abandoned = true;
            return None;
        }
        self.fetch(id)?.into_outcome().ok()
    }

    /// How many [`poll_completed`](Self::poll_completed) has.
    pub(crate) fn completed(&self) -> usize {
        self.completed.len()
    }

    /// The next promise that was answered and that somebody wants.
    pub(crate) fn poll_completed(&mut self) -> Option<PromiseId> {
        self.completed.pop_front()
    }

    /// Starts the deadlines that have not been started.
    pub(crate) fn stamp(&mut self, now: Instant) {
        while let Some(id) = self.unstamped.pop() {
            if let Some(slot) = self.slot(id)
                && let Some(More::Deadline(PromiseDeadline {
                    at: at @ None,
                    timeout,
                })) = slot.more.as_deref_mut()
            {
                let deadline = later(now, *timeout);
                *at = Some(deadline);
                self.deadlines.insert((deadline, id));
            }
        }
    }

    /// Takes the deadline off a promise that has another from here on.
    pub(crate) fn remove_deadline(&mut self, id: PromiseId) {
        if let Some(at) = self.slot(id).and_then(Slot::remove_deadline) {
            self.deadlines.remove(&(at, id));
        }
    }

    /// Gives a promise so much time from the next [`stamp`](Self::stamp) on, whatever it had.
    pub(crate) fn restart_deadline(&mut self, id: PromiseId, timeout: Duration) {
        self.remove_deadline(id);
        self.set_deadline(id, timeout);
    }

    fn set_deadline(&mut self, id: PromiseId, timeout: Duration) {
        if self.is_pending(id)
            && let Some(slot) = self.slot(id)
        {
            slot.more = Some(More::Deadline(PromiseDeadline { at: None, timeout }).into());
            self.unstamped.push(id);
        }
    }

    /// The earliest deadline.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// A promise whose deadline has passed, and how much time it had. It is to be answered before
    /// the next call.
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

    /// Those that are to be answered, when all have to be.
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

    /// Whether nothing is waited for and nothing is left to be fetched.
    pub(crate) fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len() && self.deadlines.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);

    #[test]
    fn a_retimed_promise_has_one_deadline() {
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
    fn an_untimed_promise_is_not_started() {
        let mut promises = Promises::default();
        let now = Instant::now();
        let untimed = promises.open_timed(TIMEOUT);
        promises.remove_deadline(untimed);
        let completed = promises.open_timed(TIMEOUT);
        promises.done(completed);
        assert!(
            promises
                .fetch(completed)
                .is_some_and(|completion| completion.into_more().is_none())
        );
        let reused = promises.open();
        assert_eq!(reused.index, completed.index);
        promises.stamp(now);
        assert_eq!((promises.deadline(), promises.unstamped.len()), (None, 0));
    }

    #[test]
    #[cfg_attr(miri, ignore = "it takes Miri minutes")]
    fn retiming_looks_at_no_other_promise() {
        let mut promises = Promises::default();
        let ids: Vec<_> = (0..65_535).map(|_| promises.open_timed(TIMEOUT)).collect();
        // What is not looked for is not removed, either.
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
