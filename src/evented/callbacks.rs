//! The registered callbacks, and the queue of those that are ready.
//!
//! A callback is polled only after its own waker has queued it, from any thread. It has no
//! reference to the connection, but receives one as an argument.

use super::waker::ThreadWaker;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::{Context, Poll, Wake, Waker};

/// Identifies a callback registered by [`Evented::on`](super::Evented::on) or
/// [`Evented::on_each`](super::Evented::on_each).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallbackId {
    index: usize,
    generation: u64,
}

/// The state of a callback after a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// It stays registered, and may be ready again at once.
    More,
    Nothing,
}

/// Whether a callback stays registered after a panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Runs {
    Once,
    AgainAfterPanic,
}

/// Polls the future or consumer of a callback, and runs the callback if that is ready.
pub(super) type Step<C> = Box<dyn FnMut(&mut C, &mut Context<'_>) -> Poll<Left>>;

/// A callback taken out of its slot to be run.
pub(super) struct Task<C> {
    pub(super) id: CallbackId,
    pub(super) waker: Waker,
    pub(super) runs: Runs,
    pub(super) step: Step<C>,
}

enum Place<C> {
    Free,
    Waiting(Step<C>),
    /// The step is in a [`Task`].
    Running,
}

struct Slot<C> {
    generation: u64,
    waker: Waker,
    runs: Runs,
    place: Place<C>,
}

/// A waker that queues a callback as ready.
struct Ready {
    index: usize,
    ready: Sender<usize>,
    bell: Arc<ThreadWaker>,
}

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // A send fails only if the receiver, and with it the callback, was dropped.
        let _ = self.ready.send(self.index);
        Wake::wake_by_ref(&self.bell);
    }
}

/// Callbacks that receive a `&mut C` when they run.
pub(super) struct Callbacks<C> {
    slots: Vec<Slot<C>>,
    free: Vec<usize>,
    ready: Receiver<usize>,
    sender: Sender<usize>,
    /// The next ready callback, if [`has_ready`](Self::has_ready) has already received it.
    next: Option<usize>,
}

impl<C> Callbacks<C> {
    pub(super) fn new() -> Self {
        let (sender, ready) = channel();
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            ready,
            sender,
            next: None,
        }
    }

    fn waker(&self, index: usize, bell: &Arc<ThreadWaker>) -> Waker {
        Arc::new(Ready {
            index,
            ready: self.sender.clone(),
            bell: bell.clone(),
        })
        .into()
    }

    /// Adds a callback. It is ready at once, because its first poll registers its waker.
    pub(super) fn add(&mut self, bell: &Arc<ThreadWaker>, runs: Runs, step: Step<C>) -> CallbackId {
        let index = self.free.pop().unwrap_or(self.slots.len());
        let waker = self.waker(index, bell);
        waker.wake_by_ref();
        let place = Place::Waiting(step);
        let generation = match self.slots.get_mut(index) {
            Some(slot) => {
                let generation = slot.generation;
                *slot = Slot {
                    generation,
                    waker,
                    runs,
                    place,
                };
                generation
            }
            None => {
                self.slots.push(Slot {
                    generation: 0,
                    waker,
                    runs,
                    place,
                });
                0
            }
        };
        CallbackId { index, generation }
    }

    fn slot(&mut self, id: CallbackId) -> Option<&mut Slot<C>> {
        self.slots
            .get_mut(id.index)
            .filter(|slot| slot.generation == id.generation)
    }

    /// Takes out the next ready callback. Return it with [`put_back`](Self::put_back), or remove it
    /// with [`forget`](Self::forget).
    pub(super) fn take_ready(&mut self) -> Option<Task<C>> {
        while let Some(index) = self.next.take().or_else(|| self.ready.try_recv().ok()) {
            let Some(slot) = self.slots.get_mut(index) else {
                continue;
            };
            match std::mem::replace(&mut slot.place, Place::Running) {
                Place::Waiting(step) => {
                    let id = CallbackId {
                        index,
                        generation: slot.generation,
                    };
                    return Some(Task {
                        id,
                        waker: slot.waker.clone(),
                        runs: slot.runs,
                        step,
                    });
                }
                other => slot.place = other,
            }
        }
        None
    }

    /// Returns `true` if a callback is ready.
    pub(super) fn has_ready(&mut self) -> bool {
        self.next = self.next.take().or_else(|| self.ready.try_recv().ok());
        self.next.is_some()
    }

    /// Puts a callback back into its slot. Returns it, to be dropped by the caller, if it was
    /// removed while it ran.
    pub(super) fn put_back(&mut self, task: Task<C>) -> Option<Task<C>> {
        match self.slot(task.id) {
            Some(slot) => {
                slot.place = Place::Waiting(task.step);
                None
            }
            None => Some(task),
        }
    }

    /// Returns `true` if the callback is registered: it may still run.
    pub(super) fn is_known(&mut self, id: CallbackId) -> bool {
        self.slot(id).is_some()
    }

    /// Removes a callback. Returns its step, to be dropped by the caller, unless it is running.
    pub(super) fn forget(&mut self, id: CallbackId) -> Option<Step<C>> {
        let slot = self.slot(id)?;
        slot.generation += 1;
        let place = std::mem::replace(&mut slot.place, Place::Free);
        self.free.push(id.index);
        if let Place::Waiting(step) = place {
            Some(step)
        } else {
            None
        }
    }

    /// Connects all callbacks to another bell.
    pub(super) fn rewire(&mut self, bell: &Arc<ThreadWaker>) {
        for index in 0..self.slots.len() {
            let waker = self.waker(index, bell);
            if let Some(slot) = self.slots.get_mut(index) {
                waker.wake_by_ref();
                slot.waker = waker;
            }
        }
    }
}
