//! Transactions: publishes and acknowledgements that take effect together (spec 1.9).
//!
//! Each has a channel of its own, which is closed when it ends: a broker knows no way to leave the transaction mode.

use super::requesting::{check_queue_name, info};
use super::Connection;
use crate::error::Error;
use crate::machine::channel::{Awaited, Channel, Role};
use crate::machine::requested::WaitingRequest;
use crate::machine::transactions::{Phase, WaitingTransaction};
use crate::machine::{PromiseId, Publish, Reply, TransactionId};
use crate::message::{Message, Returned};
use crate::protocol::method::{Encode, MethodInfo, basic, tx};
use crate::protocol::{MethodId, Table};

impl Connection {
    /// Whether another publish of a transaction would be accepted.
    #[must_use]
    pub fn has_room_to_transact(&self) -> bool {
        self.out.len() + self.in_hand < self.options.limits.outgoing_octets
            && self.may_publish()
            && self.transactions.all_flow()
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// Why the connection is closed; [`Error::Full`].
    pub fn transaction(&mut self) -> Result<PromiseId, Error> {
        self.check_open()?;
        if !self.has_room_to_request() {
            return Err(Error::Full);
        }
        let promise = self.timed_promise();
        self.transactions.waiting.push_back(WaitingTransaction { promise, is_suspected: false });
        self.proceed();
        Ok(promise)
    }

    /// Starts the transactions for which there are channels.
    pub(super) fn start_transactions(&mut self) {
        while let Some(&WaitingTransaction { promise, is_suspected }) = self.transactions.waiting.front() {
            if is_suspected && self.is_trying() {
                return;
            }
            if !self.promises.is_waiting(promise) {
                self.transactions.waiting.pop_front();
                continue;
            }
            if !self.channels.may_keep() {
                if !self.channels.are_consumed() {
                    return;
                }
                // No other transaction is about to end, and consumers do not end by themselves.
                self.transactions.waiting.pop_front();
                self.answer(promise, Err(Error::ChannelLimit));
                continue;
            }
            let Some(number) = self.open_channel(Role::Transaction) else {
                self.make_room();
                return;
            };
            self.transactions.waiting.pop_front();
            if is_suspected {
                self.trial = Some(promise);
            }
            let id = self.transactions.add(number, promise);
            self.transact(id, number, tx::Select::ID, &tx::Select {});
        }
    }

    fn transact(&mut self, id: TransactionId, channel: u16, of: MethodId, method: &impl Encode) {
        let Ok(info): Result<&'static MethodInfo, _> = info(of) else { return };
        self.write(channel, method);
        self.await_reply(channel, Awaited::Transaction { id, method: info });
    }

    /// The channel of a transaction that goes on.
    fn transaction_channel(&self, id: TransactionId) -> Result<u16, Error> {
        match self.transactions.get(id).map(|transaction| (&transaction.phase, transaction.channel)) {
            Some((Phase::Open, channel)) => Ok(channel),
            Some((Phase::Failed(error), _)) => Err(error.clone()),
            _ => Err(Error::Stale),
        }
    }

    /// Publishes within a transaction. The promise is answered at once, and no event tells of it: what comes of the publish, the
    /// commit tells.
    ///
    /// # Errors
    /// Why the connection is closed, or the transaction has failed; [`Error::Full`]; [`Error::InvalidArgument`] for what
    /// the broker would refuse.
    pub fn publish_in(&mut self, id: TransactionId, publish: &Publish<'_>) -> Result<PromiseId, Error> {
        self.check_open()?;
        let number = self.transaction_channel(id)?;
        if !self.has_room_to_transact() {
            return Err(Error::Full);
        }
        self.check_publish(publish)?;
        let mut method = self.publish_method(publish)?;
        let mut renamed = None;
        if self.topology.has_renamed() {
            renamed = self.topology.address(&mut method, publish.headers);
        }
        let headers = renamed.as_ref().map(Table::as_ref).or(publish.headers);
        let mut properties = *publish.properties;
        properties.headers = headers.map(Into::into).or(properties.headers);
        self.out.content(number, self.frame_max, &method, &properties, &publish.body)?;
        self.attention = true;
        if let Some(transaction) = self.transactions.get_mut(id).filter(|_| publish.mandatory) {
            transaction.mandatory += 1;
        }
        Ok(self.promises.open_done())
    }

    /// Gets a message within a transaction, so that its acknowledgement is a part of it. If the
    /// broker does not reply in time, the transaction fails.
    ///
    /// # Errors
    /// Why the connection is closed, or the transaction has failed; [`Error::Full`];
    /// [`Error::InvalidArgument`] if the queue name is empty.
    pub fn get_in(&mut self, id: TransactionId, get: basic::Get<'_>) -> Result<PromiseId, Error> {
        self.check_open()?;
        let number = self.transaction_channel(id)?;
        check_queue_name(get.queue)?;
        if !self.has_room_to_request() {
            return Err(Error::Full);
        }
        let info = info(basic::Get::ID)?;
        let promise = self.counted_promise();
        let request = WaitingRequest { in_transaction: true, ..WaitingRequest::new(promise, info, &get) };
        let request = self.with_current_names(request);
        self.write(number, &request);
        self.await_reply(number, Awaited::Get { request, no_ack: get.no_ack });
        Ok(promise)
    }

    /// Has everything of a transaction take effect. What it got and did not settle goes back to the queues.
    ///
    /// # Errors
    /// Why the connection is closed, or the transaction has failed, which ends it.
    pub fn commit(&mut self, id: TransactionId) -> Result<PromiseId, Error> {
        let number = self.end_transaction(id)?;
        let promise = self.timed_promise();
        self.set_phase(id, Phase::Committing(promise));
        self.transact(id, number, tx::Commit::ID, &tx::Commit {});
        Ok(promise)
    }

    /// Has nothing of a transaction take effect.
    ///
    /// # Errors
    /// Why the connection is closed, or the transaction has failed, which ends it.
    pub fn rollback(&mut self, id: TransactionId) -> Result<PromiseId, Error> {
        let number = self.end_transaction(id)?;
        let promise = self.timed_promise();
        self.set_phase(id, Phase::RollingBack(promise));
        self.transact(id, number, tx::Rollback::ID, &tx::Rollback {});
        Ok(promise)
    }

    /// Writes what belongs to a transaction and is not written; from here on nothing more does.
    fn end_transaction(&mut self, id: TransactionId) -> Result<u16, Error> {
        self.check_open()?;
        let found = self.transaction_channel(id);
        let Ok(number) = found else {
            self.transactions.remove(id);
            return found;
        };
        self.flush_channel_acks(number);
        if let Some(channel) = self.channels.get_mut(number) {
            channel.unsettled.forget();
        }
        Ok(number)
    }

    fn set_phase(&mut self, id: TransactionId, phase: Phase) {
        if let Some(transaction) = self.transactions.get_mut(id) {
            transaction.phase = phase;
        }
    }

    /// Tells that nobody holds that transaction any more. Unless it was committed it is rolled back, by closing its channel.
    pub fn drop_transaction(&mut self, id: TransactionId) {
        let Some(transaction) = self.transactions.get(id) else { return };
        match transaction.phase {
            Phase::Open => {
                self.roll_back(transaction.channel, &Error::Stale);
                self.transactions.remove(id);
            }
            Phase::Failed(_) => drop(self.transactions.remove(id)),
            Phase::Starting(_) | Phase::Committing(_) | Phase::RollingBack(_) => {}
        }
    }

    /// Closes the channel of a transaction, so that the broker rolls it back. Answers its pending
    /// gets with the error.
    fn roll_back(&mut self, number: u16, error: &Error) {
        let assembly = self.channels.take_assembly(number);
        if let Some(channel) = self.channels.get_mut(number) {
            channel.unsettled.forget();
            let awaited = std::mem::take(&mut channel.awaited);
            self.answer_awaited(assembly, awaited, error);
        }
        self.close_channel(number);
    }

    /// Fails the open transactions in which a get timed out, and closes their channels. A broker
    /// replies in order, so it cannot confirm the commit before it has replied to the get. The
    /// entries of such gets would otherwise add up without limit.
    pub(super) fn fail_overdue_transactions(&mut self) {
        let (channels, promises) = (&self.channels, &self.promises);
        let is_overdue = |number: u16| {
            let mut requests = channels.get(number).into_iter().flat_map(Channel::requests);
            requests.any(|request| !promises.is_waiting(request.promise))
        };
        let overdue: Vec<_> = self.transactions.open().filter(|(_, number)| is_overdue(*number)).collect();
        for (id, number) in overdue {
            let after = self.options.deadlines.request;
            let error = self.timed_out("a get of the transaction", after);
            self.set_phase(id, Phase::Failed(error.clone()));
            self.roll_back(number, &error);
        }
    }

    /// The broker has done what it was told of a transaction.
    pub(super) fn transaction_replied(&mut self, id: TransactionId) {
        let Some(transaction) = self.transactions.get_mut(id) else { return };
        match std::mem::replace(&mut transaction.phase, Phase::Open) {
            Phase::Starting(promise) => self.answer(promise, Ok(Reply::Transaction(id))),
            Phase::Committing(promise) => {
                let returned = std::mem::take(&mut transaction.returned);
                self.drop_transaction(id);
                self.answer(promise, Ok(Reply::Committed(returned)));
            }
            Phase::RollingBack(promise) => {
                self.drop_transaction(id);
                self.answer(promise, Ok(Reply::Done));
            }
            phase @ (Phase::Open | Phase::Failed(_)) => transaction.phase = phase,
        }
    }

    /// A mandatory publish of a transaction came back. The commit tells of it.
    pub(super) fn returned_in_transaction(&mut self, channel: u16, code: u16, text: &str, message: Message) {
        let Some((_, transaction)) = self.transactions.on(channel) else { return };
        if transaction.mandatory > 0 {
            transaction.mandatory -= 1;
            let reply_text = text.to_owned();
            transaction.returned.push(Returned { reply_code: code.into(), reply_text, message });
        }
    }

    /// The broker closed the channel of a transaction: nothing of it has taken effect.
    pub(super) fn transaction_closed(&mut self, channel: u16, error: &Error) {
        let Some((id, transaction)) = self.transactions.on(channel) else { return };
        match transaction.phase {
            Phase::Starting(promise) | Phase::Committing(promise) | Phase::RollingBack(promise) => {
                self.transactions.remove(id);
                self.answer(promise, Err(error.clone()));
            }
            Phase::Open | Phase::Failed(_) => transaction.phase = Phase::Failed(error.clone()),
        }
    }
}
