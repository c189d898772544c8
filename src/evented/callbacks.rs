//! Callbacks: those that wait, and those that are ready to be run.
//!
//! A callback is polled only when its own waker has put it on the list of those that are ready, from whatever thread. It
//! knows nothing of the connection, which is lent to it when it runs.

use super::bell::Bell;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::{Context, Poll, Wake, Waker};

/// Names a callback, from [`Evented::on`](super::Evented::on) or [`Evented::on_each`](super::Evented::on_each).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallbackId {
    index: usize,
    generation: u64,
}

/// What is left of a callback that has run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// It may be ready again at once.
    More,
    Nothing,
}

/// Whether a callback is kept after a panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Runs {
    Once,
    AgainAfterPanic,
}

/// Polls what a callback waits for, and runs it when that is there.
pub(super) type Step<C> = Box<dyn FnMut(&mut C, &mut Context<'_>) -> Poll<Left>>;

/// A callback that has been taken out to be run.
pub(super) struct Task<C> {
    pub(super) id: CallbackId,
    pub(super) waker: Waker,
    pub(super) runs: Runs,
    pub(super) step: Step<C>,
}

enum Place<C> {
    Free,
    Waiting(Step<C>),
    /// It has been taken out.
    Running,
}

struct Slot<C> {
    generation: u64,
    waker: Waker,
    runs: Runs,
    place: Place<C>,
}

/// Puts a callback on the list of those that are ready.
struct Ready {
    index: usize,
    ready: Sender<usize>,
    bell: Arc<Bell>,
}

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Without the list there is no callback either.
        let _ = self.ready.send(self.index);
        Wake::wake_by_ref(&self.bell);
    }
}

/// The callbacks that are lent a `C` when they run.
pub(super) struct Callbacks<C> {
    slots: Vec<Slot<C>>,
    free: Vec<usize>,
    ready: Receiver<usize>,
    sender: Sender<usize>,
    /// The next that is ready, when it has been looked for already.
    next: Option<usize>,
}

impl<C> Callbacks<C> {
    pub(super) fn new() -> Self {
        let (sender, ready) = channel();
        Self { slots: Vec::new(), free: Vec::new(), ready, sender, next: None }
    }

    fn waker(&self, index: usize, bell: &Arc<Bell>) -> Waker {
        Arc::new(Ready { index, ready: self.sender.clone(), bell: bell.clone() }).into()
    }

    /// Adds one, which is ready to find out what it waits for.
    pub(super) fn add(&mut self, bell: &Arc<Bell>, runs: Runs, step: Step<C>) -> CallbackId {
        let index = self.free.pop().unwrap_or(self.slots.len());
        let waker = self.waker(index, bell);
        waker.wake_by_ref();
        let place = Place::Waiting(step);
        let generation = match self.slots.get_mut(index) {
            Some(slot) => {
                let generation = slot.generation;
                *slot = Slot { generation, waker, runs, place };
                generation
            }
            None => {
                self.slots.push(Slot { generation: 0, waker, runs, place });
                0
            }
        };
        CallbackId { index, generation }
    }

    fn slot(&mut self, id: CallbackId) -> Option<&mut Slot<C>> {
        self.slots.get_mut(id.index).filter(|slot| slot.generation == id.generation)
    }

    /// Takes out the next that is ready. It goes back with [`put_back`](Self::put_back), or is forgotten.
    pub(super) fn take_ready(&mut self) -> Option<Task<C>> {
        while let Some(index) = self.next.take().or_else(|| self.ready.try_recv().ok()) {
            let Some(slot) = self.slots.get_mut(index) else { continue };
            match std::mem::replace(&mut slot.place, Place::Running) {
                Place::Waiting(step) => {
                    let id = CallbackId { index, generation: slot.generation };
                    return Some(Task { id, waker: slot.waker.clone(), runs: slot.runs, step });
                }
                other => slot.place = other,
            }
        }
        None
    }

    /// Whether one is ready.
    pub(super) fn has_ready(&mut self) -> bool {
        self.next = self.next.take().or_else(|| self.ready.try_recv().ok());
        self.next.is_some()
    }

    /// Puts back one that has been taken out. Gives it to be dropped if it was forgotten meanwhile.
    pub(super) fn put_back(&mut self, task: Task<C>) -> Option<Task<C>> {
        match self.slot(task.id) {
            Some(slot) => {
                slot.place = Place::Waiting(task.step);
                None
            }
            None => Some(task),
        }
    }

    /// Whether it has not run for the last time yet.
    pub(super) fn is_known(&mut self, id: CallbackId) -> bool {
        self.slot(id).is_some()
    }

    /// Forgets one. Gives it to be dropped, unless it has been taken out.
    pub(super) fn forget(&mut self, id: CallbackId) -> Option<Step<C>> {
        let slot = self.slot(id)?;
        slot.generation += 1;
        let place = std::mem::replace(&mut slot.place, Place::Free);
        self.free.push(id.index);
        if let Place::Waiting(step) = place { Some(step) } else { None }
    }

    /// Has all ring another bell from here on.
    pub(super) fn rewire(&mut self, bell: &Arc<Bell>) {
        for index in 0..self.slots.len() {
            let waker = self.waker(index, bell);
            if let Some(slot) = self.slots.get_mut(index) {
                waker.wake_by_ref();
                slot.waker = waker;
            }
        }
    }
}
