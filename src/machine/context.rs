//! The data that all parts of the state machine share.
//!
//! Some fields are signals from one part to another:
//!
//! - `attention`: the driver has to poll the connection, so it is woken. Set by every call that
//!   writes, queues, or sets a deadline; cleared by `poll_transmit` and `tend`.
//! - `may_start`: queued work may be able to start, so the current call or the next `poll_transmit`
//!   calls `proceed`. Set when a request, a consumer or a transaction is queued, and when a channel
//!   becomes free; cleared by `start_queued`.
//! - `disposal`: replies of abandoned promises. `complete` adds them. `proceed` takes them,
//!   requeues the got message, or ends the consumer or transaction.
//! - `possible_cause`: a request that may have closed an earlier connection. While it is pending,
//!   no other such request starts; if the connection is closed again, it is the cause. Set when the
//!   request starts; cleared by `CloseCause::find` at the next loss.
//! - `Quarantine::one_at_a_time`: topology and consumers are restored one at a time, so that the
//!   next close shows its cause. Set if the broker closes the connection during a recovery and
//!   names no step; cleared when the connection is open.
//! - `Consumer::channel` is `None`: the consumer has no channel. Set when the connection is lost, a
//!   consumer is interrupted or a restart is refused; replaced when the consumer starts.
//!
//! `Deadline::None` means that nothing is waited for. Where that is a state of its own, the field
//! says so: a dial is pending (`Down::retry`), or the transport can be dropped (`Down::last_bytes`,
//! `State::Closed`).

use crate::error::Error;
use crate::machine::channel::channels::Channels;
use crate::machine::channel::content::{Assembly, Purpose};
use crate::machine::channel::{Awaited, PendingReply, Resize, Role};
use crate::machine::ids::ChannelNumber;
use crate::machine::learned::Learned;
use crate::machine::notices::Notices;
use crate::machine::promises::Promises;
use crate::machine::recovery::topology::Topology;
use crate::machine::request::pending::PendingRequest;
use crate::machine::transmit::Transmit;
use crate::machine::{Counters, Notice, PromiseId, Queue, Reply, ServerProperties};
use crate::options::Options;
use crate::protocol::method::{Encode, MethodInfo};
use crate::protocol::method::{basic, channel as methods, exchange, queue};
use crate::protocol::{Method, MethodId, ReplyCode, ShortStr};
use std::borrow::Cow;
use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

/// The state of the connection without its data. See the
/// [states](crate::machine::connection::state::State).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Down,
    Handshake,
    Restoring,
    Open,
    Draining,
    Closing,
    Closed,
}

impl Stage {
    /// Returns `true` if queued requests and publishes may be written.
    pub(crate) fn may_write(self) -> bool {
        matches!(self, Self::Open | Self::Draining)
    }
}

/// The data that all parts of the state machine share.
#[derive(Debug)]
pub(crate) struct Context {
    /// The time of the last call with a `now`.
    pub(crate) now: Instant,
    pub(crate) options: Options,
    pub(crate) stage: Stage,
    /// The connection epoch: the number of the current or next transport, from 1. Deliveries of an
    /// earlier one are stale.
    pub(crate) epoch: u32,
    pub(crate) server: ServerProperties,
    pub(crate) learned: Learned,
    /// The user name of the login, if it is known.
    pub(crate) username: Option<String>,
    pub(crate) transmit: Transmit,
    pub(crate) channels: Channels,
    /// Channels with acks to write. `flush_acks` empties it.
    pub(crate) channels_with_acks: Vec<ChannelNumber>,
    pub(crate) promises: Promises,
    /// Replies whose promise was abandoned, and that own resources.
    pub(crate) disposal: VecDeque<Reply>,
    /// Publishes that were republished. The broker may have accepted an earlier attempt, so their
    /// errors become [`Error::Unconfirmed`].
    pub(crate) republished: BTreeSet<PromiseId>,
    /// The last started request that may have closed an earlier connection. While it is pending, no
    /// other such request is sent.
    pub(crate) possible_cause: Option<PromiseId>,
    /// The size of all queued requests, in bytes.
    pub(crate) queued_request_bytes: usize,
    pub(crate) topology: Topology,
    pub(crate) notices: Notices,
    /// The counters. They do not include the deliveries that were lost since the connection was
    /// last open: `Consumers` counts those.
    pub(crate) counters: Counters,
    /// The driver has to poll the connection.
    pub(crate) attention: bool,
    /// Queued work may be able to start, because it is new or a channel has become free.
    pub(crate) may_start: bool,
    /// A buffer for the method and header of a content. It is a field so that its allocation is
    /// reused.
    pub(crate) content_buffer: Vec<u8>,
}

