//! Consumers that are queued until there is a channel for them.

use crate::machine::PromiseId;
use crate::machine::channel::Role;
use crate::machine::consume::consumer::Subscription;
use crate::machine::context::Context;
use crate::machine::publish::Publishing;

/// A consumer that is queued until there is a channel for it.
#[derive(Debug)]
pub(crate) struct QueuedConsume {
    pub(crate) promise: PromiseId,
    pub(crate) sources: Vec<Subscription>,
    pub(crate) no_ack: bool,
    pub(crate) prefetch_count: u16,
    /// The prefetch count applies to all queues together.
    pub(crate) shares_prefetch_count: bool,
    /// The request may have closed an earlier connection. See
    /// [`PendingRequest`](crate::machine::request::pending::PendingRequest).
    pub(crate) is_suspected: bool,
}

impl QueuedConsume {
    /// Returns the approximate size in bytes.
    pub(crate) fn size(&self) -> usize {
        self.sources.iter().map(Subscription::size).sum()
    }
}

/// Returns a channel for a consumer. If there is none, it closes an idle channel, whose number is
/// free after `close-ok`.
pub(crate) fn open_consumer_channel(cx: &mut Context, publishing: &mut Publishing) -> Option<u16> {
    if !cx.channels.may_open_long_lived() {
        return None;
    }
    let number = cx
        .open_channel(Role::Consume)
        .or_else(|| cx.channels.take_idle(Role::Consume));
    if number.is_none() {
        publishing.free_channel_number(cx);
    }
    number
}
