//! The outcomes of publishes in flight whose channel or connection ends.

use crate::error::Error;
use crate::machine::PromiseId;
use crate::machine::context::Context;
use crate::machine::ids::ChannelNumber;
use crate::machine::publish::Publishing;
use crate::machine::publish::publishers::publisher::Publisher;
use crate::protocol::MethodId;
use crate::protocol::method::basic;

/// What the loss of the connection shows about the publishes in flight on a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtLoss {
    /// The broker may have accepted any of them.
    Unknown,
    /// The broker closed the connection over one of them. It is unknown which.
    OneRefused,
    /// The broker does not implement the flag `immediate`, and closed the connection over a publish
    /// with it. So it has accepted none of those, and the others are not the cause.
    ImmediateRefused,
    /// The broker refused the channel, and has ignored all of them.
    ChannelRefused,
}

impl Publishing {
    /// Completes the publishes in flight on a channel that the broker closed with `error`. The
    /// error is the outcome of the publish that caused it. The outcome of the others is unknown.
    ///
    /// - A single publish in flight is the cause.
    /// - Before the first publish is known to be accepted, that one is the cause, and the broker
    ///   has ignored all behind it. If the error names the exchange, it is the outcome of all of
    ///   them.
    /// - Afterwards, the broker may have accepted some publishes and not have confirmed them yet.
    ///   The last one is not accepted, because it is the cause or behind it. An error that names
    ///   the exchange is the outcome of that one.
    /// - An error over the size of a message is the outcome of the only publish with that size.
    /// - A broker that does not implement the flag `immediate` has accepted no publish with it.
    pub(crate) fn handle_publisher_closed(
        &mut self,
        cx: &mut Context,
        channel: ChannelNumber,
        error: &Error,
    ) {
        // Most channels are no publish channels.
        let Some(publisher) = self.publishers.remove(channel) else {
            return;
        };
        self.queued.retry(publisher.exchange(), publisher.kind());
        let was_alone = publisher.confirms.has_one_unconfirmed();
        // A publish whose deadline has passed may have the same size.
        let may_identify = !publisher.confirms.has_overdue();
        let names_exchange = matches!(error, Error::NotFound(_) | Error::AccessRefused(_));
        let promises: Vec<(u64, PromiseId)> = publisher.confirms.drain().collect();
        let last = promises.last().map_or(0, |(tag, _)| *tag);
        let refused = publisher.sizes.refused(error, &promises);
        let refused = refused.filter(|_| may_identify);
        let mut stored = publisher.stored;
        let is_over_immediate = is_over_publish_not_implemented(error) && stored.has_immediate();
        cx.learned.refuses_immediate |= is_over_immediate;
        for (tag, promise) in promises {
            let is_outcome = match (publisher.is_first_accepted, names_exchange) {
                _ if was_alone => true,
                _ if is_over_immediate => stored.take(tag).is_some_and(|it| it.is_immediate()),
                _ if refused.is_some() => refused == Some(tag),
                (false, true) => true,
                (false, false) => tag == 1,
                (true, true) => tag == last,
                (true, false) => false,
            };
            let error = if is_outcome {
                error.clone()
            } else {
                Error::Unconfirmed(error.clone().into())
            };
            cx.complete(promise, Err(error));
        }
        // These calls have arrived, but their replies can no longer be delivered.
        for promise in publisher.calls.into_values() {
            cx.complete(promise, Err(Error::Unconfirmed(error.clone().into())));
        }
    }

    /// Queues the unconfirmed publishes of a lost connection's channel again, in front of the
    /// queued ones, if they may be republished. Completes the others and all calls: `at_loss` is
    /// what the loss shows about their outcome.
    pub(crate) fn suspend_publisher(
        &mut self,
        cx: &mut Context,
        publisher: Publisher,
        error: &Error,
        at_loss: AtLoss,
    ) {
        let outcome = || match at_loss {
            AtLoss::ChannelRefused => Err(Error::ChannelLimit),
            _ => Err(Error::Unconfirmed(error.clone().into())),
        };
        let times = match at_loss {
            // If it were republished, it would close each next connection.
            AtLoss::OneRefused => 0,
            _ => self.republishes,
        };
        let may_be_over_immediate = is_over_publish_not_implemented(error);
        let mut stored = publisher.stored;
        let mut to_repeat = Vec::new();
        for (tag, promise) in publisher.confirms.drain() {
            match stored.take(tag) {
                Some(pending) if pending.is_immediate() && may_be_over_immediate => {
                    let is_refused = at_loss == AtLoss::ImmediateRefused;
                    let refused = is_refused.then(|| Err(error.clone()));
                    cx.complete(promise, refused.unwrap_or_else(outcome));
                }
                Some(mut pending) if pending.may_be_republished(times) => {
                    pending.attempts += 1;
                    to_repeat.push(pending);
                }
                _ => cx.complete(promise, outcome()),
            }
        }
        for promise in publisher.calls.into_values() {
            cx.complete(promise, outcome());
        }
        for pending in to_repeat.into_iter().rev() {
            cx.promises
                .restart_deadline(pending.promise, cx.options.timeouts.request);
            cx.republished.insert(pending.promise);
            self.queued.push_front(pending);
        }
    }

    /// Completes every queued publish with the error. [`Context::complete`] turns it into
    /// [`Error::Unconfirmed`] for those that were sent before.
    pub(crate) fn fail_queued(&mut self, cx: &mut Context, error: &Error) {
        for pending in self.queued.drain() {
            cx.complete(pending.promise, Err(error.clone()));
        }
    }
}

/// Returns `true` if the broker may have closed the channel or the connection because it does not
/// implement a part of `basic.publish`. RabbitMQ names the method. AMQProxy passes RabbitMQ's close
/// on without it.
pub(crate) fn is_over_publish_not_implemented(error: &Error) -> bool {
    matches!(error, Error::NotImplemented(_))
        && (error.names_method(basic::Publish::ID) || error.names_method(MethodId::NONE))
}
