//! Transactions: publishes and acknowledgements that take effect together or not at all.

use super::publish::{BasicPublish, PublishMode};
use super::{BasicGet, Client, Promise};
use crate::error::Error;
use crate::machine::{Body, Connection, PromiseId, TransactionId};
use crate::message::Returned;
use std::borrow::Cow;

/// A request that begins a transaction. Returned by [`Client::transaction`].
#[derive(Clone, Debug)]
#[must_use = "a request does nothing unless it is awaited or sent"]
pub struct BeginTransaction<'a> {
    client: &'a Client,
}

request!(
    BeginTransaction,
    Request,
    Transaction,
    |_request, machine| machine.transaction()
);

/// Publishes and acknowledgements that take effect together on [`commit`](Self::commit).
///
/// Dropping it rolls it back. Transactions are slow: the broker writes all data to disk before it
/// replies to a commit. If a publish only has to be safe by itself, await the confirm of
/// [`Client::basic_publish`] instead.
///
/// ```
/// # puka_test_suite::example(async |client| {
/// # client.queue_declare("in").durable(true).await?;
/// # client.queue_declare("out").durable(true).await?;
/// # client.basic_publish("", "in", "one").await?;
/// let transaction = client.transaction().await?;
/// let message = transaction.basic_get("in").await?.expect("one was published");
/// transaction.basic_publish("", "out", message.body()).await?;
/// message.ack()?;
/// transaction.commit().await?;
/// # assert_eq!(client.queue_purge("in").await?, 0);
/// # assert_eq!(client.queue_purge("out").await?, 1);
/// # client.close().await
/// # });
/// ```
#[derive(Debug)]
#[must_use = "a transaction that is dropped is rolled back"]
pub struct Transaction {
    client: Client,
    id: TransactionId,
    ended: bool,
}

impl Transaction {
    pub(super) fn new(client: Client, id: TransactionId) -> Self {
        Self {
            client,
            id,
            ended: false,
        }
    }

    /// Publishes a message when the transaction is committed. Resolves when the message is queued
    /// for writing; the commit reports its outcome.
    ///
    /// # Errors
    /// [`InvalidArgument`](Error::InvalidArgument) if the broker would refuse the message; the
    /// error with which the broker ended the transaction, such as [`NotFound`](Error::NotFound) for
    /// the exchange of an earlier publish.
    ///
    /// # Spec
    /// `basic.publish`, 1.8.3.7
    pub fn basic_publish<'a>(
        &'a self,
        exchange: impl Into<Cow<'a, str>>,
        routing_key: impl Into<Cow<'a, str>>,
        body: impl Into<Body<'a>>,
    ) -> BasicPublish<'a> {
        let publish = self.client.basic_publish(exchange, routing_key, body);
        publish.with_mode(PublishMode::Transaction(self.id))
    }

    /// Requests one message of a queue, and resolves to `None` if the queue is empty. Settling the
    /// message takes effect with the commit. A message that is not settled before the commit goes
    /// back to its queue at the end of the transaction, and settling it later returns
    /// [`Stale`](Error::Stale).
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound) if the queue does not exist, which ends the transaction.
    /// [`Timeout`](Error::Timeout) ends it, too: a broker replies in order, so it could not confirm
    /// the commit before it replies to this.
    ///
    /// # Spec
    /// `basic.get`, 1.8.3.10
    pub fn basic_get<'a>(&'a self, queue: impl Into<Cow<'a, str>>) -> BasicGet<'a> {
        self.client.basic_get(queue).within(self.id)
    }

    /// Ends the transaction with a call of the state machine: a commit or a rollback.
    fn end(
        mut self,
        end: impl FnOnce(&mut Connection, TransactionId) -> Result<PromiseId, Error>,
    ) -> Result<PromiseId, Error> {
        self.ended = true;
        self.client
            .handle()
            .link()
            .with(|machine| end(machine, self.id))
    }

    /// Commits the transaction, and resolves to the mandatory messages that were returned as
    /// unroutable.
    ///
    /// # Errors
    /// The error with which the broker ended the transaction before: nothing took effect.
    /// [`PreconditionFailed`](Error::PreconditionFailed) if a queue refused a message: other queues
    /// keep what they accepted. [`Unconfirmed`](Error::Unconfirmed) if the connection was lost or
    /// the deadline passed, so that the outcome is unknown.
    ///
    /// # Cancel safety
    /// Dropping the promise does not cancel the commit.
    ///
    /// # Spec
    /// `tx.commit`, 1.9.2.3
    #[doc(alias = "tx_commit")]
    pub fn commit(self) -> Promise<Vec<Returned>> {
        let handle = self.client.handle().clone();
        Promise::from_started(&handle, self.end(Connection::commit))
    }

    /// Rolls the transaction back: nothing takes effect. Messages of a `basic_get` go back to their
    /// queues.
    ///
    /// # Errors
    /// The error with which the broker ended the transaction before, or the end of the connection.
    /// In both cases nothing took effect.
    ///
    /// # Cancel safety
    /// Dropping the promise does not cancel the rollback.
    ///
    /// # Spec
    /// `tx.rollback`, 1.9.2.5
    #[doc(alias = "tx_rollback")]
    pub fn rollback(self) -> Promise<()> {
        let handle = self.client.handle().clone();
        Promise::from_started(&handle, self.end(Connection::rollback))
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if !self.ended {
            self.client
                .handle()
                .link()
                .with(|machine| machine.drop_transaction(self.id));
        }
    }
}

impl Client {
    /// Begins a transaction on its own channel.
    ///
    /// # Spec
    /// `tx.select`, 1.9.2.1
    #[doc(alias = "tx_select")]
    pub fn transaction(&self) -> BeginTransaction<'_> {
        BeginTransaction { client: self }
    }
}
