//! The connection as a whole: what comes in, what goes out, what time does to it.

mod blaming;
mod calling;
mod closing;
mod consuming;
mod ending;
mod inspection;
mod listening;
mod pausing;
mod publishing;
mod receiving;
mod recovering;
mod requesting;
mod requeuing;
mod restoring;
mod settling;
mod timing;
mod transacting;

use super::backoff::Backoff;
use super::call_ids::CallIds;
use super::capacity::Waits;
use super::channels::Channels;
use super::consumers::Consumers;
use super::deadline::{Deadline, later};
use super::down::Down;
use super::filtering::FilterStep;
use super::handshake::Handshake;
use super::heartbeat::Heartbeat;
use super::lanes::Lanes;
use super::notices::Notices;
use super::outbox::Outbox;
use super::promises::{Answer, Promises};
use super::publishers::Publishers;
use super::quarantine::Quarantine;
use super::reading::Reading;
use super::requested::WaitingRequest;
use super::restoration::Restoration;
use super::resubscription::Resubscription;
use super::topology::Topology;
use super::transactions::Transactions;
use super::waiting::WaitingConsume;
use super::{ConsumerId, Counters, ListenerId, Outgoing, PromiseId, Reply, ServerProperties};
use crate::error::Error;
use crate::options::Options;
use crate::protocol::Decoder;
use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// Something that whoever waits should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A promise is answered: [`Connection::fetch`] gives the answer. It is not told of one that was answered when it was given out,
    /// as that of a publish without a confirm or within a transaction may be.
    Answered(PromiseId),
    /// A consumer has deliveries, or has ended: [`Connection::take_deliveries`], [`Connection::ended`].
    Deliveries(ConsumerId),
    /// A listener has notices: [`Connection::take_notice`].
    Notices(ListenerId),
}

/// Which it is has an octet of its own, because it is asked at every step.
#[derive(Debug)]
#[repr(u8)]
enum State {
    /// There is no transport, and another is to be dialled.
    Down(Down),
    Handshake(Handshake),
    /// Everything that the connection had before it was lost is brought back.
    Restoring,
    Open,
    /// The program has asked to close the connection, and what is pending may still complete.
    Draining,
    /// `connection.close` is sent; everything but `close` and `close-ok` is discarded.
    Closing,
    /// Nothing more comes in. What is left to go out is on its way.
    Closed,
}

/// A connection without its transport.
#[derive(Debug)]
pub struct Connection {
    options: Options,
    state: State,
    /// Why it is closing or closed.
    why: Option<Error>,
    /// Why it was lost, until it is open again.
    cause: Option<Error>,
    /// When and whether to dial again; none when there is but one transport.
    backoff: Option<Backoff>,
    topology: Topology,
    /// Listeners have received the last notice.
    is_closed_told: bool,
    /// It was told that not all is remembered.
    is_full_told: bool,
    restoration: Option<Restoration>,
    resubscription: Resubscription,
    quarantine: Quarantine,
    /// Entities to pass to the user's filter.
    filtering: Option<FilterStep>,
    /// A request that may have closed an earlier connection. While it is pending, no other such
    /// request is sent.
    trial: Option<PromiseId>,
    /// When bringing everything back has gone on for too long without an answer.
    restore_deadline: Deadline,
    /// Which of the endpoints it is connected to, or is to begin with.
    endpoint: usize,
    /// The endpoint at which dialling began.
    first_endpoint: usize,
    /// Which transport this is, or will be, counted from 1: what another brought can't be settled.
    epoch: u32,
    /// The options say that nobody reads the transport, whatever it is.
    says_encrypted: bool,
    /// The time as last told.
    now: Instant,
    /// The octets that came make no sense, so what follows them can't either.
    deaf: bool,
    frame_max: u32,
    server: ServerProperties,
    /// Whose name the broker knows us by, when that can be told.
    username: Option<String>,
    heartbeat: Heartbeat,
    handshake_deadline: Instant,
    /// When what is under way is not waited for any longer.
    drain_deadline: Deadline,
    /// When closing, `close-ok` and the last octets included, is not waited for any longer.
    close_deadline: Deadline,
    out: Outbox,
    /// Octets that the transport was given and has not taken.
    in_hand: usize,
    last_progress: Instant,
    channels: Channels,
    promises: Promises,
    publishers: Publishers,
    call_ids: CallIds,
    consumers: Consumers,
    transactions: Transactions,
    /// Publishes that are sent again. An earlier attempt may have been taken, so an error does not
    /// prove that the broker does not have the message.
    republished: BTreeSet<PromiseId>,
    notices: Notices,
    /// Replies whose promise was abandoned. `proceed` disposes of them.
    unwanted: VecDeque<Reply>,
    /// Without the deliveries that were lost since it last became open.
    counters: Counters,
    /// Who waits for `update-secret-ok`, in the order in which they asked.
    updating_secret: VecDeque<PromiseId>,
    /// Who waits for the connection to be open, and to be closed.
    connecting: Vec<PromiseId>,
    /// The number of entries at which abandoned ones are removed.
    most_connecting: usize,
    closing: Vec<PromiseId>,
    /// The number of promises that a close could not wait for.
    incomplete: usize,
    requests: VecDeque<WaitingRequest>,
    request_octets: usize,
    consumes: VecDeque<WaitingConsume>,
    held: Lanes,
    /// Tasks that wait for capacity.
    waits: Waits,
    /// Channels with acknowledgements to write.
    acking: Vec<u16>,
    blocked: Option<Box<str>>,
    reading: Reading,
    /// Whoever drives should look at what there is to do.
    attention: bool,
    /// A channel has become free, so queued work may start: [`proceed`](Self::proceed) is to be
    /// called before the call returns.
    may_start: bool,
    scratch: Vec<u8>,
    /// A place for what comes in front of a content's header.
    spare: Vec<u8>,
}

