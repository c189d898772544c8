//! The link between those who ask and what drives: one lock around the machine and the wakers of whoever waits on it.
//!
//! Nothing is awaited, woken or called back while the lock is held.

use crate::error::Error;
use crate::machine::{
    Answer, Connection, ConsumerId, Delivered, Ended, Event, FilterStep, ListenerId, LoginStep, Notice,
    PromiseId, Ticket,
};
#[cfg(shuttle)]
use shuttle::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU32, Ordering},
};
use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, PoisonError};
#[cfg(not(shuttle))]
use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU32, Ordering},
};
use std::task::{Context, Poll, Waker};

/// What a request needs room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    Request,
    Publish,
    /// Publishing within a transaction.
    Transact,
}

impl Room {
    /// What is waited for, for the error when it takes too long.
    fn wait(self) -> &'static str {
        match self {
            Self::Request => "waiting for capacity to send a request",
            Self::Publish => "waiting for capacity to publish",
            Self::Transact => "waiting for capacity to publish in a transaction",
        }
    }
}

/// After so many octets, who sends lets others run: an executor with one thread would not get to the driver before there is no
/// more room, which takes milliseconds.
const GIVE_WAY: usize = 256 << 10;

/// After so many deliveries, who takes them lets others run: their acknowledgements would not be sent before there are no more,
/// and the broker would wait for them.
const GIVE_WAY_TAKING: usize = 512;

/// As how many octets something counts that is sent, however small it is: a thousand of them take as long as others may wait.
const LEAST: usize = 256;

/// The machine, shared by the driver and the handles.
#[derive(Debug)]
pub(crate) struct Link {
    state: Mutex<State>,
    /// The machine's epoch, for those who only have to know whether it has changed.
    epoch: AtomicU32,
}

#[derive(Debug)]
struct State {
    machine: Connection,
    driver: Option<Waker>,
    /// By the number of the promise.
    promises: Vec<Option<Waker>>,
    /// By the number of the consumer.
    consumers: Vec<Option<Waker>>,
    listeners: BTreeMap<ListenerId, Waker>,
    /// Those who wait for room, in the order in which they came.
    requesting: BTreeMap<Ticket, Waker>,
    publishing: BTreeMap<Ticket, Waker>,
    transacting: BTreeMap<Ticket, Waker>,
    /// How many octets were sent since somebody gave way.
    sent: usize,
    /// How many deliveries were taken since somebody gave way.
    taken: usize,
}

/// Code of the user's, to be run when the lock is released.
#[derive(Debug)]
enum UsersCode {
    Login(LoginStep),
    Filter(FilterStep),
}

/// A panic of the user's code.
type Panic = Box<dyn Any + Send>;

/// Who is to be woken when the lock is released, and what of the user's is to be run then.
#[derive(Debug, Default)]
struct Woken {
    driver: Option<Waker>,
    /// Most often there is one, which needs no allocation.
    first: Option<Waker>,
    others: Vec<Waker>,
    users: Option<UsersCode>,
}

impl Woken {
    fn add(&mut self, waker: Option<Waker>) {
        if self.first.is_none() {
            self.first = waker;
        } else {
            self.others.extend(waker);
        }
    }

    /// Wakes the tasks. Returns the user's code that is run next, and the first panic of a waker, which is resumed at the end: a
    /// waker that panics must not keep other tasks asleep.
    fn wake(self) -> (Option<UsersCode>, Option<Panic>) {
        let mut panic = None;
        for waker in self.first.into_iter().chain(self.others).chain(self.driver) {
            if let Err(caught) = catch_unwind(AssertUnwindSafe(|| waker.wake())) {
                panic.get_or_insert(caught);
            }
        }
        (self.users, panic)
    }
}

impl State {
    /// Whether nobody is to be woken, as is the case most often.
    fn is_quiet(&self) -> bool {
        !self.machine.has_event()
            && self.requesting.is_empty()
            && self.publishing.is_empty()
            && self.transacting.is_empty()
            && (self.driver.is_none() || !self.machine.wants_attention())
    }