impl Context {
    pub(crate) fn new(now: Instant, stage: Stage, options: Options) -> Self {
        Self {
            now,
            stage,
            epoch: 1,
            server: ServerProperties::default(),
            learned: Learned::default(),
            username: options.login.username().map(str::to_owned),
            transmit: Transmit::new(now, options.limits.frame_max),
            channels: Channels::default(),
            channels_with_acks: Vec::new(),
            promises: Promises::default(),
            disposal: VecDeque::new(),
            republished: BTreeSet::new(),
            possible_cause: None,
            queued_request_bytes: 0,
            topology: Topology::default(),
            notices: Notices::default(),
            counters: Counters::default(),
            attention: true,
            may_start: false,
            content_buffer: Vec::new(),
            options,
        }
    }
}

impl Context {
    /// Opens a promise with the request timeout, which starts at the next `stamp`.
    pub(crate) fn timed_promise(&mut self) -> PromiseId {
        self.attention = true;
        self.promises.open_timed(self.options.timeouts.request)
    }

    /// Opens a promise with the request timeout, which counts towards `max_requests`. It is for
    /// requests that are written at once: no queue limits their number.
    pub(crate) fn counted_promise(&mut self) -> PromiseId {
        self.attention = true;
        self.promises.open_request(self.options.timeouts.request)
    }

    /// Completes a promise. Queues the reply of an abandoned promise for disposal. Turns the error
    /// of a republished publish into [`Error::Unconfirmed`].
    #[inline]
    pub(crate) fn complete(&mut self, promise: PromiseId, mut outcome: Result<Reply, Error>) {
        if !self.republished.is_empty()
            && self.republished.remove(&promise)
            && let Err(error) = outcome
        {
            outcome = Err(error.into_unconfirmed());
        }
        if matches!(outcome, Err(Error::Unconfirmed(_))) && self.promises.is_pending(promise) {
            self.counters.unconfirmed += 1;
        }
        // Disposing of a reply may complete further promises, so only `proceed` does it, and
        // completing a promise never recurses. On a closed connection such a reply holds no
        // resources, and `proceed` would no longer empty the queue.
        let disposal = self.promises.complete(promise, outcome);
        if let Some(reply @ (Reply::Delivery(_) | Reply::Consumer(_) | Reply::Transaction(_))) =
            disposal
        {
            self.disposal.push_back(reply);
        }
    }

    /// Returns `true` if a request that may have closed an earlier connection is pending.
    pub(crate) fn has_pending_possible_cause(&self) -> bool {
        self.possible_cause
            .is_some_and(|promise| self.promises.is_pending(promise))
    }

    /// Returns the incarnation of a channel, or 0 if it does not exist.
    pub(crate) fn incarnation(&self, channel: ChannelNumber) -> u64 {
        self.channels
            .get(channel)
            .map_or(0, |channel| channel.incarnation)
    }

    /// Completes the promises of the pending replies of a closed channel with its error.
    pub(crate) fn fail_pending_replies(
        &mut self,
        assembly: Option<Assembly>,
        replies: VecDeque<PendingReply>,
        error: &Error,
    ) {
        if let Some(assembly) = assembly
            && let Purpose::Got { request, .. } = assembly.purpose
        {
            self.complete(request.promise, Err(error.clone()));
        }
        for pending in replies {
            match pending.purpose {
                Awaited::Request(request) | Awaited::Get { request, .. } => {
                    self.note_refusal(&request, error);
                    self.complete(request.promise, Err(error.clone()));
                }
                Awaited::Consume {
                    resized: Some(Resize { promise, .. }),
                    ..
                }
                | Awaited::Recover { promise, .. } => self.complete(promise, Err(error.clone())),
                // The promises of a consumer or a transaction complete when it ends.
                Awaited::Consume { .. }
                | Awaited::Cancel { .. }
                | Awaited::Transaction { .. }
                | Awaited::ReplayStep { .. }
                | Awaited::Nothing
                | Awaited::Probe => {}
            }
        }
    }

