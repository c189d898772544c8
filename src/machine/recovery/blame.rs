//! Finding the pending request over which the broker closed the connection.
//!
//! "When a close is due to an exception, the sender provides the class and method id of the method
//! which caused the exception" (1.4.2.9), but no channel. If one pending request matches, it fails
//! with that error. If several match, those that can be repeated are sent again one at a time, so
//! that the next close identifies it.

use crate::error::Error;
use crate::machine::PromiseId;
use crate::machine::channel::content::Purpose;
use crate::machine::channel::{Awaited, Channel, Resize};
use crate::machine::consume::Consuming;
use crate::machine::consume::consumer::Phase;
use crate::machine::consume::consumers::Consumers;
use crate::machine::context::Context;
use crate::machine::publish::Publishing;
use crate::machine::transaction::transactions::{TransactionPhase, Transactions};
use crate::protocol::MethodId;
use crate::protocol::method::basic;
use std::collections::BTreeSet;

/// The requests over which the broker may have closed the connection.
#[derive(Debug)]
pub(crate) enum Blame {
    /// The close names no pending request.
    NoRequest,
    /// This request is the cause.
    One(PromiseId),
    /// One of these requests is the cause.
    Several(BTreeSet<PromiseId>),
}

impl Blame {
    /// Finds the requests over which the broker closed the connection.
    pub(crate) fn of(
        error: &Error,
        cx: &mut Context,
        publishing: &mut Publishing,
        consuming: &Consuming,
        transactions: &Transactions,
    ) -> Self {
        let suspect = cx.suspect.take();
        let Some(fault) = error.fault().filter(|_| error.is_caused_by_request()) else {
            return Self::NoRequest;
        };
        let mut all = Vec::new();
        let channels = &cx.channels;
        for channel in channels.numbers().filter_map(|number| channels.get(number)) {
            pending_requests(channel, &consuming.consumers, transactions, &mut all);
        }
        let names_none = fault.method == MethodId::NONE;
        all.retain(|(_, method)| names_none || *method == fault.method);
        let suspects: BTreeSet<PromiseId> =
            all.iter().filter_map(|(promise, _)| *promise).collect();
        if let Some(suspect) = suspect.filter(|suspect| suspects.contains(suspect)) {
            return Self::One(suspect);
        }
        // If the close names no method, a publish may be the cause, too, or a consumer that is
        // started again. If it names one, so may a method that belongs to no request, such as the
        // `channel.open` of a publish channel.
        let is_only_kind = if names_none {
            publishing.publishers.in_flight() == 0 && !consuming.resubscription.is_starting()
        } else {
            all.iter().all(|(promise, _)| promise.is_some())
        };
        match (suspects.len(), suspects.first()) {
            (1, Some(only)) if is_only_kind => Self::One(*only),
            (0, _) => Self::NoRequest,
            _ => Self::Several(suspects),
        }
    }

    /// Returns `true` if this request is the cause.
    pub(crate) fn is_on(&self, promise: PromiseId) -> bool {
        matches!(self, Self::One(one) if *one == promise)
    }

    /// Returns `true` if this request is one of several possible causes.
    pub(crate) fn suspects(&self, promise: PromiseId) -> bool {
        matches!(self, Self::Several(several) if several.contains(&promise))
    }
}

/// Collects the pending requests of a channel, each with its methods, and the methods that belong
/// to none.
fn pending_requests(
    channel: &Channel,
    consumers: &Consumers,
    transactions: &Transactions,
    into: &mut Vec<(Option<PromiseId>, MethodId)>,
) {
    if let Some(Purpose::Got { request, .. }) =
        channel.assembly.as_ref().map(|assembly| &assembly.purpose)
    {
        into.push((Some(request.promise), basic::Get::ID));
    }
    // The methods that a request needs (`channel.open`, `qos` before a `consume`) are written
    // before it and belong to it: they are repeated whenever the request is.
    let mut needed = into.len();
    for pending in &channel.pending_replies {
        let promise = match &pending.purpose {
            Awaited::Request(request) | Awaited::Get { request, .. } => Some(request.promise),
            Awaited::Qos {
                resize: Resize { promise, .. },
                ..
            }
            | Awaited::Consume {
                resized: Some(Resize { promise, .. }),
                ..
            }
            | Awaited::Recover { promise, .. } => Some(*promise),
            Awaited::Consume { consumer, .. } => match consumers.get(*consumer).map(|it| &it.phase)
            {
                Some(Phase::Starting(promise)) => Some(*promise),
                // A consumer that is restarted has no promise.
                _ => {
                    into.push((None, pending.method.id));
                    None
                }
            },
            Awaited::Transaction { id, .. } => match transactions.get(*id).map(|it| &it.phase) {
                Some(TransactionPhase::Starting(promise)) => Some(*promise),
                _ => None,
            },
            Awaited::Cancel { .. } | Awaited::ReplayStep | Awaited::Probe => None,
            Awaited::Nothing => {
                into.push((None, pending.method.id));
                None
            }
        };
        if promise.is_some() {
            into.push((promise, pending.method.id));
            into.iter_mut()
                .skip(needed)
                .for_each(|(of, _)| *of = promise);
            needed = into.len();
        }
    }
}
