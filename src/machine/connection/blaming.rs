//! Finding the pending request over which the broker closed the connection.
//!
//! `connection.close` names at most a method (class-id and method-id), and no channel. If one
//! pending request matches, it fails with that error. If several match, those that can be repeated
//! are sent again one at a time, so that the next close identifies it.

use super::Connection;
use crate::error::Error;
use crate::machine::PromiseId;
use crate::machine::channel::{Awaited, Channel, Resize};
use crate::machine::consumers::{Consumers, Phase};
use crate::machine::content::Purpose;
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

/// Collects the pending requests of a channel, each with its method.
fn pending(channel: &Channel, consumers: &Consumers, into: &mut Vec<(PromiseId, MethodId)>) {
    if let Some(Purpose::Got { request, .. }) = channel.assembly.as_ref().map(|assembly| &assembly.purpose) {
        into.push((request.promise, basic::Get::ID));
    }
    // `qos` in front of a `consume` is a part of the same request.
    let mut prefetch = None;
    for awaited in &channel.awaited {
        let promise = match awaited {
            Awaited::Request(request) | Awaited::Get { request, .. } => Some(request.promise),
            Awaited::Nothing(method) if method.id == basic::Qos::ID => {
                prefetch = Some(method.id);
                None
            }
            Awaited::Qos { resize: Resize { promise, .. }, .. }
            | Awaited::Consume { resized: Some(Resize { promise, .. }), .. }
            | Awaited::Recover { promise, .. } => Some(*promise),
            Awaited::Consume { consumer, .. } => match consumers.get(*consumer).map(|it| &it.phase) {
                Some(Phase::Starting(promise)) => Some(*promise),
                _ => None,
            },
            Awaited::Cancel { .. }
            | Awaited::Transaction { .. }
            | Awaited::Restored(_)
            | Awaited::Nothing(_)
            | Awaited::Proof(_) => None,
        };
        let Some(promise) = promise else { continue };
        into.push((promise, awaited.method().id));
        into.extend(prefetch.take().map(|method| (promise, method)));
    }
}

impl Connection {
    /// Returns `true` if a request that may have closed a connection is pending.
    pub(super) fn is_trying(&self) -> bool {
        self.trial.is_some_and(|promise| self.promises.is_waiting(promise))
    }

    /// Finds the requests over which the broker closed the connection.
    pub(super) fn blame(&mut self, error: &Error) -> Blame {
        let trial = self.trial.take();
        let Some(fault) = error.fault().filter(|_| error.is_a_verdict()) else { return Blame::Nobody };
        let mut all = Vec::new();
        for channel in self.channels.numbers().filter_map(|number| self.channels.get(number)) {
            pending(channel, &self.consumers, &mut all);
        }
        let names_none = fault.method == MethodId::NONE;
        let suspects = all.into_iter().filter(|(_, method)| names_none || *method == fault.method);
        let suspects: BTreeSet<PromiseId> = suspects.map(|(promise, _)| promise).collect();
        if let Some(trial) = trial.filter(|trial| suspects.contains(trial)) {
            return Blame::One(trial);
        }
        // If the close names no method, a publish may be the cause, too.
        let is_only_kind = !names_none || self.publishers.in_flight() == 0;
        match (suspects.len(), suspects.first()) {
            (1, Some(only)) if is_only_kind => Blame::One(*only),
            (0, _) => Blame::Nobody,
            _ => Blame::Several(suspects),
        }
    }
}
