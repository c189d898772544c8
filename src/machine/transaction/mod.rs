//! Transactions: publishes and acknowledgements that take effect together (spec 1.9).
//!
//! Each transaction has its own channel, which is closed when the transaction ends. A channel
//! cannot leave the transaction mode: "A new transaction starts immediately after a commit"
//! (1.9.2.3).

pub(crate) mod transactions;

use crate::error::Error;
use crate::machine::channel::{Awaited, Channel, Role};
use crate::machine::consume::Consuming;
use crate::machine::context::Context;
use crate::machine::ids::ChannelNumber;
use crate::machine::publish::Publishing;
use crate::machine::publish::check::{check_publish, publish_method};
use crate::machine::recovery::close_cause::CloseCause;
use crate::machine::request::check::check_queue_name;
use crate::machine::request::pending::PendingRequest;
use crate::machine::transaction::transactions::Transactions;
use crate::machine::transaction::transactions::{PendingTransaction, TransactionPhase};
use crate::machine::{PromiseId, Publish, Reply, TransactionId};
use crate::message::{Message, Returned};
use crate::protocol::Table;
use crate::protocol::method::{Encode, MethodInfo, basic, tx};

impl Transactions {
    /// Returns the error of a promise whose deadline has passed: [`Error::Unconfirmed`] for a
    /// commit, which may have taken effect, else `error`.
    pub(crate) fn error_at_timeout(&self, promise: PromiseId, error: Error) -> Error {
        if self.is_committing(promise) {
            Error::Unconfirmed(error.into())
        } else {
            error
        }
    }

    /// Fails the transactions of a lost connection. Those without a `select-ok` are queued again.
    pub(crate) fn suspend_transactions(
        &mut self,
        cx: &mut Context,
        error: &Error,
        close_cause: &CloseCause,
    ) {
        for phase in self.suspend(error) {
            match phase {
                TransactionPhase::Starting(promise) if close_cause.is(promise) => {
                    cx.complete(promise, Err(close_cause.error(error)));
                }
                TransactionPhase::Starting(promise) => {
                    let is_possible_cause = close_cause.may_be(promise);
                    self.queued.push_back(PendingTransaction {
                        promise,
                        is_possible_cause,
                    });
                }
                TransactionPhase::Committing(promise) => {
                    cx.complete(promise, Err(Error::Unconfirmed(error.clone().into())));
                }
                // The broker rolls back the transactions of a lost connection.
                TransactionPhase::RollingBack(promise) => cx.complete(promise, Ok(Reply::Done)),
                // Unreachable: `suspend` does not return these.
                TransactionPhase::Open | TransactionPhase::Failed(_) => {}
            }
        }
    }

    /// Returns `true` if another publish of a transaction would be accepted.
    pub(crate) fn has_capacity_to_transact(&self, cx: &Context, publishing: &Publishing) -> bool {
        cx.transmit.len() < cx.options.limits.outgoing_bytes
            && publishing.may_publish(cx)
            && self.all_flow()
    }

    /// Queues a transaction for a channel. The promise completes when it has begun.
    pub(crate) fn begin_transaction(&mut self, cx: &mut Context) -> Result<PromiseId, Error> {
        let promise = cx.timed_promise();
        self.queued.push_back(PendingTransaction {
            promise,
            is_possible_cause: false,
        });
        cx.may_start = true;
        Ok(promise)
    }

    /// Starts the queued transactions for which there are channels. Fails them if no channel can
    /// become free.
    pub(crate) fn start_transactions(&mut self, cx: &mut Context, publishing: &mut Publishing) {
        while let Some(&PendingTransaction {
            promise,
            is_possible_cause,
        }) = self.queued.front()
        {
            if is_possible_cause && cx.has_pending_possible_cause() {
                return;
            }
            if !cx.promises.is_pending(promise) {
                self.queued.pop_front();
                continue;
            }
            if !cx.channels.may_open_long_lived() {
                if !cx.channels.are_consumed() {
                    return;
                }
                // No other transaction is about to end, and consumers do not end by themselves.
                self.queued.pop_front();
                cx.complete(promise, Err(Error::ChannelLimit));
                continue;
            }
            let Some(number) = cx.open_channel(Role::Transaction) else {
                publishing.free_channel_number(cx);
                return;
            };
            self.queued.pop_front();
            if is_possible_cause {
                cx.possible_cause = Some(promise);
            }
            let id = self.add(number, promise);
            Self::write_tx(cx, id, number, &tx::Select::INFO, &tx::Select {});
        }
    }

    /// Writes a method of the class `tx`, and adds its pending reply.
    fn write_tx(
        cx: &mut Context,
        id: TransactionId,
        channel: ChannelNumber,
        of: &'static MethodInfo,
        method: &impl Encode,
    ) {
        cx.write(channel, method);
        cx.await_reply(channel, of, Awaited::Transaction { id });
    }

