//! Transactions: a channel each, and what is known of its end (spec 1.9).

use crate::error::Error;
use crate::machine::ids::{PromiseId, TransactionId};
use crate::message::Returned;
use std::collections::{BTreeMap, VecDeque};

#[derive(Debug)]
pub(crate) enum TransactionPhase {
    /// `select-ok` is still to come.
    Starting(PromiseId),
    Open,
    /// `commit-ok` is still to come.
    Committing(PromiseId),
    /// `rollback-ok` is still to come.
    RollingBack(PromiseId),
    /// The channel is closed: by the broker, or because a get timed out. The holder of the
    /// transaction does not know yet.
    Failed(Error),
}

#[derive(Debug)]
pub(crate) struct Transaction {
    pub(crate) channel: u16,
    pub(crate) phase: TransactionPhase,
    /// Whether content may flow on the channel.
    pub(crate) flows: bool,
    /// Mandatory publishes that have not come back.
    pub(crate) mandatory: usize,
    /// Those that have.
    pub(crate) returned: Vec<Returned>,
}

/// A transaction that waits for its channel.
#[derive(Debug)]
pub(crate) struct PendingTransaction {
    pub(crate) promise: PromiseId,
    /// As that of a [`PendingRequest`](super::requested::PendingRequest).
    pub(crate) is_suspected: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Transactions {
    transactions: BTreeMap<TransactionId, Transaction>,
    issued: u64,
    /// Who waits for a channel.
    pub(crate) waiting: VecDeque<PendingTransaction>,
}

impl Transactions {
    pub(crate) fn add(&mut self, channel: u16, promise: PromiseId) -> TransactionId {
        self.issued += 1;
        let id = TransactionId(self.issued);
        let phase = TransactionPhase::Starting(promise);
        self.transactions.insert(
            id,
            Transaction {
                channel,
                phase,
                flows: true,
                mandatory: 0,
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

    /// The one on a channel.
    pub(crate) fn on(&mut self, channel: u16) -> Option<(TransactionId, &mut Transaction)> {
        let is_it = |transaction: &Transaction| {
            transaction.channel == channel
                && !matches!(transaction.phase, TransactionPhase::Failed(_))
        };
        let found = self
            .transactions
            .iter_mut()
            .find(|(_, transaction)| is_it(transaction));
        found.map(|(id, transaction)| (*id, transaction))
    }

    /// Returns those that are open, with their channels.
    pub(crate) fn open(&self) -> impl Iterator<Item = (TransactionId, u16)> + '_ {
        let open = self
            .transactions
            .iter()
            .filter(|(_, it)| matches!(it.phase, TransactionPhase::Open));
        open.map(|(id, transaction)| (*id, transaction.channel))
    }

    /// Returns `true` if content may flow on all of them. A failed one has no channel to flow on.
    pub(crate) fn all_flow(&self) -> bool {
        let flows = |it: &Transaction| it.flows || matches!(it.phase, TransactionPhase::Failed(_));
        self.transactions.values().all(flows)
    }

    /// Whether a promise is for the answer to a commit.
    pub(crate) fn is_committing(&self, promise: PromiseId) -> bool {
        let phases = self
            .transactions
            .values()
            .map(|transaction| &transaction.phase);
        phases
            .into_iter()
            .any(|phase| matches!(phase, TransactionPhase::Committing(found) if *found == promise))
    }

    /// Their channels are gone: nothing of those that are open takes effect. Gives what the others
    /// waited for, and forgets them.
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

    /// Gives the promises of those that are being committed, and forgets everything.
    pub(crate) fn drain(&mut self) -> Vec<PromiseId> {
        self.waiting.clear();
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
        self.transactions.is_empty() && self.waiting.is_empty()
    }
}