/// How long the last octets may take once nothing more comes in.
const LAST_OCTETS: Duration = Duration::from_secs(1);

/// Octets that may wait to be written whatever the options say.
const LEAST_OUTGOING: usize = 64 << 10;

impl Connection {
    /// A connection that begins its handshake, which has to be done in the time that the options say.
    #[must_use]
    pub fn new(now: Instant, options: Options) -> Self {
        let mut out = Outbox::default();
        let frame_max = options.limits.frame_max;
        let refused = options.check().err();
        let state = match refused {
            Some(_) => State::Closed,
            None => State::Handshake(Handshake::begin(&mut out)),
        };
        Self {
            state,
            why: refused,
            cause: None,
            backoff: None,
            topology: Topology::default(),
            is_closed_told: false,
            is_full_told: false,
            restoration: None,
            resubscription: Resubscription::default(),
            quarantine: Quarantine::default(),
            filtering: None,
            trial: None,
            restore_deadline: Deadline::None,
            endpoint: 0,
            first_endpoint: 0,
            epoch: 1,
            says_encrypted: options.login.encrypted_transport,
            now,
            deaf: false,
            frame_max: if frame_max == 0 { 131_072 } else { frame_max },
            server: ServerProperties::default(),
            username: options.login.username().map(str::to_owned),
            heartbeat: Heartbeat::none(now),
            handshake_deadline: later(now, options.deadlines.handshake),
            drain_deadline: Deadline::None,
            close_deadline: Deadline::None,
            out,
            in_hand: 0,
            last_progress: now,
            channels: Channels::default(),
            promises: Promises::default(),
            publishers: Publishers::default(),
            call_ids: CallIds::default(),
            consumers: Consumers::default(),
            counters: Counters::default(),
            transactions: Transactions::default(),
            republished: BTreeSet::new(),
            notices: Notices::default(),
            unwanted: VecDeque::new(),
            connecting: Vec::new(),
            most_connecting: 0,
            updating_secret: VecDeque::new(),
            closing: Vec::new(),
            incomplete: 0,
            requests: VecDeque::new(),
            request_octets: 0,
            consumes: VecDeque::new(),
            held: Lanes::default(),
            waits: Waits::default(),
            acking: Vec::new(),
            blocked: None,
            reading: Reading::new(options.limits.buffered_deliveries, options.limits.buffered_octets),
            attention: true,
            may_start: false,
            scratch: Vec::new(),
            spare: Vec::new(),
            options,
        }
    }