    /// Returns the channel of an open transaction.
    ///
    /// # Errors
    /// The error of a failed transaction; [`Error::Stale`] if it has ended or is ending.
    fn transaction_channel(&self, id: TransactionId) -> Result<ChannelNumber, Error> {
        match self
            .get(id)
            .map(|transaction| (&transaction.phase, transaction.channel))
        {
            Some((TransactionPhase::Open, channel)) => Ok(channel),
            Some((TransactionPhase::Failed(error), _)) => Err(error.clone()),
            _ => Err(Error::Stale),
        }
    }

    /// Publishes a message within a transaction. The promise is complete from the start, and no
    /// event reports it: the commit reports the outcome of the publish.
    pub(crate) fn publish_in(
        &mut self,
        cx: &mut Context,
        publishing: &mut Publishing,
        id: TransactionId,
        publish: &Publish<'_>,
    ) -> Result<PromiseId, Error> {
        let number = self.transaction_channel(id)?;
        if !self.has_capacity_to_transact(cx, publishing) {
            return Err(Error::Full);
        }
        check_publish(cx, publish)?;
        let mut method = publish_method(cx, publish)?;
        let mut renamed = None;
        if cx.topology.has_renamed_queues() {
            renamed = cx.topology.update_publish(&mut method, publish.headers);
        }
        let headers = renamed.as_ref().map(Table::as_ref).or(publish.headers);
        let mut properties = *publish.properties;
        properties.headers = headers.map(Into::into).or(properties.headers);
        cx.transmit
            .append_content(number, &method, &properties, &publish.body)?;
        cx.attention = true;
        if (publish.mandatory || publish.immediate)
            && let Some(transaction) = self.get_mut(id)
        {
            transaction.returnable += 1;
            transaction.has_immediate |= publish.immediate;
        }
        Ok(cx.promises.open_done())
    }

    /// Gets a message within a transaction, so that acknowledging it is a part of the transaction.
    /// If the broker does not reply in time, the transaction fails.
    pub(crate) fn get_in(
        &mut self,
        cx: &mut Context,
        id: TransactionId,
        get: basic::Get<'_>,
    ) -> Result<PromiseId, Error> {
        let number = self.transaction_channel(id)?;
        check_queue_name(get.queue)?;
        let promise = cx.counted_promise();
        let request = PendingRequest {
            in_transaction: true,
            ..PendingRequest::new(promise, &basic::Get::INFO, &get)
        };
        let request = cx.with_current_names(request);
        cx.write(number, &request);
        cx.await_reply(
            number,
            &basic::Get::INFO,
            Awaited::Get {
                request,
                no_ack: get.no_ack,
            },
        );
        Ok(promise)
    }

    /// Commits a transaction. Messages that it got and did not settle are requeued, because its
    /// channel closes.
    pub(crate) fn commit(
        &mut self,
        cx: &mut Context,
        id: TransactionId,
    ) -> Result<PromiseId, Error> {
        let number = self.flush_transaction(cx, id)?;
        let promise = cx.timed_promise();
        self.set_phase(id, TransactionPhase::Committing(promise));
        Self::write_tx(cx, id, number, &tx::Commit::INFO, &tx::Commit {});
        Ok(promise)
    }

    /// Rolls a transaction back.
    pub(crate) fn rollback(
        &mut self,
        cx: &mut Context,
        id: TransactionId,
    ) -> Result<PromiseId, Error> {
        let number = self.flush_transaction(cx, id)?;
        let promise = cx.timed_promise();
        self.set_phase(id, TransactionPhase::RollingBack(promise));
        Self::write_tx(cx, id, number, &tx::Rollback::INFO, &tx::Rollback {});
        Ok(promise)
    }

    /// Writes the collected acks of a transaction that is about to end, and returns its channel.
    /// Removes a failed transaction, because the caller reports its error.
    fn flush_transaction(
        &mut self,
        cx: &mut Context,
        id: TransactionId,
    ) -> Result<ChannelNumber, Error> {
        let found = self.transaction_channel(id);
        let Ok(number) = found else {
            self.remove(id);
            return found;
        };
        cx.flush_channel_acks(number);
        if let Some(channel) = cx.channels.get_mut(number) {
            channel.unsettled.forget();
        }
        Ok(number)
    }

    /// Sets the phase of a transaction.
    fn set_phase(&mut self, id: TransactionId, phase: TransactionPhase) {
        if let Some(transaction) = self.get_mut(id) {
            transaction.phase = phase;
        }
    }

