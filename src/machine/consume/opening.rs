//! Channels for consumers.

use crate::machine::channel::Role;
use crate::machine::consume::restart_queue::RestartQueue;
use crate::machine::context::{Context, Stage};
use crate::machine::publish::Publishing;

/// Opens a channel for a consumer, or takes one from the pool. If all numbers are used, it begins
/// to close the channel of an idle publisher, whose number is free after `close-ok`, and returns
/// `None`.
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

/// Returns `true` if a channel may become free for a consumer that is to be restarted.
pub(crate) fn may_get_channel(cx: &Context, restarts: &RestartQueue) -> bool {
    if cx.channels.is_opening() || cx.channels.is_closing_one() {
        return true;
    }
    // Below a limit of the broker, a channel may become free much later or not at all. The consumer
    // is restarted after a delay.
    if cx.channels.is_limited_by_broker() {
        return false;
    }
    // Once the connection is open, a channel is reserved for the consumer, so it only has to wait.
    // Before, a channel becomes free if a restart fails.
    cx.stage == Stage::Open || restarts.is_starting()
}
