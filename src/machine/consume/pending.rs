//! A consumer as data, which waits for its channel.

use crate::machine::PromiseId;
use crate::machine::channel::Role;
use crate::machine::consume::consumer::Terms;
use crate::machine::context::Context;
use crate::machine::publish::Publishing;

/// A consumer that waits for its channel.
#[derive(Debug)]
pub(crate) struct WaitingConsume {
    pub(crate) promise: PromiseId,
    pub(crate) sources: Vec<Terms>,
    pub(crate) no_ack: bool,
    pub(crate) prefetch_count: u16,
    /// The prefetch count is one for all queues together.
    pub(crate) shares_prefetch_count: bool,
    /// As in [`PendingRequest`](super::requested::PendingRequest).
    pub(crate) is_suspected: bool,
}

impl WaitingConsume {
    pub(crate) fn bytes(&self) -> usize {
        self.sources.iter().map(Terms::bytes).sum()
    }
}

/// Returns a channel for a consumer. If there is none, it makes room for one where that is
/// possible.
pub(crate) fn open_consumer_channel(cx: &mut Context, publishing: &mut Publishing) -> Option<u16> {
    if !cx.channels.may_open_long_lived() {
        return None;
    }
    let number = cx
        .open_channel(Role::Consume)
        .or_else(|| cx.channels.take_idle(Role::Consume));
    if number.is_none() {
        publishing.make_room(cx);
    }
    number
}