    /// Drops a transaction. An open one is rolled back by closing its channel. One that is
    /// starting, committing or rolling back ends with its reply.
    pub(crate) fn drop_transaction(&mut self, cx: &mut Context, id: TransactionId) {
        let Some(transaction) = self.get(id) else {
            return;
        };
        match transaction.phase {
            TransactionPhase::Open => {
                Self::close_transaction_channel(cx, transaction.channel, &Error::Stale);
                self.remove(id);
            }
            TransactionPhase::Failed(_) => drop(self.remove(id)),
            TransactionPhase::Starting(_)
            | TransactionPhase::Committing(_)
            | TransactionPhase::RollingBack(_) => {}
        }
    }

    /// Closes the channel of a transaction, so that the broker rolls it back. Completes its pending
    /// gets with the error.
    fn close_transaction_channel(cx: &mut Context, number: ChannelNumber, error: &Error) {
        let assembly = cx.channels.take_assembly(number);
        if let Some(channel) = cx.channels.get_mut(number) {
            channel.unsettled.forget();
            let pending = std::mem::take(&mut channel.pending_replies);
            cx.fail_pending_replies(assembly, pending, error);
        }
        cx.close_channel(number);
    }

    /// Fails the open transactions in which a get timed out, and closes their channels. A broker
    /// replies in order, so it could not confirm the commit before it has replied to the get. The
    /// pending replies of such gets would otherwise add up without limit.
    pub(crate) fn fail_overdue_transactions(
        &mut self,
        cx: &mut Context,
        consuming: &mut Consuming,
    ) {
        let (channels, promises) = (&cx.channels, &cx.promises);
        let is_overdue = |number: ChannelNumber| {
            let mut requests = channels.get(number).into_iter().flat_map(Channel::requests);
            requests.any(|request| !promises.is_pending(request.promise))
        };
        let overdue: Vec<_> = self
            .open()
            .filter(|(_, number)| is_overdue(*number))
            .collect();
        for (id, number) in overdue {
            let after = cx.options.timeouts.request;
            let error = consuming.timeout_error("a get of the transaction", after);
            self.set_phase(id, TransactionPhase::Failed(error.clone()));
            Self::close_transaction_channel(cx, number, &error);
        }
    }

    /// Handles the reply to `tx.select`, `tx.commit` or `tx.rollback`.
    pub(crate) fn handle_transaction_reply(&mut self, cx: &mut Context, id: TransactionId) {
        // Unreachable: a transaction is removed only when its channel is closed, and then its
        // pending replies are dropped.
        let Some(transaction) = self.get_mut(id) else {
            return;
        };
        match std::mem::replace(&mut transaction.phase, TransactionPhase::Open) {
            TransactionPhase::Starting(promise) => cx.complete(promise, Ok(Reply::Transaction(id))),
            TransactionPhase::Committing(promise) => {
                let returned = std::mem::take(&mut transaction.returned);
                self.drop_transaction(cx, id);
                cx.complete(promise, Ok(Reply::Committed(returned)));
            }
            TransactionPhase::RollingBack(promise) => {
                self.drop_transaction(cx, id);
                cx.complete(promise, Ok(Reply::Done));
            }
            // Unreachable: no `tx` reply is pending in an open transaction, and a failed one has no
            // channel.
            phase @ (TransactionPhase::Open | TransactionPhase::Failed(_)) => {
                transaction.phase = phase
            }
        }
    }

    /// Stores a returned mandatory or immediate publish, which the commit reports. Drops it if it
    /// is more than were published.
    pub(crate) fn handle_return_in_transaction(
        &mut self,
        channel: ChannelNumber,
        code: u16,
        text: &str,
        message: Message,
    ) {
        // The peer may return a message on a channel of any role.
        let Some((_, transaction)) = self.on(channel) else {
            return;
        };
        if transaction.returnable > 0 {
            transaction.returnable -= 1;
            let reply_text = text.to_owned();
            transaction.returned.push(Returned {
                reply_code: code.into(),
                reply_text,
                message,
            });
        }
    }

    /// Fails a transaction whose channel the broker closed. "Note that if a commit fails, the
    /// server raises a channel exception" (1.9.2.4). Nothing of the transaction takes effect.
    pub(crate) fn handle_transaction_closed(
        &mut self,
        cx: &mut Context,
        channel: ChannelNumber,
        error: &Error,
    ) {
        // Most channels have no transaction.
        let Some((id, transaction)) = self.on(channel) else {
            return;
        };
        match transaction.phase {
            TransactionPhase::Starting(promise)
            | TransactionPhase::Committing(promise)
            | TransactionPhase::RollingBack(promise) => {
                self.remove(id);
                cx.complete(promise, Err(error.clone()));
            }
            TransactionPhase::Open | TransactionPhase::Failed(_) => {
                transaction.phase = TransactionPhase::Failed(error.clone())
            }
        }
    }
}