    /// Records that bytes arrived of which the decoder has none yet, such as a part of a TLS record.
    /// "Any sent octet is a valid substitute for a heartbeat" (4.2.7).
    pub fn handle_partial_input(&mut self, now: Instant) {
        self.now = now;
        self.heartbeat.received(now);
    }

    /// Takes in what the decoder has. Call it when octets came, also when they make no whole frame: they are a sign of
    /// life.
    pub fn handle_input(&mut self, now: Instant, decoder: &mut Decoder) {
        self.handle_partial_input(now);
        while !self.deaf && !matches!(self.state, State::Closed | State::Down(_)) {
            let was_open = matches!(self.state, State::Open);
            match decoder.next_frame() {
                Ok(Some(frame)) => {
                    if let Err(error) = self.receive(now, frame) {
                        self.fail(error);
                    }
                    if !was_open && let Some(frame_max) = self.decoder_frame_max() {
                        decoder.set_frame_max(frame_max);
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    self.deaf = true;
                    self.fail_undecodable(error, decoder.pending());
                }
            }
        }
        self.proceed();
    }

    /// Gives what is to be written next, behind what `out` holds. True when there was something. It gives little at a time, so
    /// that what is asked for meanwhile does not stand behind all there is: ask again when it is written.
    pub fn poll_transmit(&mut self, now: Instant, out: &mut Outgoing) -> bool {
        self.stamp(now);
        self.attention = false;
        self.flush_acks();
        if self.heartbeat.is_due(now)
            && self.out.is_empty()
            && !matches!(self.state, State::Closed | State::Down(_))
        {
            self.out.heartbeat();
        }
        if self.out.is_empty() {
            return false;
        }
        if self.in_hand == 0 {
            self.last_progress = now;
        }
        // Also when it has enough in its hands: they are the sign of life.
        self.heartbeat.sent(now);
        let octets = self.out.give(self.in_hand, self.is_closed() || self.is_down(), out);
        self.in_hand += octets;
        octets > 0
    }

    /// Tells that the transport has taken so many of the octets it was given.
    pub fn handle_transmitted(&mut self, now: Instant, octets: usize) {
        self.in_hand = self.in_hand.saturating_sub(octets);
        self.last_progress = now;
        self.attention |= !self.out.is_empty();
    }

    /// Whether [`poll_transmit`](Self::poll_transmit) has something, acknowledgements that are still gathered apart.
    pub(crate) fn has_output(&self) -> bool {
        !self.out.is_empty()
    }

    /// Whether to read. Not while too many deliveries wait to be taken.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        // What comes then is no delivery, or is dropped.
        let closing = self.is_closing() || matches!(self.state, State::Handshake(_) | State::Closing);
        // A peer that asks and asks and never reads our answers is not listened to either.
        let most = self.options.limits.outgoing_octets.saturating_mul(2).max(LEAST_OUTGOING);
        let answers_leave = self.out.len() + self.in_hand < most;
        let has_transport = !matches!(self.state, State::Closed | State::Down(_));
        (self.reading.is_on() || closing) && answers_leave && !self.deaf && has_transport
    }

    /// Asks to be told when the connection is open.
    pub fn connect(&mut self) -> PromiseId {
        let promise = self.promises.open();
        match (&self.state, &self.why) {
            (_, Some(error)) => {
                let error = error.clone();
                self.answer(promise, Err(error));
            }
            (State::Down(_) | State::Handshake(_) | State::Restoring, None) if self.is_closing() => {
                self.answer(promise, Err(Error::Closed));
            }
            (State::Down(_) | State::Handshake(_) | State::Restoring, None) => {
                self.forget_abandoned_connects();
                self.connecting.push(promise);
            }
            (_, None) => {
                let server = Box::new(self.server.clone());
                self.answer(promise, Ok(Reply::Connected(server)));
            }
        }
        promise
    }

    /// Fetches the answer to a promise, once.
    #[inline]
    pub fn fetch(&mut self, promise: PromiseId) -> Option<Result<Reply, Error>> {
        self.fetch_answer(promise).map(Answer::into_outcome)
    }

