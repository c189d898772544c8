//! The calls of the program. Each is passed on to the part that implements it.

use crate::error::Error;
use crate::machine::channel::content::Delivered;
use crate::machine::connection::Connection;
use crate::machine::connection::state::State;
use crate::machine::session::{Session, Stats};
use crate::machine::{Completion, Consume, Consumer, ConsumerId, ListenerId, PromiseId, Publish};
use crate::machine::{ConnectionState, Counters, Notice, Reply, ServerProperties};
use crate::machine::{Settle, TransactionId};
use crate::protocol::method::basic;
use crate::protocol::{Method, ShortStr};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::time::Duration;

impl Connection {
    /// Returns a promise that completes when the connection is open.
    pub fn connect(&mut self) -> PromiseId {
        self.lifecycle.connect(&mut self.session.cx)
    }

    /// Closes the connection. Accepted publishes and requests are sent, and their replies awaited,
    /// within half of the close timeout. A pending handshake or recovery on an existing transport
    /// continues meanwhile, but no other transport is dialled.
    pub fn close(&mut self) -> PromiseId {
        let (promise, begins) = self.lifecycle.close(&mut self.session.cx);
        if begins {
            self.lifecycle.begin_closing(&mut self.session);
            self.proceed();
        }
        promise
    }

    /// Takes the outcome of a promise, once. Returns `None` while it is pending.
    #[inline]
    pub fn fetch(&mut self, promise: PromiseId) -> Option<Result<Reply, Error>> {
        self.fetch_completion(promise).map(Completion::into_outcome)
    }

    /// Takes the outcome of a promise, once. The caller converts it later.
    #[inline]
    pub(crate) fn fetch_completion(&mut self, promise: PromiseId) -> Option<Completion> {
        self.session.cx.promises.fetch(promise)
    }

    /// Drops interest in a promise. Its request completes nevertheless: a message that it gets is
    /// returned to its queue, and a consumer that it starts is cancelled.
    #[inline]
    pub fn abandon(&mut self, promise: PromiseId) {
        if let Some(reply) = self.session.cx.promises.abandon(promise) {
            self.session.dispose(reply);
            // The disposed consumer may have had all buffered deliveries, so reading may resume.
            self.proceed_if_needed();
        }
    }

    /// Sends another secret for the login to the broker, such as a fresh OAuth 2 token (RabbitMQ's
    /// `connection.update-secret`). A broker that refuses it closes the connection.
    ///
    /// # Errors
    /// Why the connection is closed; [`Error::Full`]; [`Error::InvalidArgument`] if it is not open
    /// yet, or the secret does not fit into a frame.
    pub fn update_secret(
        &mut self,
        new_secret: &[u8],
        reason: ShortStr<'_>,
    ) -> Result<PromiseId, Error> {
        self.lifecycle
            .update_secret(&mut self.session, new_secret, reason)
    }

    /// Adds a listener for notices. It receives no earlier notices, except the one that the
    /// connection is closed.
    pub fn listen(&mut self) -> ListenerId {
        let notices = &mut self.session.cx.notices;
        let id = notices.listen();
        if let (State::Closed(_), Some(error)) =
            (&self.lifecycle.state, &self.lifecycle.close_reason)
        {
            notices.notify_one(id, &Notice::Closed(error.clone()));
        }
        id
    }

    /// Takes the next notice of a listener.
    pub fn take_notice(&mut self, listener: ListenerId) -> Option<Notice> {
        self.session.cx.notices.take(listener)
    }

    /// Removes a listener.
    pub fn stop_listening(&mut self, listener: ListenerId) {
        self.session.cx.notices.remove(listener);
    }

    /// Publishes a message. The promise completes when the broker has confirmed it.
    ///
    /// # Errors
    /// Why the connection is closed; [`Error::Full`]; [`Error::InvalidArgument`] for what the
    /// broker would refuse.
    pub fn publish(&mut self, publish: &Publish<'_>) -> Result<PromiseId, Error> {
        self.check_open()?;
        let Session { cx, publishing, .. } = &mut self.session;
        publishing.publish(cx, publish)
    }

    /// Publishes a message without asking for a confirm. The promise completes when the message is
    /// queued for writing, which is at once unless the message has to wait for a channel. Whether
    /// the broker accepts it is not reported.
    ///
    /// # Errors
    /// As [`publish`](Self::publish), and [`Error::InvalidArgument`] if the message is mandatory or
    /// immediate.
    pub fn publish_unconfirmed(&mut self, publish: &Publish<'_>) -> Result<PromiseId, Error> {
        self.check_open()?;
        let Session { cx, publishing, .. } = &mut self.session;
        publishing.publish_unconfirmed(cx, publish)
    }