    /// Removes an entity from the topology record if a pending request deletes or unbinds it. The
    /// broker may have executed the request, and a replay would restore what the user deleted.
    pub(crate) fn forget_possibly_deleted(&mut self, request: &PendingRequest) {
        if let Some(
            method @ (Method::Exchange(exchange::Method::Delete(_) | exchange::Method::Unbind(_))
            | Method::Queue(queue::Method::Delete(_) | queue::Method::Unbind(_))),
        ) = request.method()
        {
            // `record` expects a reply, and does not read that to these methods. Any method will
            // do.
            self.topology.record(&method, &method);
        }
    }

    /// Opens a channel, and returns its number, unless all are in use. The next methods need not
    /// wait for `open-ok`, because the broker handles the methods of a channel in order.
    pub(crate) fn open_channel(&mut self, role: Role) -> Option<ChannelNumber> {
        let number = self.channels.add(role)?;
        self.write(number, &methods::Open {});
        self.await_reply(number, &methods::Open::INFO, Awaited::Nothing);
        Some(number)
    }

    /// Appends the reply to `method` to the pending replies of a channel.
    #[inline]
    pub(crate) fn await_reply(
        &mut self,
        number: ChannelNumber,
        method: &'static MethodInfo,
        purpose: Awaited,
    ) {
        if let Some(channel) = self.channels.get_mut(number) {
            channel
                .pending_replies
                .push_back(PendingReply { method, purpose });
        }
    }

    /// Writes a method. It must fit into the smallest frame size that can be negotiated.
    #[inline]
    pub(crate) fn write(&mut self, channel: ChannelNumber, method: &impl Encode) {
        let written = self.transmit.append_method(channel, method);
        debug_assert!(written.is_ok(), "{written:?}");
        self.attention = true;
    }

    /// Returns a channel to the pool if nothing is pending or unsettled on it, or closes it if it
    /// is not needed or cannot be reused. Marks it as `Settling` if only unsettled messages keep
    /// it. Does nothing for channels of publishes, transactions and the replay, which are never
    /// pooled.
    pub(crate) fn release(&mut self, number: ChannelNumber) {
        // The channel of an ended consumer may be closed already.
        let Some(channel) = self.channels.get_mut(number) else {
            return;
        };
        if !matches!(
            channel.role,
            Role::Request | Role::Get | Role::Settling | Role::Consume | Role::Ending
        ) {
            return;
        }
        if channel.consumer().is_none() {
            channel.unsettled.mark_dropped_unwanted();
        }
        if channel.unsettled.unwanted() > 0
            && channel.deliveries_without_consumer == 0
            && !channel.is_consumer_changing()
        {
            self.return_unwanted(number);
        }
        // Looked up again, because `return_unwanted` needs the whole context. It still exists.
        let Some(channel) = self.channels.get_mut(number) else {
            return;
        };
        if !channel.is_at_rest() {
            if channel.pending_replies.is_empty() && channel.consumer().is_none() {
                self.channels.set_role(number, Role::Settling);
                self.may_start = true;
            }
        } else {
            self.may_start = true;
            let is_reusable = channel.deliveries_without_consumer == 0
                && !channel.may_be_closed_by_broker
                && self.channels.idle() < usize::from(self.options.limits.request_channels);
            // The acks precede the next request, because an error of that request may close the
            // channel.
            self.flush_channel_acks(number);
            if is_reusable {
                self.channels.put_idle(number);
            } else {
                self.close_channel(number);
            }
        }
    }

    /// Handles a late reply to a request that timed out, on the channel that was closed for it: the
    /// topology record still needs to know that the request succeeded.
    pub(crate) fn absorb_late_reply(&mut self, number: ChannelNumber, reply: &Method<'_>) {
        let Some(channel) = self.channels.get_mut(number) else {
            return;
        };
        if channel
            .pending_replies
            .front()
            .is_none_or(|pending| !pending.is_completed_by(reply.info(), None))
        {
            return;
        }
        if let Some(PendingReply {
            purpose: Awaited::Request(request),
            ..
        }) = channel.pending_replies.pop_front()
        {
            self.note(&request, reply);
        }
    }

    /// Closes a channel that is no longer needed. Its number is free after `close-ok`.
    pub(crate) fn close_channel(&mut self, number: ChannelNumber) {
        self.write(
            number,
            &methods::Close {
                reply_code: ReplyCode::REPLY_SUCCESS.value(),
                reply_text: ShortStr::EMPTY,
                class_id: MethodId::NONE.class,
                method_id: MethodId::NONE.method,
            },
        );
        self.channels.set_role(number, Role::Closing);
    }

