//! Finding the pending request over which the broker closed the connection.
//!
//! "When a close is due to an exception, the sender provides the class and method id of the method
//! which caused the exception" (1.4.2.9), but no channel. If one pending request matches, it is the
//! cause, and it fails with that error. If several match, each is a possible cause. Those that can
//! be repeated are then sent again one at a time, so that the next close identifies the cause.
//!
//! A close over a limit of channels is about the `channel.open` that was pending, whatever follows
//! it on that channel. See [`learned_limit`](crate::machine::channel::learned_limit).

use crate::error::{Error, Fault};
use crate::machine::PromiseId;
use crate::machine::channel::content::Purpose;
use crate::machine::channel::learned_limit::is_channel_limit;
use crate::machine::channel::{Awaited, Channel, Resize};
use crate::machine::consume::Consuming;
use crate::machine::consume::consumer::Phase;
use crate::machine::consume::consumers::Consumers;
use crate::machine::context::Context;
use crate::machine::ids::ChannelNumber;
use crate::machine::publish::Publishing;
use crate::machine::publish::outcomes::{AtLoss, is_over_publish_not_implemented};
use crate::machine::transaction::transactions::{TransactionPhase, Transactions};
use crate::protocol::MethodId;
use crate::protocol::method::basic;
use std::collections::BTreeSet;

/// The requests over which the broker may have closed the connection.
#[derive(Debug)]
pub(crate) enum CloseCause {
    /// No pending request is the cause.
    NoRequest,
    /// This request is the cause.
    One(PromiseId),
    /// One of these requests is the cause.
    Several(BTreeSet<PromiseId>),
    /// The broker refused a channel. Both are unknown if several channels were being opened.
    Channel {
        number: Option<ChannelNumber>,
        /// The request that needs the channel.
        request: Option<PromiseId>,
    },
    /// The publishes with the flag `immediate`, which the broker does not implement.
    Immediate,
}

/// A method whose reply is pending.
struct PendingMethod {
    /// The request to which the method belongs.
    request: Option<PromiseId>,
    method: MethodId,
}

impl CloseCause {
    /// Finds the requests over which the broker closed the connection. Takes `cx.possible_cause`,
    /// the request that was repeated alone.
    pub(crate) fn find(
        error: &Error,
        cx: &mut Context,
        publishing: &mut Publishing,
        consuming: &Consuming,
        transactions: &Transactions,
    ) -> Self {
        let repeated = cx.possible_cause.take();
        cx.learned.closes_over_late_methods |= error.is_over_late_method();
        let Some(fault) = error.fault().filter(|_| error.is_caused_by_request()) else {
            return Self::NoRequest;
        };
        if is_channel_limit(error) {
            return Self::refused_channel(cx, consuming, transactions);
        }
        let mut pending = Vec::new();
        let channels = &cx.channels;
        for channel in channels.numbers().filter_map(|number| channels.get(number)) {
            collect_pending(channel, &consuming.consumers, transactions, &mut pending);
        }
        let names_none = fault.method == MethodId::NONE;
        pending.retain(|it| names_none || it.method == fault.method);
        let candidates: BTreeSet<PromiseId> = pending.iter().filter_map(|it| it.request).collect();
        let may_be_request = !candidates.is_empty() || consuming.restarts.is_starting();
        if is_over_immediate(error, publishing, transactions, may_be_request) {
            cx.learned.refuses_immediate = true;
            return Self::Immediate;
        }
        if let Some(repeated) = repeated.filter(|repeated| candidates.contains(repeated)) {
            return Self::One(repeated);
        }
        // A method that belongs to no request may be the cause, too, such as a commit, or the
        // `channel.open` of a publish channel. If the close names no method, so may a publish, or a
        // consumer that is being restarted.
        let may_be_another = names_none
            && (publishing.publishers.in_flight() > 0 || consuming.restarts.is_starting());
        let only_requests_match = !may_be_another && pending.iter().all(|it| it.request.is_some());
        match (candidates.len(), candidates.first()) {
            (1, Some(only)) if only_requests_match => Self::One(*only),
            (0, _) => Self::NoRequest,
            _ => Self::Several(candidates),
        }
    }

    /// Finds the channel that the broker refused, and the request that needs it. The requests on
    /// other channels are repeated as after any loss.
    fn refused_channel(
        cx: &mut Context,
        consuming: &Consuming,
        transactions: &Transactions,
    ) -> Self {
        let is_restarting = consuming.restarts.has_pending();
        let number = cx.channels.learn_limit(cx.now, is_restarting);
        let mut pending = Vec::new();
        if let Some(channel) = number.and_then(|number| cx.channels.get(number)) {
            collect_pending(channel, &consuming.consumers, transactions, &mut pending);
        }
        let request = pending.iter().find_map(|it| it.request);
        Self::Channel { number, request }
    }

    /// Returns `true` if this request is the cause.
    pub(crate) fn is(&self, promise: PromiseId) -> bool {
        match self {
            Self::One(request)
            | Self::Channel {
                request: Some(request),
                ..
            } => *request == promise,
            _ => false,
        }
    }