    /// Publishes a message that asks for a reply. The promise completes with the reply. Without a
    /// timeout, that of a request applies. A message that cannot be routed fails the call.
    ///
    /// # Errors
    /// Why the connection is closed; [`Error::Full`]; [`Error::InvalidArgument`] for what the
    /// broker would refuse, and if the message has a property that identifies the reply.
    pub fn call(
        &mut self,
        publish: &Publish<'_>,
        timeout: Option<Duration>,
    ) -> Result<PromiseId, Error> {
        self.check_open()?;
        let Session { cx, publishing, .. } = &mut self.session;
        publishing.call(cx, publish, timeout)
    }

    /// Returns `true` if another publish would be accepted.
    #[must_use]
    pub fn has_capacity_to_publish(&self) -> bool {
        let Session { cx, publishing, .. } = &self.session;
        publishing.has_capacity_to_publish(cx)
    }

    /// Sends a request: any method of the classes `exchange` and `queue` that has a reply and wants
    /// it, or `basic.get`.
    ///
    /// # Errors
    /// Why the connection is closed; [`Error::Full`]; [`Error::InvalidArgument`] if the request
    /// does not fit into a frame, or the queue name is empty.
    pub fn request<'a>(&mut self, method: impl Into<Method<'a>>) -> Result<PromiseId, Error> {
        self.check_to_request()?;
        let Session { cx, requests, .. } = &mut self.session;
        let outcome = requests.request(cx, method);
        self.proceed_if_needed();
        outcome
    }

    /// Returns `true` if another request would be accepted.
    #[must_use]
    pub fn has_capacity_to_request(&self) -> bool {
        self.session.has_capacity_to_request()
    }

    /// Returns the current name of a queue.
    #[must_use]
    pub fn current_name<'n>(&self, name: &'n [u8]) -> Cow<'n, [u8]> {
        self.session.cx.current_name(name)
    }

    /// Starts a consumer on a channel of its own.
    ///
    /// # Errors
    /// Why the connection is closed; [`Error::Full`]; [`Error::InvalidArgument`] if the request
    /// does not fit into a frame, or the queue name is empty.
    pub fn consume(&mut self, consume: &Consume<'_>) -> Result<PromiseId, Error> {
        self.check_to_request()?;
        let Session { cx, consuming, .. } = &mut self.session;
        let outcome = consuming.consume(cx, consume);
        self.proceed_if_needed();
        outcome
    }

    /// Starts a consumer of several queues, with one channel and one prefetch count for all of
    /// them. The prefetch count and `no_ack` of each queue are ignored.
    ///
    /// # Errors
    /// As [`consume`](Self::consume); [`Error::InvalidArgument`] if there is no queue.
    pub fn consume_multi(
        &mut self,
        queues: &[Consume<'_>],
        prefetch_count: u16,
        no_ack: bool,
    ) -> Result<PromiseId, Error> {
        self.check_to_request()?;
        let Session { cx, consuming, .. } = &mut self.session;
        let outcome = consuming.consume_multi(cx, queues, prefetch_count, no_ack);
        self.proceed_if_needed();
        outcome
    }

    /// Returns a consumer, unless it has ended and was dropped.
    #[must_use]
    pub fn consumer(&self, id: ConsumerId) -> Option<&Consumer> {
        self.session.consuming.consumers.get(id)
    }

    /// Changes the number of deliveries of a live consumer that may be unsettled; 0 for no limit.
    ///
    /// A count that several queues share belongs to the channel and can be changed. Otherwise the
    /// broker fixes the count when a consumer starts: for a higher count, a second consumer for the
    /// difference starts on the same channel and with the same buffer; for a lower one, a second
    /// consumer replaces the first.
    ///
    /// # Errors
    /// Why the connection is closed; [`Error::Full`]; [`Error::Stale`] if the consumer has ended;
    /// [`Error::InvalidArgument`] for an exclusive consumer, because the broker allows no second
    /// one.
    pub fn qos(&mut self, id: ConsumerId, prefetch_count: u16) -> Result<PromiseId, Error> {
        self.check_to_request()?;
        let Session { cx, consuming, .. } = &mut self.session;
        consuming.qos(cx, id, prefetch_count)
    }

    /// Makes the broker requeue the unsettled deliveries of a live consumer and deliver them again,
    /// to this consumer or another. Deliveries that the program still has are stale from then on.
    ///
    /// # Errors
    /// Why the connection is closed; [`Error::Full`]; [`Error::Stale`] if the consumer has ended.
    pub fn recover(&mut self, id: ConsumerId) -> Result<PromiseId, Error> {
        self.check_to_request()?;
        let Session { cx, consuming, .. } = &mut self.session;
        let outcome = consuming.recover(cx, id);
        self.proceed_if_needed();
        outcome
    }

    /// Takes up to `most` deliveries of a consumer and appends them to `into`. If there are none,
    /// `into` may have another allocation afterwards, or none.
    pub fn take_deliveries(
        &mut self,
        consumer: ConsumerId,
        most: usize,
        into: &mut VecDeque<Delivered>,
    ) {
        let Session { cx, consuming, .. } = &mut self.session;
        consuming.take_deliveries(cx, consumer, most, into);
        self.proceed_if_needed();
    }

    /// Counts deliveries that the program has taken and dropped because they are stale.
    pub fn lose_taken(&mut self, consumer: ConsumerId, count: u64) {
        self.session.consuming.consumers.count_lost(consumer, count);
    }

    /// Settles a delivery, unless it needs no ack. The frame is sent with the next output.
    ///
    /// # Errors
    /// [`Error::Stale`] if its channel is closed or it is settled already. Nothing is sent then.
    pub fn settle(&mut self, delivered: &Delivered, how: Settle) -> Result<(), Error> {
        let Session { cx, consuming, .. } = &mut self.session;
        let settled = consuming.settle(cx, delivered, how);
        self.proceed_if_queued();
        settled
    }

    /// Returns a delivery to its queue. If it is stale, the broker has already done so.
    pub fn give_back(&mut self, delivered: &Delivered) {
        let _ = self.settle(delivered, Settle::Reject { requeue: true });
    }

    /// Returns a delivery that the program does not receive to its queue, once the broker has
    /// confirmed the cancel of its consumer.
    ///
    /// Call it before the consumer is cancelled or dropped, or right after it was cancelled. A
    /// delivery that needs no ack is lost.
    pub fn return_later(&mut self, delivered: &Delivered) {
        self.session.cx.set_unwanted(delivered);
        self.proceed_if_queued();
    }

    /// Ends a consumer. Its buffered deliveries are returned to the queue once the broker has
    /// confirmed the cancel. Deliveries that need no ack stay buffered, because they would be lost.
    ///
    /// # Errors
    /// Why the connection is closed; [`Error::Full`]; [`Error::Stale`] if the consumer has ended.
    pub fn cancel(&mut self, id: ConsumerId) -> Result<PromiseId, Error> {
        self.check_to_request()?;
        let Session { cx, consuming, .. } = &mut self.session;
        let outcome = consuming.cancel(cx, id);
        self.proceed_if_needed();
        outcome
    }

    /// Drops interest in a consumer. It is cancelled, and its buffered deliveries are returned to
    /// the queue.
    pub fn drop_consumer(&mut self, id: ConsumerId) {
        let Session { cx, consuming, .. } = &mut self.session;
        consuming.drop_consumer(cx, id);
        self.proceed_if_needed();
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// Why the connection is closed; [`Error::Full`].
    pub fn transaction(&mut self) -> Result<PromiseId, Error> {
        self.check_to_request()?;
        let Session {
            cx, transactions, ..
        } = &mut self.session;
        let outcome = transactions.transaction(cx);
        self.proceed_if_needed();
        outcome
    }

    /// Publishes a message within a transaction. The promise is complete at once, without an event.
    /// The commit reports the outcome of the publish.
    ///
    /// # Errors
    /// Why the connection is closed, or the transaction has failed; [`Error::Full`];
    /// [`Error::InvalidArgument`] for what the broker would refuse.
    pub fn publish_in(
        &mut self,
        id: TransactionId,
        publish: &Publish<'_>,
    ) -> Result<PromiseId, Error> {
        self.check_open()?;
        let Session {
            cx,
            publishing,
            transactions,
            ..
        } = &mut self.session;
        transactions.publish_in(cx, publishing, id, publish)
    }

    /// Gets a message within a transaction, so that its acknowledgement is a part of it. If the
    /// broker does not reply in time, the transaction fails.
    ///
    /// # Errors
    /// Why the connection is closed, or the transaction has failed; [`Error::Full`];
    /// [`Error::InvalidArgument`] if the queue name is empty.
    pub fn get_in(&mut self, id: TransactionId, get: basic::Get<'_>) -> Result<PromiseId, Error> {
        self.check_to_request()?;
        let Session {
            cx, transactions, ..
        } = &mut self.session;
        transactions.get_in(cx, id, get)
    }

    /// Commits a transaction. Its messages that were got and not settled are requeued.
    ///
    /// # Errors
    /// Why the connection is closed, or why the transaction has failed, which ends it.
    pub fn commit(&mut self, id: TransactionId) -> Result<PromiseId, Error> {
        self.check_open()?;
        let Session {
            cx, transactions, ..
        } = &mut self.session;
        transactions.commit(cx, id)
    }

    /// Rolls a transaction back.
    ///
    /// # Errors
    /// Why the connection is closed, or why the transaction has failed, which ends it.
    pub fn rollback(&mut self, id: TransactionId) -> Result<PromiseId, Error> {
        self.check_open()?;
        let Session {
            cx, transactions, ..
        } = &mut self.session;
        transactions.rollback(cx, id)
    }

    /// Drops interest in a transaction. Unless it was committed it is rolled back, by closing its
    /// channel.
    pub fn drop_transaction(&mut self, id: TransactionId) {
        let Session {
            cx, transactions, ..
        } = &mut self.session;
        transactions.drop_transaction(cx, id);
    }

    /// Returns `true` if another publish of a transaction would be accepted.
    #[must_use]
    pub fn has_capacity_to_transact(&self) -> bool {
        let Session {
            cx,
            publishing,
            transactions,
            ..
        } = &self.session;
        transactions.has_capacity_to_transact(cx, publishing)
    }

    /// Returns the error of a timeout: [`Error::ReadingPaused`] if reading is paused.
    pub(crate) fn timed_out(&self, what: &'static str, after: Duration) -> Error {
        self.session.consuming.timed_out(what, after)
    }

    /// Returns `true` if there is work for the driver that was added while it may sleep.
    #[must_use]
    pub fn wants_attention(&self) -> bool {
        self.session.cx.attention
    }

    /// Returns `true` if no more input is accepted. The transport can be closed once all output is
    /// written, or when [`is_over`](Self::is_over) returns `true`.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.lifecycle.state, State::Closed(_))
    }

    /// Returns `true` if the deadline for the remaining output has passed, so that the transport
    /// should be dropped.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.lifecycle.state.is_over()
    }

    /// Returns the reason why the connection is closing or closed.
    #[must_use]
    pub fn why_closed(&self) -> Option<&Error> {
        self.lifecycle.close_reason.as_ref()
    }

    /// Returns the outcome of a closed connection: `Ok` if this side closed it as requested.
    ///
    /// # Errors
    /// The reason, if it ended otherwise.
    pub fn outcome(&self) -> Result<(), Error> {
        match &self.lifecycle.close_reason {
            None | Some(Error::Closed) => Ok(()),
            Some(error) => Err(error.clone()),
        }
    }

    /// Returns the state of the connection.
    #[must_use]
    pub fn state(&self) -> ConnectionState {
        self.lifecycle.report(&self.session.recovery)
    }

    /// Returns the broker's reason for blocking publishes, or `None` if they are not blocked.
    #[must_use]
    pub fn blocked(&self) -> Option<&str> {
        self.session.publishing.blocked.as_deref()
    }

    /// Returns the properties that the server sent; empty until the connection is open.
    #[must_use]
    pub fn server_properties(&self) -> &ServerProperties {
        &self.session.cx.server
    }

    /// Returns `true` if nothing is pending or stored: no promise, no consumer, no message.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.session.is_idle()
    }

    /// Returns the counters of the connection since it was created.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.session.counters()
    }

    /// Returns the current figures of the connection.
    #[inline]
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.session.stats()
    }

    /// Returns the sizes in memory, in bytes, of the partly received contents. While there are
    /// several, [`Options::max_buffered_bytes`](crate::Options::max_buffered_bytes) limits their
    /// sum: the bodies and properties of the largest are dropped.
    pub fn partly_received(&self) -> impl Iterator<Item = usize> + '_ {
        self.session.partly_received()
    }
}
