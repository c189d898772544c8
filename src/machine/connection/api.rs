//! What the program asks for, each call passed on to the part that it concerns.

use crate::error::Error;
use crate::machine::channel::content::Delivered;
use crate::machine::connection::Connection;
use crate::machine::{Consume, ConsumerId, Ended, PromiseId, Publish, Settle, TransactionId};
use crate::protocol::method::basic;
use crate::protocol::{Method, ShortStr};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::time::Duration;

impl Connection {
    /// Returns a delivery that the program does not receive to its queue, once the broker has
    /// confirmed the cancel of its consumer.
    ///
    /// Call it before the consumer is cancelled or dropped, or right after it was cancelled. A
    /// delivery that needs no ack is lost.
    pub fn return_later(&mut self, delivered: &Delivered) {
        self.session
            .consuming
            .set_unwanted(&mut self.session.cx, delivered);
    }
    /// Settles a delivery, unless it needs no ack. Nothing is to be waited for: the frame leaves
    /// with the next write.
    ///
    /// # Errors
    /// [`Error::Stale`] when its channel is gone or it is settled already; nothing is sent then.
    pub fn settle(&mut self, delivered: &Delivered, how: Settle) -> Result<(), Error> {
        self.session
            .consuming
            .settle_delivery(&mut self.session.cx, delivered, how)
    }

    /// Gives a message back to its queue that nobody has dealt with. One that can't be given back
    /// any more, the broker has taken back itself.
    pub fn give_back(&mut self, delivered: &Delivered) {
        let _ = self.settle(delivered, Settle::Reject { requeue: true });
    }
    /// Publishes, and waits for a reply, for as long as for any other request unless told
    /// otherwise. A message that can't be routed comes back.
    ///
    /// # Errors
    /// Why the connection is closed; [`Error::Full`]; [`Error::InvalidArgument`] for what the
    /// broker would refuse, and when the message has one of the properties by which the reply finds
    /// its way.
    pub fn call(
        &mut self,
        publish: &Publish<'_>,
        timeout: Option<Duration>,
    ) -> Result<PromiseId, Error> {
        self.check_open()?;
        self.session
            .publishing
            .call(&mut self.session.cx, publish, timeout)
    }
    /// Starts a consumer on a channel of its own.
    ///
    /// # Errors
    /// Why the connection is closed; [`Error::Full`]; [`Error::InvalidArgument`] if the request
    /// does not fit into a frame, or the queue name is empty.
    pub fn consume(&mut self, consume: &Consume<'_>) -> Result<PromiseId, Error> {
        self.check_to_request()?;
        let outcome = self
            .session
            .consuming
            .consume(&mut self.session.cx, consume);
        self.session.start_queued();
        outcome
    }

