//! The calls of the program. Each is passed on to the part that implements it.
//!
//! `Connection::proceed` says which of them start queued work.

use crate::error::Error;
use crate::machine::channel::content::Delivered;
use crate::machine::connection::Connection;
use crate::machine::connection::state::State;
use crate::machine::consume::dropping::handle_dropped;
use crate::machine::consume::requeue::recover;
use crate::machine::session::Session;
use crate::machine::{Completion, Consume, Consumer, ConsumerId, ConsumerSettings, ListenerId};
use crate::machine::{Notice, PromiseId, Publish, Reply, Settle, TransactionId};
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

    /// Closes the connection, and returns a promise that completes when it is closed. Publishes and
    /// requests that were accepted are sent first, and their replies are awaited for half of the
    /// close timeout. Meanwhile, a pending handshake or recovery continues on its transport, but no
    /// other transport is dialled.
    pub fn close(&mut self) -> PromiseId {
        let (promise, is_first) = self.lifecycle.close(&mut self.session.cx);
        if is_first {
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

    /// Drops interest in a promise. Its request is still sent. If it gets a message, that is
    /// returned to its queue; if it starts a consumer or a transaction, that ends at once.
    #[inline]
    pub fn abandon(&mut self, promise: PromiseId) {
        if let Some(reply) = self.session.cx.promises.abandon(promise) {
            self.session.dispose(reply);
            // If the reply was a consumer, its buffered deliveries are gone, so reading may resume.
            self.proceed_if_needed();
        }
    }

    /// Sends another secret for the login to the broker, such as a fresh OAuth 2 token (RabbitMQ's
    /// `connection.update-secret`). A broker that refuses it closes the connection.
    ///
    /// # Errors
    /// The close reason if the connection is closed; [`Error::Full`] at a limit;
    /// [`Error::InvalidArgument`] if it is not open yet, or the secret does not fit into a frame.
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
    /// The close reason if the connection is closed; [`Error::Full`] at a limit;
    /// [`Error::InvalidArgument`] if the broker would refuse the message.
    pub fn publish(&mut self, publish: &Publish<'_>) -> Result<PromiseId, Error> {
        self.check_open()?;
        let Session { cx, publishing, .. } = &mut self.session;
        publishing.publish(cx, publish)
    }

    /// Publishes a message without asking for a confirm. The promise completes when the message is
    /// queued for writing, which is at once unless it has to wait for a channel. It is not reported
    /// whether the broker accepts the message.
    ///
    /// # Errors
    /// As [`publish`](Self::publish), and [`Error::InvalidArgument`] if the message is mandatory or
    /// immediate.
    pub fn publish_unconfirmed(&mut self, publish: &Publish<'_>) -> Result<PromiseId, Error> {
        self.check_open()?;
        let Session { cx, publishing, .. } = &mut self.session;
        publishing.publish_unconfirmed(cx, publish)
    }

    /// Publishes a message that asks for a reply. The promise completes with the reply, or with an
    /// error if the message cannot be routed. Without a timeout, that of a request applies.
    ///
    /// # Errors
    /// The close reason if the connection is closed; [`Error::Full`] at a limit;
    /// [`Error::InvalidArgument`] if the broker would refuse the message, or if `reply_to` or
    /// `correlation_id` is set.
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

    /// Sends a request: `basic.get`, or any method of the classes `exchange` and `queue` that has a
    /// reply and is sent without `nowait`.
    ///
    /// # Errors
    /// The close reason if the connection is closed; [`Error::Full`] at a limit;
    /// [`Error::InvalidArgument`] if the request does not fit into a frame, or the queue name is
    /// empty.
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

    /// Returns the current name of a queue. It differs from the first name if the broker has given
    /// a server-named queue another name during a recovery.
    #[must_use]
    pub fn current_name<'n>(&self, name: &'n [u8]) -> Cow<'n, [u8]> {
        self.session.cx.current_name(name)
    }

    /// Starts a consumer on a channel of its own.
    ///
    /// # Errors
    /// The close reason if the connection is closed; [`Error::Full`] at a limit;
    /// [`Error::InvalidArgument`] if the request does not fit into a frame, or the queue name is
    /// empty.
    pub fn consume(&mut self, consume: &Consume<'_>) -> Result<PromiseId, Error> {
        self.check_to_request()?;
        let Session { cx, consuming, .. } = &mut self.session;
        let outcome = consuming.consume(cx, consume);
        self.proceed_if_needed();
        outcome
    }

    /// Starts a consumer of several queues, with one channel and one prefetch count for all of
    /// them. The settings replace those of each queue.
    ///
    /// # Errors
    /// As [`consume`](Self::consume); [`Error::InvalidArgument`] if there is no queue.
    pub fn consume_multi(
        &mut self,
        queues: &[Consume<'_>],
        settings: &ConsumerSettings,
    ) -> Result<PromiseId, Error> {
        self.check_to_request()?;
        let Session { cx, consuming, .. } = &mut self.session;
        let outcome = consuming.consume_multi(cx, queues, settings);
        self.proceed_if_needed();
        outcome
    }

    /// Returns a consumer, unless it has ended and was dropped.
    #[must_use]
    pub fn consumer(&self, id: ConsumerId) -> Option<&Consumer> {
        self.session.consuming.consumers.get(id)
    }

    /// Changes the prefetch count of a live consumer: how many of its deliveries may be unsettled;
    /// 0 for no limit.
    ///
    /// A count that several queues share is that of the channel, and is changed there. Otherwise
    /// the broker fixes the count when a consumer starts. For a higher count, a second consumer
    /// starts on the same channel for the difference, and shares the buffer of the first. For a
    /// lower count, a second consumer replaces the first.
    ///
    /// # Errors
    /// The close reason if the connection is closed; [`Error::Full`] at a limit; [`Error::Stale`]
    /// if the consumer has ended; [`Error::InvalidArgument`] for an exclusive consumer, because the
    /// broker allows no second one, and for one of a stream, because a second one repeats messages.
    pub fn qos(&mut self, id: ConsumerId, prefetch_count: u16) -> Result<PromiseId, Error> {
        self.check_to_request()?;
        let Session { cx, consuming, .. } = &mut self.session;
        consuming.qos(cx, id, prefetch_count)
    }

    /// Sends `basic.recover` for a live consumer: the broker requeues its unsettled deliveries and
    /// delivers them again, to this consumer or another. Deliveries that the program still has are
    /// stale from then on. (It does not recover the connection.)
    ///
    /// # Errors
    /// The close reason if the connection is closed; [`Error::Full`] at a limit; [`Error::Stale`]
    /// if the consumer has ended.
    pub fn recover(&mut self, id: ConsumerId) -> Result<PromiseId, Error> {
        self.check_to_request()?;
        let Session { cx, consuming, .. } = &mut self.session;
        let outcome = recover(cx, consuming, id);
        self.proceed_if_needed();
        outcome
    }

    /// Takes up to `max` deliveries of a consumer and appends them to `into`. An empty `into` may
    /// be exchanged for another queue, which has another allocation or none.
    pub fn take_deliveries(
        &mut self,
        consumer: ConsumerId,
        max: usize,
        into: &mut VecDeque<Delivered>,
    ) {
        let Session { cx, consuming, .. } = &mut self.session;
        consuming.take_deliveries(cx, consumer, max, into);
        self.proceed_if_needed();
    }

    /// Adds deliveries to the count of lost ones, because the program has taken them and dropped
    /// them as stale.
    pub fn lose_taken(&mut self, consumer: ConsumerId, count: u64) {
        self.session.consuming.consumers.count_lost(consumer, count);
    }

    /// Returns `true` if a delivery needs an ack and can no longer be settled, because its channel
    /// is closed. The broker delivers the message again.
    #[must_use]
    pub fn is_stale(&self, delivered: &Delivered) -> bool {
        self.session.cx.is_stale(delivered)
    }

    /// Returns a counter that changes whenever deliveries may have become stale.
    #[inline]
    pub(crate) fn removed_channels(&self) -> u32 {
        self.session.cx.channels.removed()
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

    /// Handles a delivery that its handler dropped without settling it, as
    /// [`Consume::on_drop`] says: by default, rejects and requeues it, at once or after a delay. If
    /// it is stale, the broker has requeued it already.
    ///
    /// It is a reject and not a nack, because RabbitMQ 4.3 and later count a rejected message as a
    /// failed delivery, and a nacked one not. A handler that drops a delivery has failed with it,
    /// most likely by a panic, so the queue's delivery limit must be able to stop a message that
    /// always fails. Deliveries that no handler has read are nacked instead.
    pub fn give_back(&mut self, delivered: &Delivered) {
        let Session { cx, consuming, .. } = &mut self.session;
        handle_dropped(cx, consuming, delivered);
        self.proceed_if_queued();
    }

    /// Marks a delivery that the program will not read as unwanted. It is requeued once the broker
    /// has confirmed the cancel of its consumer: if it were requeued earlier, the broker could
    /// deliver it to this consumer again.
    ///
    /// Call it before the consumer is cancelled or dropped, or right after it was cancelled. A
    /// delivery that needs no ack is lost.
    pub fn return_later(&mut self, delivered: &Delivered) {
        self.session.cx.return_later(delivered);
        self.proceed_if_queued();
    }

    /// Cancels a consumer. Its buffered deliveries are returned to the queue once the broker has
    /// confirmed the cancel. Deliveries that need no ack stay buffered: the broker has forgotten
    /// them.
    ///
    /// # Errors
    /// The close reason if the connection is closed; [`Error::Full`] at a limit; [`Error::Stale`]
    /// if the consumer has ended.
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

    /// Begins a transaction. The promise completes with its id.
    ///
    /// # Errors
    /// The close reason if the connection is closed; [`Error::Full`] at a limit.
    pub fn transaction(&mut self) -> Result<PromiseId, Error> {
        self.check_to_request()?;
        let Session {
            cx, transactions, ..
        } = &mut self.session;
        let outcome = transactions.begin_transaction(cx);
        self.proceed_if_needed();
        outcome
    }

    /// Publishes a message within a transaction. The promise is complete at once, without an event.
    /// The commit reports the outcome of the publish.
    ///
    /// # Errors
    /// The close reason if the connection is closed; the error of the transaction if it has failed;
    /// [`Error::Full`] at a limit; [`Error::InvalidArgument`] if the broker would refuse the
    /// message.
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

    /// Gets a message within a transaction, so that acknowledging it is a part of the transaction.
    /// If the broker does not reply in time, the transaction fails.
    ///
    /// # Errors
    /// The close reason if the connection is closed; the error of the transaction if it has failed;
    /// [`Error::Full`] at a limit; [`Error::InvalidArgument`] if the queue name is empty.
    pub fn get_in(&mut self, id: TransactionId, get: basic::Get<'_>) -> Result<PromiseId, Error> {
        self.check_to_request()?;
        let Session {
            cx, transactions, ..
        } = &mut self.session;
        transactions.get_in(cx, id, get)
    }

    /// Commits a transaction. Messages that it got and did not settle are requeued.
    ///
    /// # Errors
    /// The close reason if the connection is closed; the error of the transaction if it has failed,
    /// which also ends it.
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
    /// The close reason if the connection is closed; the error of the transaction if it has failed,
    /// which also ends it.
    pub fn rollback(&mut self, id: TransactionId) -> Result<PromiseId, Error> {
        self.check_open()?;
        let Session {
            cx, transactions, ..
        } = &mut self.session;
        transactions.rollback(cx, id)
    }

    /// Drops interest in a transaction. An open one is rolled back by closing its channel. A
    /// pending commit or rollback continues.
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
}