    #[cold]
    fn woken(&mut self) -> Woken {
        let mut woken = Woken::default();
        while let Some(event) = self.machine.poll_event() {
            woken.add(match event {
                Event::Answered(promise) => self.promises.get_mut(promise.index()).and_then(Option::take),
                Event::Deliveries(consumer) => {
                    self.consumers.get_mut(consumer.index()).and_then(Option::take)
                }
                Event::Notices(listener) => self.listeners.remove(&listener),
            });
        }
        while let Some(ticket) = self.machine.poll_expired_wait() {
            for waiting in [&mut self.requesting, &mut self.publishing, &mut self.transacting] {
                woken.add(waiting.remove(&ticket));
            }
        }
        // One at a time: it sends, and so makes room for the next to be looked for.
        let closed = self.machine.why_closed().is_some();
        if !self.requesting.is_empty() && (closed || self.machine.has_room_to_request()) {
            woken.add(self.requesting.pop_first().map(|(_, waker)| waker));
        }
        if !self.publishing.is_empty() && (closed || self.machine.has_room_to_publish()) {
            woken.add(self.publishing.pop_first().map(|(_, waker)| waker));
        }
        if !self.transacting.is_empty() && (closed || self.machine.has_room_to_transact()) {
            woken.add(self.transacting.pop_first().map(|(_, waker)| waker));
        }
        if self.machine.wants_attention() {
            woken.driver = self.driver.take();
        }
        let login = self.machine.poll_login().map(UsersCode::Login);
        woken.users = login.or_else(|| self.machine.poll_filter().map(UsersCode::Filter));
        woken
    }

    /// Ends a wait for capacity. Returns the waker, to be dropped when the lock is released.
    fn leave(&mut self, room: Room, ticket: Ticket) -> Option<Waker> {
        self.machine.end_wait(ticket);
        self.waiting_for(room).remove(&ticket)
    }

    fn waiting_for(&mut self, room: Room) -> &mut BTreeMap<Ticket, Waker> {
        match room {
            Room::Request => &mut self.requesting,
            Room::Publish => &mut self.publishing,
            Room::Transact => &mut self.transacting,
        }
    }
}

impl Link {
    pub(crate) fn new(machine: Connection) -> Arc<Self> {
        let epoch = machine.epoch().into();
        let state = Mutex::new(State {
            machine,
            driver: None,
            promises: Vec::new(),
            consumers: Vec::new(),
            listeners: BTreeMap::new(),
            requesting: BTreeMap::new(),
            publishing: BTreeMap::new(),
            transacting: BTreeMap::new(),
            sent: 0,
            taken: 0,
        });
        Arc::new(Self { state, epoch })
    }

    #[inline]
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Releases the lock, then wakes whom it concerns what was done.
    #[inline]
    fn release(&self, state: MutexGuard<'_, State>) {
        self.epoch.store(state.machine.epoch(), Ordering::Relaxed);
        if !state.is_quiet() {
            self.release_and_wake(state);
        }
    }

    #[cold]
    fn release_and_wake(&self, mut state: MutexGuard<'_, State>) {
        let woken = state.woken();
        drop(state);
        let (mut users, mut panic) = woken.wake();
        while let Some(code) = users {
            let mut state = match code {
                UsersCode::Login(step) => {
                    let outcome = step.run();
                    let mut state = self.lock();
                    state.machine.handle_login(outcome);
                    state
                }
                UsersCode::Filter(step) => {
                    let outcome = step.run();
                    let mut state = self.lock();
                    state.machine.handle_filter(outcome);
                    state
                }
            };
            let woken = state.woken();
            drop(state);
            let (next, caught) = woken.wake();
            users = next;
            panic = panic.or(caught);
        }
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    #[inline]
    fn with_state<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.lock();
        let result = act(&mut state);
        self.release(state);
        result
    }

    /// Does something with the machine, then wakes whom it concerns.
    pub(crate) fn with<R>(&self, act: impl FnOnce(&mut Connection) -> R) -> R {
        self.with_state(|state| act(&mut state.machine))
    }

