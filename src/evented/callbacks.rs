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

/// What to do with a callback after it ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterRun {
    /// Run it again soon: it may be ready again, without another wake.
    RunAgain,
    Remove,
}

/// What to do with a callback after it panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterPanic {
    RunAgain,
    Remove,
}

/// Polls the future or consumer of a callback, and runs the callback if that is ready.
pub(super) type Step<C> = Box<dyn FnMut(&mut C, &mut Context<'_>) -> Poll<AfterRun>>;

/// A callback taken out of its slot to be run.
pub(super) struct Task<C> {
    pub(super) id: CallbackId,
    pub(super) waker: Waker,
    pub(super) after_panic: AfterPanic,
    pub(super) step: Step<C>,
}

/// The state of a slot.
enum SlotState<C> {
    Free,
    Waiting(Step<C>),
    /// The step is in a [`Task`].
    Running,
}

/// A place for a callback. It is used again after the callback was removed.
struct Slot<C> {
    /// The number of callbacks that were removed from this slot.
    generation: u64,
    waker: Waker,
    after_panic: AfterPanic,
    state: SlotState<C>,
}

/// The waker of a callback: queues the callback as ready, and wakes the thread.
struct CallbackWaker {
    index: usize,
    ready: Sender<usize>,
    thread_waker: Arc<ThreadWaker>,
}

impl Wake for CallbackWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // A send fails only if the receiver, and with it the callback, was dropped.
        let _ = self.ready.send(self.index);
        Wake::wake_by_ref(&self.thread_waker);
    }
}

/// Callbacks that receive a `&mut C` when they run.
pub(super) struct Callbacks<C> {
    slots: Vec<Slot<C>>,
    /// The indexes of free slots.
    free: Vec<usize>,
    /// The indexes of ready callbacks, and of some that were removed since.
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

    fn waker(&self, index: usize, thread_waker: &Arc<ThreadWaker>) -> Waker {
        Arc::new(CallbackWaker {
            index,
            ready: self.sender.clone(),
            thread_waker: thread_waker.clone(),
        })
        .into()
    }

    /// Adds a callback. It is ready at once, because its first poll registers its waker.
    pub(super) fn add(
        &mut self,
        thread_waker: &Arc<ThreadWaker>,
        after_panic: AfterPanic,
        step: Step<C>,
    ) -> CallbackId {
        let index = self.free.pop().unwrap_or(self.slots.len());
        let waker = self.waker(index, thread_waker);
        waker.wake_by_ref();
        let state = SlotState::Waiting(step);
        let generation = match self.slots.get_mut(index) {
            Some(slot) => {
                let generation = slot.generation;
                *slot = Slot {
                    generation,
                    waker,
                    after_panic,
                    state,
                };
                generation
            }
            None => {
                self.slots.push(Slot {
                    generation: 0,
                    waker,
                    after_panic,
                    state,
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
    /// with [`remove`](Self::remove).
    pub(super) fn take_ready(&mut self) -> Option<Task<C>> {
        while let Some(index) = self.next.take().or_else(|| self.ready.try_recv().ok()) {
            let Some(slot) = self.slots.get_mut(index) else {
                // Unreachable: slots are never removed.
                continue;
            };
            match std::mem::replace(&mut slot.state, SlotState::Running) {
                SlotState::Waiting(step) => {
                    let id = CallbackId {
                        index,
                        generation: slot.generation,
                    };
                    return Some(Task {
                        id,
                        waker: slot.waker.clone(),
                        after_panic: slot.after_panic,
                        step,
                    });
                }
                // The callback was removed, or is running and has woken itself.
                other => slot.state = other,
            }
        }
        None
    }

    /// Returns `true` if a callback is ready.
    pub(super) fn has_ready(&mut self) -> bool {
        self.next = self.next.take().or_else(|| self.ready.try_recv().ok());
        self.next.is_some()
    }

    /// Puts a callback back into its slot. Returns the callback if it was removed while it ran. The
    /// caller drops it: its `Drop` is the user's code and may panic, and `self` is not borrowed
    /// then.
    pub(super) fn put_back(&mut self, task: Task<C>) -> Option<Task<C>> {
        match self.slot(task.id) {
            Some(slot) => {
                slot.state = SlotState::Waiting(task.step);
                None
            }
            None => Some(task),
        }
    }

    /// Returns `true` if the callback is registered, so it may still run.
    pub(super) fn is_registered(&mut self, id: CallbackId) -> bool {
        self.slot(id).is_some()
    }

    /// Removes a callback. Returns its step unless it is running. The caller drops the step, as
    /// that of [`put_back`](Self::put_back).
    pub(super) fn remove(&mut self, id: CallbackId) -> Option<Step<C>> {
        let slot = self.slot(id)?;
        slot.generation += 1;
        let state = std::mem::replace(&mut slot.state, SlotState::Free);
        self.free.push(id.index);
        if let SlotState::Waiting(step) = state {
            Some(step)
        } else {
            None
        }
    }

    /// Replaces the thread waker of all callbacks, and queues all of them as ready. Their next poll
    /// registers the new waker.
    pub(super) fn set_thread_waker(&mut self, thread_waker: &Arc<ThreadWaker>) {
        for index in 0..self.slots.len() {
            let waker = self.waker(index, thread_waker);
            if let Some(slot) = self.slots.get_mut(index) {
                waker.wake_by_ref();
                slot.waker = waker;
            }
        }
    }
}