    /// Starts a consumer of several queues, with one channel and one prefetch count for all of
    /// them. The prefetch count and `no_ack` of each are not looked at.
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
        let outcome = self.session.consuming.consume_multi(
            &mut self.session.cx,
            queues,
            prefetch_count,
            no_ack,
        );
        self.session.start_queued();
        outcome
    }

    /// Changes how many messages of a live consumer may be unsettled; 0 for no limit.
    ///
    /// The count that several queues share is the channel's, and can be changed. Else a broker
    /// fixes it when a consumer starts: a higher one starts a second consumer for the difference,
    /// on the same channel and into the same buffer, and a lower one starts a second consumer for
    /// all of it and ends the first.
    ///
    /// # Errors
    /// Why the connection is closed; [`Error::Full`]; [`Error::Stale`] when the consumer has ended;
    /// [`Error::InvalidArgument`] for an exclusive consumer, beside which the broker lets no second
    /// one start.
    pub fn qos(&mut self, id: ConsumerId, prefetch_count: u16) -> Result<PromiseId, Error> {
        self.check_to_request()?;
        self.session
            .consuming
            .qos(&mut self.session.cx, id, prefetch_count)
    }

    /// Has the broker take back what a live consumer holds, and deliver it again, to this consumer
    /// or another. From here on the deliveries that are held are stale.
    ///
    /// # Errors
    /// Why the connection is closed; [`Error::Full`]; [`Error::Stale`] when the consumer has ended.
    pub fn recover(&mut self, id: ConsumerId) -> Result<PromiseId, Error> {
        self.check_to_request()?;
        let outcome = self.session.consuming.recover(&mut self.session.cx, id);
        self.proceed_if_needed();
        outcome
    }

    /// How many deliveries wait to be taken.
    pub(crate) fn buffered_deliveries(&self) -> usize {
        self.session.consuming.buffered_deliveries()
    }

    /// Takes up to so many deliveries of a consumer, behind those that are there. When there are
    /// none, `into` may have another allocation afterwards, or none.
    pub fn take_deliveries(
        &mut self,
        consumer: ConsumerId,
        most: usize,
        into: &mut VecDeque<Delivered>,
    ) {
        self.session
            .consuming
            .take_deliveries(&mut self.session.cx, consumer, most, into);
        self.proceed_if_needed();
    }

    /// Why a consumer has ended, if it has. Deliveries may still wait to be taken.
    #[must_use]
    pub fn ended(&self, consumer: ConsumerId) -> Option<&Ended> {
        self.session.consuming.ended(consumer)
    }

    /// Returns the queues that a consumer of several queues has lost while it goes on with the
    /// others. Each comes with the name at the start of the consumer and the reason.
    pub fn ended_queues(
        &self,
        consumer: ConsumerId,
    ) -> impl Iterator<Item = (ShortStr<'_>, &Ended)> {
        self.session.consuming.ended_queues(consumer)
    }

    /// How many deliveries of a consumer were dropped with connections that went, because they
    /// could not be settled any more.
    #[must_use]
    pub fn lost_deliveries(&self, consumer: ConsumerId) -> u64 {
        self.session.consuming.lost_deliveries(consumer)
    }

    /// Counts deliveries that were taken from a consumer and dropped, because they can't be settled
    /// any more.
    pub fn lose_taken(&mut self, consumer: ConsumerId, count: u64) {
        self.session.consuming.lose_taken(consumer, count);
    }

    /// The tag that its holder knows a consumer by.
    #[must_use]
    pub fn consumer_tag(&self, consumer: ConsumerId) -> Option<&str> {
        self.session.consuming.consumer_tag(consumer)
    }

    /// The queues of a consumer, those that the broker names by the first of their names, each with
    /// the tag that its holder knows it by.
    pub fn consumer_queues(
        &self,
        consumer: ConsumerId,
    ) -> impl Iterator<Item = (ShortStr<'_>, &str)> {
        self.session.consuming.consumer_queues(consumer)
    }
    /// Ends a consumer. Its buffered deliveries go back to the queue once the broker has confirmed
    /// the cancel. Deliveries that need no ack stay buffered, because they would be lost.
    ///
    /// # Errors
    /// Why the connection is closed; [`Error::Full`]; [`Error::Stale`] when the consumer has ended.
    pub fn cancel(&mut self, id: ConsumerId) -> Result<PromiseId, Error> {
        self.check_to_request()?;
        let outcome = self.session.consuming.cancel(&mut self.session.cx, id);
        self.proceed_if_needed();
        outcome
    }

    /// Tells that nobody holds that consumer any more. It is cancelled, and what it has buffered
    /// goes back.
    pub fn drop_consumer(&mut self, id: ConsumerId) {
        self.session
            .consuming
            .drop_consumer(&mut self.session.cx, id);
        self.proceed_if_needed();
    }
    /// Returns the number of bytes that the transport has not taken, including those of queued
    /// publishes.
    #[must_use]
    pub fn outgoing_octets(&self) -> usize {
        self.session.publishing.outgoing_bytes(&self.session.cx)
    }

    /// Returns the error of a timeout: [`Error::ReadingPaused`] if reading is paused.
    pub(crate) fn timed_out(&self, what: &'static str, after: Duration) -> Error {
        self.session.consuming.timed_out(what, after)
    }
    /// Whether another publish would be accepted.
    #[must_use]
    pub fn has_room_to_publish(&self) -> bool {
        self.session
            .publishing
            .has_room_to_publish(&self.session.cx)
    }

    /// Publishes. The promise is answered when the broker has confirmed the message.
    ///
    /// # Errors
    /// Why the connection is closed; [`Error::Full`]; [`Error::InvalidArgument`] for what the
    /// broker would refuse.
    pub fn publish(&mut self, publish: &Publish<'_>) -> Result<PromiseId, Error> {
        self.check_open()?;
        self.session
            .publishing
            .publish(&mut self.session.cx, publish)
    }

    /// Publishes without asking for a confirm. The promise is answered when the message stands in
    /// the order of what is to be written, which is at once unless it is held back. What becomes of
    /// it then, nobody is told.
    ///
    /// # Errors
    /// As [`publish`](Self::publish), and [`Error::InvalidArgument`] when the message is to come
    /// back if it can't be routed.
    pub fn publish_unconfirmed(&mut self, publish: &Publish<'_>) -> Result<PromiseId, Error> {
        self.check_open()?;
        self.session
            .publishing
            .publish_unconfirmed(&mut self.session.cx, publish)
    }
    /// Whether another request would be accepted.
    #[must_use]
    pub fn has_room_to_request(&self) -> bool {
        self.session.has_room_to_request()
    }

    /// Sends a request: any method of the classes `exchange` and `queue` that has a reply and wants
    /// it, or `basic.get`.
    ///
    /// # Errors
    /// Why the connection is closed; [`Error::Full`]; [`Error::InvalidArgument`] if the request
    /// does not fit into a frame, or the queue name is empty.
    pub fn request<'a>(&mut self, method: impl Into<Method<'a>>) -> Result<PromiseId, Error> {
        self.check_to_request()?;
        let outcome = self.session.requests.request(&mut self.session.cx, method);
        self.session.start_queued();
        outcome
    }

    /// The name that a queue has now.
    #[must_use]
    pub fn current_name<'n>(&self, name: &'n [u8]) -> Cow<'n, [u8]> {
        self.session.cx.current_name(name)
    }
    /// Whether another publish of a transaction would be accepted.
    #[must_use]
    pub fn has_room_to_transact(&self) -> bool {
        self.session
            .transactions
            .has_room_to_transact(&self.session.cx, &self.session.publishing)
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// Why the connection is closed; [`Error::Full`].
    pub fn transaction(&mut self) -> Result<PromiseId, Error> {
        self.check_to_request()?;
        let outcome = self.session.transactions.transaction(&mut self.session.cx);
        self.session.start_queued();
        outcome
    }

    /// Publishes within a transaction. The promise is answered at once, and no event tells of it:
    /// what comes of the publish, the commit tells.
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
        self.session.transactions.publish_in(
            &mut self.session.cx,
            &mut self.session.publishing,
            id,
            publish,
        )
    }

    /// Gets a message within a transaction, so that its acknowledgement is a part of it. If the
    /// broker does not reply in time, the transaction fails.
    ///
    /// # Errors
    /// Why the connection is closed, or the transaction has failed; [`Error::Full`];
    /// [`Error::InvalidArgument`] if the queue name is empty.
    pub fn get_in(&mut self, id: TransactionId, get: basic::Get<'_>) -> Result<PromiseId, Error> {
        self.check_to_request()?;
        self.session
            .transactions
            .get_in(&mut self.session.cx, id, get)
    }

    /// Has everything of a transaction take effect. What it got and did not settle goes back to the
    /// queues.
    ///
    /// # Errors
    /// Why the connection is closed, or the transaction has failed, which ends it.
    pub fn commit(&mut self, id: TransactionId) -> Result<PromiseId, Error> {
        self.check_open()?;
        self.session.transactions.commit(&mut self.session.cx, id)
    }

    /// Has nothing of a transaction take effect.
    ///
    /// # Errors
    /// Why the connection is closed, or the transaction has failed, which ends it.
    pub fn rollback(&mut self, id: TransactionId) -> Result<PromiseId, Error> {
        self.check_open()?;
        self.session.transactions.rollback(&mut self.session.cx, id)
    }

    /// Tells that nobody holds that transaction any more. Unless it was committed it is rolled
    /// back, by closing its channel.
    pub fn drop_transaction(&mut self, id: TransactionId) {
        self.session
            .transactions
            .drop_transaction(&mut self.session.cx, id);
    }
}
