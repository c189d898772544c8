//! Transactions: publishes and acknowledgements that take effect together, or not at all.

use super::publish::{BasicPublish, Via};
use super::{BasicGet, Client, Promise};
use crate::error::Error;
use crate::machine::{Body, Connection, PromiseId, TransactionId};
use crate::message::Returned;
use std::borrow::Cow;

/// Begins a transaction. Made by [`Client::transaction`].
#[derive(Clone, Debug)]
#[must_use = "a request does nothing unless it is awaited or sent"]
pub struct BeginTransaction<'a> {
    client: &'a Client,
}

request!(BeginTransaction, Request, Transaction, |_it, machine| machine.transaction());

/// Publishes and acknowledgements that take effect together when it is [committed](Self::commit).
///
/// Dropping it rolls it back. It is slow: the broker writes everything to disk before it answers a commit. When a publish has
/// to be sure, and nothing else depends on it, await the confirm of [`Client::basic_publish`] instead.
///
/// ```
/// # puka_test_suite::example(async |client| {
/// # client.queue_declare("in").await?;
/// # client.queue_declare("out").await?;
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
        Self { client, id, ended: false }
    }

    /// Publishes a message when the transaction is committed. It resolves as soon as the message is on its way; what comes of
    /// it, the commit tells.
    ///
    /// # Errors
    /// [`InvalidArgument`](Error::InvalidArgument) for what the broker would refuse; the error with which the broker ended
    /// the transaction, such as [`NotFound`](Error::NotFound) for an exchange that was published to before.
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
        publish.via(Via::Transaction(self.id))
    }

    /// Asks for one message of a queue; `None` when it has none. When it is settled before the commit, that takes effect with
    /// it. When it is not, it goes back to its queue with the end of the transaction, and settling it is
    /// [`Stale`](Error::Stale).
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound) when there is no such queue, which ends the transaction.
    ///
    /// # Spec
    /// `basic.get`, 1.8.3.10
    pub fn basic_get<'a>(&'a self, queue: impl Into<Cow<'a, str>>) -> BasicGet<'a> {
        self.client.basic_get(queue).within(self.id)
    }

    fn end(
        mut self,
        end: impl FnOnce(&mut Connection, TransactionId) -> Result<PromiseId, Error>,
    ) -> Result<PromiseId, Error> {
        self.ended = true;
        self.client.handle().link().with(|machine| end(machine, self.id))
    }

    /// Has everything take effect, and resolves to the mandatory messages that came back, which were not routed.
    ///
    /// # Errors
    /// The error with which the broker ended the transaction before: nothing took effect.
    /// [`PreconditionFailed`](Error::PreconditionFailed) when a queue refused a message: what other queues took, they keep.
    /// [`Unconfirmed`](Error::Unconfirmed) when the connection went, or the time ran out, and nobody can know.
    ///
    /// # Cancel safety
    /// Dropping the promise takes nothing back.
    ///
    /// # Spec
    /// `tx.commit`, 1.9.2.3
    pub fn commit(self) -> Promise<Vec<Returned>> {
        let handle = self.client.handle().clone();
        self.end(Connection::commit).map_or_else(Promise::failed, |id| Promise::new(handle, id))
    }

    /// Has nothing take effect. Messages that were got go back to their queues.
    ///
    /// # Errors
    /// The error with which the broker ended the transaction before, or the end of the connection. Either way nothing took
    /// effect.
    ///
    /// # Cancel safety
    /// Dropping the promise takes nothing back.
    ///
    /// # Spec
    /// `tx.rollback`, 1.9.2.5
    pub fn rollback(self) -> Promise<()> {
        let handle = self.client.handle().clone();
        self.end(Connection::rollback).map_or_else(Promise::failed, |id| Promise::new(handle, id))
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if !self.ended {
            self.client.handle().link().with(|machine| machine.drop_transaction(self.id));
        }
    }
}

impl Client {
    /// Begins a transaction, on a channel of its own.
    ///
    /// # Spec
    /// `tx.select`, 1.9.2.1
    pub fn transaction(&self) -> BeginTransaction<'_> {
        BeginTransaction { client: self }
    }
}
