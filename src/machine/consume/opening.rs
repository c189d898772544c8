//! Channels for consumers.

use crate::machine::channel::Role;
use crate::machine::context::Context;
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