    /// Returns what the loss with this error shows about the publishes in flight on a channel.
    pub(crate) fn of_publishes(&self, error: &Error, channel: ChannelNumber) -> AtLoss {
        match self {
            Self::Channel {
                number: Some(number),
                ..
            } if *number == channel => AtLoss::ChannelRefused,
            Self::Immediate => AtLoss::ImmediateRefused,
            _ if error.names_method(basic::Publish::ID) => AtLoss::OneRefused,
            _ => AtLoss::Unknown,
        }
    }

    /// Returns what the final loss with this error shows about the publishes in flight.
    pub(crate) fn of_publishes_at_end(
        error: &Error,
        publishing: &Publishing,
        transactions: &Transactions,
    ) -> AtLoss {
        match is_over_immediate(error, publishing, transactions, true) {
            true => AtLoss::ImmediateRefused,
            false => AtLoss::Unknown,
        }
    }

    /// Returns the error of the work that is the cause, for the error of the close.
    pub(crate) fn error(&self, close: &Error) -> Error {
        match self {
            Self::Channel { .. } => Error::ChannelLimit,
            _ => close.clone(),
        }
    }

    /// Returns `true` if this request is one of several possible causes.
    pub(crate) fn may_be(&self, promise: PromiseId) -> bool {
        matches!(self, Self::Several(several) if several.contains(&promise))
    }
}

/// Returns `true` if the broker closed the connection because it does not implement the flag
/// `immediate`, with which publishes are in flight. A close that names no method may be over
/// a request instead, if `may_be_request`, unless its text is that of RabbitMQ:
/// `NOT_IMPLEMENTED - immediate=true`.
fn is_over_immediate(
    error: &Error,
    publishing: &Publishing,
    transactions: &Transactions,
    may_be_request: bool,
) -> bool {
    let is_text = |fault: &Fault| fault.text.ends_with("immediate=true");
    let is_publish = error.names_method(basic::Publish::ID);
    is_over_publish_not_implemented(error)
        && (is_publish || !may_be_request || error.fault().is_some_and(is_text))
        && (publishing.publishers.has_immediate() || transactions.has_immediate())
}

/// Appends the methods of a channel whose reply is pending, each with its request.
fn collect_pending(
    channel: &Channel,
    consumers: &Consumers,
    transactions: &Transactions,
    into: &mut Vec<PendingMethod>,
) {
    // The method of a get is no longer in `pending_replies` when its content has begun to arrive.
    if let Some(Purpose::Got { request, .. }) =
        channel.assembly.as_ref().map(|assembly| &assembly.purpose)
    {
        into.push(PendingMethod {
            request: Some(request.promise),
            method: basic::Get::ID,
        });
    }
    // The methods that a request needs (`channel.open`, `qos` before a `consume`) are written
    // before it. They are assigned to it, because they are repeated with it.
    let mut first_needed = into.len();
    for pending in &channel.pending_replies {
        let Some(owner) = Owner::of(&pending.purpose, consumers, transactions) else {
            continue;
        };
        into.push(PendingMethod {
            request: None,
            method: pending.method.id,
        });
        if let Owner::Request(request) = owner {
            into.iter_mut()
                .skip(first_needed)
                .for_each(|it| it.request = Some(request));
        }
        if !matches!(owner, Owner::NextRequest) {
            first_needed = into.len();
        }
    }
}

/// What a pending method belongs to.
enum Owner {
    Request(PromiseId),
    /// The next request on the channel, if there is one.
    NextRequest,
    /// No request that can be repeated.
    Itself,
}

impl Owner {
    /// Returns `None` for a method that cannot be the cause, or that the replay looks after.
    fn of(purpose: &Awaited, consumers: &Consumers, transactions: &Transactions) -> Option<Self> {
        Some(match purpose {
            Awaited::Request(request) | Awaited::Get { request, .. } => {
                Self::Request(request.promise)
            }
            Awaited::Consume {
                resized: Some(Resize { promise, .. }),
                ..
            }
            | Awaited::Recover { promise, .. } => Self::Request(*promise),
            Awaited::Consume { consumer, .. } => match consumers.get(*consumer).map(|it| &it.phase)
            {
                Some(Phase::Starting(promise)) => Self::Request(*promise),
                // A consumer that is being restarted has no promise.
                _ => Self::NextRequest,
            },
            Awaited::Transaction { id, .. } => match transactions.get(*id).map(|it| &it.phase) {
                Some(TransactionPhase::Starting(promise)) => Self::Request(*promise),
                // A commit or rollback is not repeated.
                _ => Self::Itself,
            },
            Awaited::Cancel { .. } | Awaited::ReplayStep { is_late: true } => Self::Itself,
            // A probe only follows a publish.
            Awaited::ReplayStep { is_late: false } | Awaited::Probe => return None,
            Awaited::Nothing => Self::NextRequest,
        })
    }
}
