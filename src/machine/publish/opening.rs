//! Opening the channel of an exchange, and closing another one for it.

use crate::error::Error;
use crate::machine::channel::{Awaited, Role};
use crate::machine::context::Context;
use crate::machine::handshake::server_properties::{CONFIRMS, DIRECT_REPLY_TO};
use crate::machine::ids::ChannelNumber;
use crate::machine::publish::Publishing;
use crate::machine::publish::check::REPLY_TO;
use crate::machine::publish::pending::{NoChannel, PublishKind};
use crate::protocol::method::{basic, confirm};
use crate::protocol::{ShortStr, TableRef};

impl Publishing {
    /// Opens the channel of an exchange that has none. At the limit of publish channels, closes an
    /// idle one for it. If all channel numbers are in use, closes an idle channel and returns an
    /// error: the number is free after `close-ok`. Returns another error if the publishes of the
    /// exchange cannot have a channel.
    pub(crate) fn open_publisher(
        &mut self,
        cx: &mut Context,
        exchange: &[u8],
        kind: PublishKind,
    ) -> Result<ChannelNumber, NoChannel> {
        // The last channel of this exchange may just have been closed for another exchange. Its
        // publishes come first.
        if self.publishers.is_closing(exchange, kind) {
            return Err(NoChannel::Closing);
        }
        let needed: &[&str] = match kind {
            PublishKind::Confirmed => &[CONFIRMS],
            PublishKind::Unconfirmed => &[],
            PublishKind::Call => &[CONFIRMS, DIRECT_REPLY_TO],
        };
        for name in needed {
            let has_it = cx.server.check_capability(name);
            has_it.map_err(NoChannel::Never)?;
        }
        if cx.channels.has_none_for_requests() {
            return Err(NoChannel::Never(Error::ChannelLimit));
        }
        let limit = usize::from(cx.options.limits.publish_channels.max(1));
        if self.publishers.len() >= limit {
            // Channels without confirms are idle at once, so they would be closed and opened faster
            // than the broker can handle.
            if self.publishers.closing_count() > 0 {
                return Err(NoChannel::Closing);
            }
            let idle = self.publishers.remove_idle();
            let Some(idle) = idle else {
                return Err(NoChannel::AllInUse);
            };
            cx.close_channel(idle);
        }
        if !cx.channels.has_room(Role::Publish) {
            self.free_channel_number(cx);
            let is_later = cx.channels.is_closing_one() || cx.channels.is_opening();
            return Err(if is_later {
                NoChannel::Closing
            } else {
                NoChannel::AllInUse
            });
        }
        let number = cx.open_channel(Role::Publish).ok_or(NoChannel::AllInUse)?;
        if kind != PublishKind::Unconfirmed {
            cx.write(number, &confirm::Select { nowait: false });
            cx.await_reply(number, &confirm::Select::INFO, Awaited::Nothing);
        }
        if kind == PublishKind::Call {
            Self::start_reply_consumer(cx, number);
        }
        self.publishers.add(exchange, kind, number, cx.now);
        Ok(number)
    }

    /// Starts the consumer for the replies to calls on their channel.
    fn start_reply_consumer(cx: &mut Context, channel: ChannelNumber) {
        let consume = basic::Consume {
            queue: REPLY_TO,
            // The broker makes the tag. Some brokers key the consumers of direct reply-to by tag,
            // so a tag that all clients share would mix up their replies.
            consumer_tag: ShortStr::EMPTY,
            no_local: false,
            no_ack: true,
            exclusive: false,
            nowait: false,
            arguments: TableRef::EMPTY,
        };
        cx.write(channel, &consume);
        cx.await_reply(channel, &basic::Consume::INFO, Awaited::Nothing);
    }

    /// Closes a channel on which nothing is pending, so that its number becomes free. Does nothing
    /// if a channel is being closed already, all are in use, or a channel that is being opened is
    /// the reason to wait.
    pub(crate) fn free_channel_number(&mut self, cx: &mut Context) {
        if cx.channels.is_closing_one() || cx.channels.is_opening() {
            return;
        }
        let idle = self
            .publishers
            .remove_idle()
            .or_else(|| cx.channels.take_idle(Role::Closing));
        if let Some(number) = idle {
            cx.close_channel(number);
        }
    }
}