    /// Which connection deliveries have to be of to be settled. It may be a moment late.
    pub(crate) fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Relaxed)
    }

    /// Puts the driver to sleep. False when there is something to do instead.
    pub(crate) fn sleep(&self, waker: &Waker) -> bool {
        let mut state = self.lock();
        if state.machine.wants_attention() {
            return false;
        }
        let unused = replace(&mut state.driver, waker);
        drop(state);
        drop(unused);
        true
    }

    /// The answer to a promise, once.
    pub(crate) fn poll_promise(&self, promise: PromiseId, cx: &mut Context<'_>) -> Poll<Answer> {
        let mut state = self.lock();
        if let Some(answer) = state.machine.fetch_answer(promise) {
            return Poll::Ready(answer);
        }
        let unused = keep(&mut state.promises, promise.index(), cx.waker());
        drop(state);
        drop(unused);
        Poll::Pending
    }

    /// Nobody waits for that promise any more.
    pub(crate) fn abandon(&self, promise: PromiseId) {
        let unused = self.with_state(|state| {
            state.machine.abandon(promise);
            state.promises.get_mut(promise.index()).and_then(Option::take)
        });
        drop(unused);
    }

    /// Sends a request, or waits until there is room for it. The ticket is the place among those who wait.
    pub(crate) fn poll_send(
        &self,
        room: Room,
        ticket: &mut Option<Ticket>,
        cx: &mut Context<'_>,
        send: impl FnOnce(&mut Connection) -> Result<PromiseId, Error>,
    ) -> Poll<Result<PromiseId, Error>> {
        let mut state = self.lock();
        if state.sent > GIVE_WAY {
            state.sent = 0;
            self.release(state);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = state.machine.outgoing_octets();
        let mut sent = send(&mut state.machine);
        state.sent += state.machine.outgoing_octets().saturating_sub(before).max(LEAST);
        let unused = if matches!(sent, Err(Error::Full)) {
            let place = *ticket.get_or_insert_with(|| state.machine.begin_wait());
            match state.machine.check_wait(place, room.wait()) {
                Ok(()) => state.waiting_for(room).insert(place, cx.waker().clone()),
                Err(timeout) => {
                    sent = Err(timeout);
                    *ticket = None;
                    state.waiting_for(room).remove(&place)
                }
            }
        } else {
            ticket.take().and_then(|ticket| state.leave(room, ticket))
        };
        self.release(state);
        drop(unused);
        match sent {
            // Most often, and far smaller than an error.
            Ok(promise) => Poll::Ready(Ok(promise)),
            Err(Error::Full) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Gives up a place among those who wait for room. If it was its turn, it is the next one's.
    pub(crate) fn leave(&self, room: Room, ticket: Ticket) {
        let unused = self.with_state(|state| state.leave(room, ticket));
        drop(unused);
    }

    /// Takes up to so many deliveries. Ready without any when the consumer has ended.
    pub(crate) fn poll_deliveries(
        &self,
        consumer: ConsumerId,
        most: usize,
        into: &mut VecDeque<Delivered>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Ended>> {
        let mut state = self.lock();
        if state.taken >= GIVE_WAY_TAKING {
            state.taken = 0;
            if state.machine.wants_attention() {
                self.release(state);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        state.machine.take_deliveries(consumer, most, into);
        state.taken += into.len();
        let mut unused = None;
        let polled = if !into.is_empty() {
            Poll::Ready(None)
        } else if let Some(ended) = state.machine.ended(consumer) {
            Poll::Ready(Some(ended.clone()))
        } else {
            unused = keep(&mut state.consumers, consumer.index(), cx.waker());
            Poll::Pending
        };
        self.release(state);
        drop(unused);
        polled
    }

    /// The next notice for a listener.
    pub(crate) fn poll_notice(&self, listener: ListenerId, cx: &mut Context<'_>) -> Poll<Notice> {
        let mut state = self.lock();
        if let Some(notice) = state.machine.take_notice(listener) {
            return Poll::Ready(notice);
        }
        let unused = state.listeners.insert(listener, cx.waker().clone());
        drop(state);
        drop(unused);
        Poll::Pending
    }

    /// Nobody listens there any more.
    pub(crate) fn stop_listening(&self, listener: ListenerId) {
        let waker = {
            let mut state = self.lock();
            state.machine.stop_listening(listener);
            state.listeners.remove(&listener)
        };
        drop(waker);
    }

    /// Nobody holds that consumer any more.
    pub(crate) fn drop_consumer(&self, consumer: ConsumerId, taken: &VecDeque<Delivered>) {
        let unused = self.with_state(|state| {
            taken.iter().for_each(|delivered| state.machine.return_later(delivered));
            state.machine.drop_consumer(consumer);
            state.consumers.get_mut(consumer.index()).and_then(Option::take)
        });
        drop(unused);
    }
}

/// Keeps a waker under a number. Gives the one before, to be dropped when the lock is released: with it the task that it would have
/// woken may go.
#[must_use]
fn keep(wakers: &mut Vec<Option<Waker>>, number: usize, waker: &Waker) -> Option<Waker> {
    if wakers.len() <= number {
        wakers.resize_with(number + 1, || None);
    }
    replace(wakers.get_mut(number)?, waker)
}

/// Keeps a waker that wakes the same task, instead of cloning another. Gives the one before.
#[must_use]
fn replace(place: &mut Option<Waker>, waker: &Waker) -> Option<Waker> {
    match place {
        Some(kept) if kept.will_wake(waker) => None,
        _ => place.replace(waker.clone()),
    }
}
