//! Finding the pending request over which the broker closed the connection.
//!
//! `connection.close` names at most a method (class-id and method-id), and no channel. If one
//! pending request matches, it fails with that error. If several match, those that can be repeated
//! are sent again one at a time, so that the next close identifies it.

use super::session::Session;
use crate::error::Error;
use crate::machine::PromiseId;
use crate::machine::channel::{Awaited, Channel, Resize};
use crate::machine::consumers::{Consumers, Phase};
use crate::machine::content::Purpose;
use crate::machine::transactions::{Phase as TransactionPhase, Transactions};
use crate::protocol::MethodId;
use crate::protocol::method::basic;
use std::collections::BTreeSet;

/// The requests over which the broker may have closed the connection.
#[derive(Debug)]
pub(super) enum Blame {
    Nobody,
    One(PromiseId),
    Several(BTreeSet<PromiseId>),
}

impl Blame {
    /// Returns `true` if this request is the cause.
    pub(super) fn is_on(&self, promise: PromiseId) -> bool {
        matches!(self, Self::One(one) if *one == promise)
    }

    /// Returns `true` if this request is one of several possible causes.
    pub(super) fn suspects(&self, promise: PromiseId) -> bool {
        matches!(self, Self::Several(several) if several.contains(&promise))
    }
}

/// Collects the pending requests of a channel, each with its methods, and the methods that belong
/// to none.
fn pending(
    channel: &Channel,
    consumers: &Consumers,
    transactions: &Transactions,
    into: &mut Vec<(Option<PromiseId>, MethodId)>,
) {
    if let Some(Purpose::Got { request, .. }) = channel.assembly.as_ref().map(|assembly| &assembly.purpose) {
        into.push((Some(request.promise), basic::Get::ID));
    }
    // What a request needs (`channel.open`, `qos` in front of a `consume`) is written in front of
    // it, and is a part of it: it is repeated whenever the request is.
    let mut needed = into.len();
    for awaited in &channel.awaited {
        let promise = match awaited {
            Awaited::Request(request) | Awaited::Get { request, .. } => Some(request.promise),
            Awaited::Qos { resize: Resize { promise, .. }, .. }
            | Awaited::Consume { resized: Some(Resize { promise, .. }), .. }
            | Awaited::Recover { promise, .. } => Some(*promise),
            Awaited::Consume { consumer, .. } => match consumers.get(*consumer).map(|it| &it.phase) {
                Some(Phase::Starting(promise)) => Some(*promise),
                // Nobody waits for a consumer that is started again.
                _ => {
                    into.push((None, awaited.method().id));
                    None
                }
            },
            Awaited::Transaction { id, .. } => match transactions.get(*id).map(|it| &it.phase) {
                Some(TransactionPhase::Starting(promise)) => Some(*promise),
                _ => None,
            },
            Awaited::Cancel { .. } | Awaited::Restored(_) | Awaited::Proof(_) => None,
            Awaited::Nothing(method) => {
                into.push((None, method.id));
                None
            }
        };
        if promise.is_some() {
            into.push((promise, awaited.method().id));
            into.iter_mut().skip(needed).for_each(|(of, _)| *of = promise);
            needed = into.len();
        }
    }
}

impl Session {
    /// Finds the requests over which the broker closed the connection.
    pub(in crate::machine) fn blame(&mut self, error: &Error) -> Blame {
        let trial = self.cx.trial.take();
        let Some(fault) = error.fault().filter(|_| error.is_a_verdict()) else { return Blame::Nobody };
        let mut all = Vec::new();
        for channel in self.cx.channels.numbers().filter_map(|number| self.cx.channels.get(number)) {
            pending(channel, &self.consuming.consumers, &self.transactions, &mut all);
        }
        let names_none = fault.method == MethodId::NONE;
        all.retain(|(_, method)| names_none || *method == fault.method);
        let suspects: BTreeSet<PromiseId> = all.iter().filter_map(|(promise, _)| *promise).collect();
        if let Some(trial) = trial.filter(|trial| suspects.contains(trial)) {
            return Blame::One(trial);
        }
        // If the close names no method, a publish may be the cause, too, or a consumer that is
        // started again. If it names one, so may a method that belongs to no request, such as the
        // `channel.open` of a publish channel.
        let is_only_kind = if names_none {
            self.publishing.publishers.in_flight() == 0 && !self.consuming.resubscription.is_starting()
        } else {
            all.iter().all(|(promise, _)| promise.is_some())
        };
        match (suspects.len(), suspects.first()) {
            (1, Some(only)) if is_only_kind => Blame::One(*only),
            (0, _) => Blame::Nobody,
            _ => Blame::Several(suspects),
        }
    }
}
