//! The transactions of a connection, and their phases (spec 1.9).

use crate::error::Error;
use crate::machine::ids::{ChannelNumber, PromiseId, TransactionId};
use crate::message::Returned;
use std::collections::{BTreeMap, VecDeque};

/// The phase of a transaction.
#[derive(Debug)]
pub(crate) enum TransactionPhase {
    /// `select-ok` is pending.
    Starting(PromiseId),
    /// It has begun.
    Open,
    /// `commit-ok` is pending.
    Committing(PromiseId),
    /// `rollback-ok` is pending.
    RollingBack(PromiseId),
    /// The channel is closed: by the broker, or because a get timed out. The error has not been
    /// reported yet.
    Failed(Error),
}

/// A transaction. It has a channel unless it has failed.
#[derive(Debug)]
pub(crate) struct Transaction {
    pub(crate) channel: ChannelNumber,
    pub(crate) phase: TransactionPhase,
    /// `false` while the broker has stopped content with `channel.flow`.
    pub(crate) flows: bool,
    /// The number of mandatory and immediate publishes that were not returned. It bounds
    /// `returned`.
    pub(crate) returnable: usize,
    /// It has a publish with the flag `immediate`.
    pub(crate) has_immediate: bool,
    /// The returned publishes.
    pub(crate) returned: Vec<Returned>,
}

/// A transaction that is queued for its channel.
#[derive(Debug)]
pub(crate) struct PendingTransaction {
    pub(crate) promise: PromiseId,
    /// It may have closed an earlier connection. See
    /// [`PendingRequest`](crate::machine::request::pending::PendingRequest).
    pub(crate) is_possible_cause: bool,
}

/// The transactions of a connection.
#[derive(Debug, Default)]
pub(crate) struct Transactions {
    /// The transactions with a channel, and the failed ones whose error is not reported.
    transactions: BTreeMap<TransactionId, Transaction>,
    /// The number of transactions that were ever added.
    issued: u64,
    /// The transactions that are queued for a channel.
    pub(crate) queued: VecDeque<PendingTransaction>,
}

impl Transactions {
    /// Adds a transaction on a channel.
    pub(crate) fn add(&mut self, channel: ChannelNumber, promise: PromiseId) -> TransactionId {
        self.issued += 1;
        let id = TransactionId(self.issued);
        let phase = TransactionPhase::Starting(promise);
        self.transactions.insert(
            id,
            Transaction {
                channel,
                phase,
                flows: true,
                returnable: 0,
                has_immediate: false,
                returned: Vec::new(),
            },
        );
        id
    }

    pub(crate) fn get(&self, id: TransactionId) -> Option<&Transaction> {
        self.transactions.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: TransactionId) -> Option<&mut Transaction> {
        self.transactions.get_mut(&id)
    }

    pub(crate) fn remove(&mut self, id: TransactionId) -> Option<Transaction> {
        self.transactions.remove(&id)
    }

    /// Returns the transaction that uses a channel.
    pub(crate) fn on(
        &mut self,
        channel: ChannelNumber,
    ) -> Option<(TransactionId, &mut Transaction)> {
        let uses_channel = |transaction: &Transaction| {
            transaction.channel == channel
                && !matches!(transaction.phase, TransactionPhase::Failed(_))
        };
        let found = self
            .transactions
            .iter_mut()
            .find(|(_, transaction)| uses_channel(transaction));
        found.map(|(id, transaction)| (*id, transaction))
    }

    /// Returns the open transactions with their channels.
    pub(crate) fn open(&self) -> impl Iterator<Item = (TransactionId, ChannelNumber)> + '_ {
        let open = self
            .transactions
            .iter()
            .filter(|(_, it)| matches!(it.phase, TransactionPhase::Open));
        open.map(|(id, transaction)| (*id, transaction.channel))
    }

    /// Returns `true` if an open or ending transaction has a publish with the flag `immediate`.
    pub(crate) fn has_immediate(&self) -> bool {
        let has_channel = |it: &Transaction| !matches!(it.phase, TransactionPhase::Failed(_));
        let mut all = self.transactions.values();
        all.any(|it| it.has_immediate && has_channel(it))
    }

    /// Returns `true` if content may flow on all channels. A failed transaction has no channel.
    pub(crate) fn all_flow(&self) -> bool {
        let flows = |it: &Transaction| it.flows || matches!(it.phase, TransactionPhase::Failed(_));
        self.transactions.values().all(flows)
    }

    /// Returns `true` if a promise is that of a commit.
    pub(crate) fn is_committing(&self, promise: PromiseId) -> bool {
        let phases = self
            .transactions
            .values()
            .map(|transaction| &transaction.phase);
        phases
            .into_iter()
            .any(|phase| matches!(phase, TransactionPhase::Committing(found) if *found == promise))
    }

    /// Fails the open transactions after a loss of the connection. Removes those with a pending
    /// reply, and returns their phases.
    pub(crate) fn suspend(&mut self, error: &Error) -> Vec<TransactionPhase> {
        let mut ended = Vec::new();
        for (id, transaction) in std::mem::take(&mut self.transactions) {
            match transaction.phase {
                TransactionPhase::Open => {
                    let phase = TransactionPhase::Failed(error.clone());
                    self.transactions.insert(
                        id,
                        Transaction {
                            phase,
                            flows: true,
                            ..transaction
                        },
                    );
                }
                TransactionPhase::Failed(_) => drop(self.transactions.insert(id, transaction)),
                phase => ended.push(phase),
            }
        }
        ended
    }

    /// Removes all transactions. Returns the promises of pending commits.
    pub(crate) fn drain(&mut self) -> Vec<PromiseId> {
        self.queued.clear();
        let all = std::mem::take(&mut self.transactions).into_values();
        all.filter_map(|it| {
            if let TransactionPhase::Committing(promise) = it.phase {
                Some(promise)
            } else {
                None
            }
        })
        .collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.transactions.is_empty() && self.queued.is_empty()
    }
}