    /// The same, to be looked at later.
    #[inline]
    pub(crate) fn fetch_answer(&mut self, promise: PromiseId) -> Option<Answer> {
        self.promises.fetch(promise)
    }

    /// Tells that nobody waits for that promise any more. What it asked for is done all the same; a message that it gets
    /// goes back to its queue, a consumer that it starts is cancelled.
    #[inline]
    pub fn abandon(&mut self, promise: PromiseId) {
        if let Some(reply) = self.promises.abandon(promise) {
            self.dispose(reply);
            // A consumer that was not fetched may have had all buffered deliveries.
            self.proceed_if_needed();
        }
    }

    /// A promise with a deadline, which starts when the driver has looked.
    fn timed_promise(&mut self) -> PromiseId {
        self.attention = true;
        self.promises.open_timed(self.options.deadlines.request)
    }

    /// Opens a promise with a deadline that counts towards `max_requests`. It is for requests that
    /// are written at once and may be repeated any number of times before the broker replies.
    fn counted_promise(&mut self) -> PromiseId {
        self.attention = true;
        self.promises.open_request(self.options.deadlines.request)
    }

    /// Completes abandoned promises of `connect`. Otherwise a program that calls it again and again
    /// while there is no broker would add promises without limit. It runs when their number has
    /// doubled since the last time, so each call looks at two of them on average.
    fn forget_abandoned_connects(&mut self) {
        if self.connecting.len() < self.most_connecting {
            return;
        }
        let promises = &self.promises;
        let (wanted, abandoned) =
            std::mem::take(&mut self.connecting).into_iter().partition(|it| promises.is_wanted(*it));
        self.connecting = wanted;
        self.most_connecting = 2 * self.connecting.len().max(8);
        let abandoned: Vec<PromiseId> = abandoned;
        for promise in abandoned {
            self.answer(promise, Ok(Reply::Done));
        }
    }

    fn answer(&mut self, promise: PromiseId, mut outcome: Result<Reply, Error>) {
        if !self.republished.is_empty()
            && self.republished.remove(&promise)
            && let Err(error) = outcome
        {
            outcome = Err(error.into_unconfirmed());
        }
        if matches!(outcome, Err(Error::Unconfirmed(_))) && self.promises.is_waiting(promise) {
            self.counters.unconfirmed += 1;
        }
        // Disposing of a reply may complete further promises, so only `proceed` does it, and
        // completing a promise never recurses. On a closed connection such a reply holds no
        // resources, and `proceed` would no longer empty the queue.
        let unwanted = self.promises.answer(promise, outcome);
        if let Some(reply @ (Reply::Delivery(_) | Reply::Consumer(_) | Reply::Transaction(_))) = unwanted {
            self.unwanted.push_back(reply);
        }
    }

    /// Why a promise is not answered by the broker. Whether a commit took effect nobody can know then.
    fn of_unknown_outcome(&self, promise: PromiseId, error: Error) -> Error {
        if self.transactions.is_committing(promise) { Error::Unconfirmed(error.into()) } else { error }
    }

    fn check_open(&self) -> Result<(), Error> {
        match (&self.state, &self.why) {
            (_, Some(error)) => Err(error.clone()),
            (State::Closing | State::Closed, None) => Err(Error::Closed),
            _ if self.is_closing() => Err(Error::Closed),
            _ => self.fails_fast().map_or(Ok(()), |error| Err(error.clone())),
        }
    }

    /// The limit that holds for what is received, once it is agreed upon.
    fn decoder_frame_max(&self) -> Option<u32> {
        let is_tuned = !matches!(&self.state, State::Handshake(handshake) if !handshake.is_tuned());
        is_tuned.then_some(self.frame_max)
    }

    /// Starts the queued work that can start. Nothing else starts any.
    fn proceed(&mut self) {
        self.may_start = false;
        while let Some(reply) = self.unwanted.pop_front() {
            self.dispose(reply);
        }
        // This comes first, because it may open the connection, and pending requests can then start
        // at once.
        self.restore_consumers();
        if matches!(self.state, State::Open | State::Draining) {
            self.start_requests();
            self.start_consumes();
            self.start_transactions();
            self.release_held();
        }
        self.proceed_closing();
        self.update_reading();
    }
}