    /// Returns the reply of a request's promise for the broker's reply.
    pub(crate) fn reply_of(method: Method<'_>) -> Reply {
        match method {
            Method::Queue(queue::Method::DeclareOk(ok)) => Reply::Queue(Box::new(Queue {
                name: ok.queue.to_str_lossy().into_owned(),
                message_count: ok.message_count,
                consumer_count: ok.consumer_count,
            })),
            Method::Queue(queue::Method::PurgeOk(ok)) => Reply::Count(ok.message_count),
            Method::Queue(queue::Method::DeleteOk(ok)) => Reply::Count(ok.message_count),
            _ => Reply::Done,
        }
    }

    /// Requeues the unwanted deliveries of a channel.
    pub(crate) fn return_unwanted(&mut self, number: ChannelNumber) {
        // A `basic.nack` with `multiple` would cover deliveries whose ack is queued and not
        // written.
        self.flush_channel_acks(number);
        let Some(channel) = self.channels.get_mut(number) else {
            return;
        };
        let transmit = &mut self.transmit;
        let (requeue, has_nack) = (true, !self.server.lacks_nack());
        let write = |delivery_tag, multiple| {
            let nack = basic::Nack {
                delivery_tag,
                multiple,
                requeue,
            };
            let reject = basic::Reject {
                delivery_tag,
                requeue,
            };
            // Both fit into any frame.
            let _ = match has_nack {
                true => transmit.append_method(number, &nack),
                false => transmit.append_method(number, &reject),
            };
        };
        channel.unsettled.return_unwanted(has_nack, write);
        self.attention = true;
    }

    /// Records a request that the broker has accepted, so that the next connection can replay it.
    pub(crate) fn note(&mut self, request: &PendingRequest, reply: &Method<'_>) {
        if let Some(topology) = self.topology.if_recording()
            && let Some(method) = request.method()
            && !topology.record(&method, reply)
            && topology.record_overflow()
        {
            self.notices.notify(&Notice::NotRecorded);
        }
    }

    /// Removes the queue of a refused request from the record if the broker did not find it.
    fn note_refusal(&mut self, request: &PendingRequest, error: &Error) {
        if !matches!(error, Error::NotFound(_)) {
            return;
        }
        let Some(method) = request.method() else {
            return;
        };
        match method {
            Method::Queue(queue::Method::Declare(it)) => self.topology.forget_queue(it.queue),
            Method::Queue(queue::Method::Purge(it)) => self.topology.forget_queue(it.queue),
            Method::Basic(basic::Method::Get(it)) => {
                self.topology.forget_queue(it.queue);
            }
            _ => {}
        }
    }

    /// Returns the request with the current names of its queues.
    pub(crate) fn with_current_names(&self, request: PendingRequest) -> PendingRequest {
        if !self.topology.has_renamed_queues() {
            return request;
        }
        let Some(method) = request.method() else {
            return request;
        };
        let encode = |method: &Method<'_>| {
            PendingRequest::new(request.promise, request.info, method).payload
        };
        // Most requests name no queue that has another name now.
        let Some(payload) = self.topology.encode_renamed(method, encode) else {
            return request;
        };
        PendingRequest { payload, ..request }
    }

    /// Returns the current name of a queue.
    pub(crate) fn current_name<'n>(&self, name: &'n [u8]) -> Cow<'n, [u8]> {
        match self.topology.current_if_renamed(name) {
            Some(current) => Cow::Owned(current.as_bytes().to_vec()),
            None => Cow::Borrowed(name),
        }
    }

    /// Counts an attempt to settle a stale delivery, and returns the error.
    #[cold]
    pub(crate) fn stale(&mut self) -> Result<(), Error> {
        self.counters.stale += 1;
        Err(Error::Stale)
    }

    /// Writes the collected acks of a channel.
    pub(crate) fn flush_channel_acks(&mut self, number: ChannelNumber) {
        // The server may have closed the channel since the ack.
        let Some(channel) = self.channels.get_mut(number) else {
            return;
        };
        channel.has_acks = false;
        let transmit = &mut self.transmit;
        channel.unsettled.flush(|delivery_tag, multiple| {
            // An ack fits into any frame.
            let _ = transmit.append_method(
                number,
                &basic::Ack {
                    delivery_tag,
                    multiple,
                },
            );
        });
    }
}
