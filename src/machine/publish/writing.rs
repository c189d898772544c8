//! The channels of the exchanges, and what is written on them.

use crate::error::Error;
use crate::machine::Publish;
use crate::machine::channel::{Awaited, Role};
use crate::machine::context::Context;
use crate::machine::publish::Publishing;
use crate::machine::publish::check::{REPLY_TO, publish_method};
use crate::machine::publish::pending::{Kind, NoChannel};
use crate::machine::publish::publishers::{REPUBLISHED, STAMP};
use crate::protocol::method::{basic, confirm};
use crate::protocol::{Properties, ShortStr, Table, TableRef};

impl Publishing {
    /// Opens the channel of an exchange that has none.
    pub(crate) fn open_publisher(
        &mut self,
        cx: &mut Context,
        exchange: &[u8],
        kind: Kind,
    ) -> Result<u16, NoChannel> {
        // Its channel may have made room for another a moment ago, and what is on that comes first.
        if self.publishers.is_leaving(exchange, kind) {
            return Err(NoChannel::Closing);
        }
        let limit = usize::from(cx.options.limits.publish_channels.max(1));
        if self.publishers.len() >= limit {
            // Channels without confirms are idle at once, so they would be closed and opened faster
            // than the broker can handle.
            if self.publishers.leaving() > 0 {
                return Err(NoChannel::Closing);
            }
            self.close_idle_publisher(cx);
        }
        if self.publishers.len() >= limit {
            return Err(NoChannel::AllInUse);
        }
        if !cx.channels.has_room(Role::Publish) {
            self.make_room(cx);
            let is_closing = cx.channels.is_closing_one();
            return Err(if is_closing {
                NoChannel::Closing
            } else {
                NoChannel::AllInUse
            });
        }
        let number = cx.open_channel(Role::Publish).ok_or(NoChannel::AllInUse)?;
        if kind != Kind::Unconfirmed {
            cx.write(number, &confirm::Select { nowait: false });
            cx.await_reply(number, &confirm::Select::INFO, Awaited::Nothing);
        }
        if kind == Kind::Call {
            self.await_replies(cx, number);
        }
        self.publishers.add(exchange, kind, number, cx.now);
        Ok(number)
    }

    /// Starts the consumer for replies on a channel.
    pub(crate) fn await_replies(&mut self, cx: &mut Context, channel: u16) {
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

    /// Closes the channel of the exchange that has been idle longest.
    pub(crate) fn close_idle_publisher(&mut self, cx: &mut Context) {
        if let Some(number) = self.publishers.remove_idle() {
            cx.close_channel(number);
        }
    }

    /// Frees a channel number, by closing a channel on which nothing is pending.
    pub(crate) fn make_room(&mut self, cx: &mut Context) {
        if cx.channels.is_closing_one() {
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

    /// Writes a publish. `attempts` is the number of times that it was written before.
    pub(crate) fn write_publish(
        &mut self,
        cx: &mut Context,
        channel: u16,
        publish: &Publish<'_>,
        attempts: u32,
    ) -> Result<(), Error> {
        let mut method = publish_method(cx, publish)?;
        let mut renamed = None;
        if cx.topology.has_renamed() {
            renamed = cx.topology.address(&mut method, publish.headers);
        }
        let mut headers = renamed.as_ref().map(Table::as_ref).or(publish.headers);
        let comes_back = publish.mandatory || publish.immediate;
        if (comes_back || attempts > 0)
            && let Some(publisher) = self.publishers.on(channel)
        {
            let mut stamp = Table::new();
            if comes_back {
                stamp.insert(STAMP, publisher.confirms.next() as i64)?;
            }
            if attempts > 0 {
                stamp.insert(REPUBLISHED, attempts)?;
                cx.counters.republished += 1;
            }
            self.header_buffer.clear();
            self.header_buffer
                .extend_from_slice(stamp.as_ref().as_bytes());
            self.header_buffer
                .extend_from_slice(headers.unwrap_or_default().as_bytes());
            let stamped = TableRef::new(&self.header_buffer);
            headers = Some(stamped.map_err(|error| Error::invalid("headers", error))?);
        }
        // Without headers, the properties are not copied.
        let with_headers = headers.map(|headers| Properties {
            headers: Some(headers.into()),
            ..*publish.properties
        });
        let properties = with_headers.as_ref().unwrap_or(publish.properties);
        cx.transmit
            .append_content(channel, &method, properties, &publish.body)?;
        Ok(())
    }

    /// Writes a call with its own correlation id.
    pub(crate) fn write_call(
        &mut self,
        cx: &mut Context,
        channel: u16,
        publish: &Publish<'_>,
    ) -> Result<(), Error> {
        let number = self
            .publishers
            .on(channel)
            .map_or(0, |publisher| publisher.confirms.next());
        let id = self.call_ids.id(cx.incarnation(channel), number);
        let correlation_id = Some(ShortStr::new(&id)?);
        let properties = Properties {
            reply_to: Some(REPLY_TO),
            correlation_id,
            ..*publish.properties
        };
        self.write_publish(
            cx,
            channel,
            &Publish {
                properties: &properties,
                ..publish.clone()
            },
            0,
        )
    }

    /// Handles `basic.ack` and `basic.nack` of publishes. Returns `false` if the tag is not that of
    /// an unconfirmed publish. "Published messages are assigned ascending sequence numbers,
    /// starting at 1 with the first Confirm.Select method. The server confirms messages by sending
    /// Basic.Ack methods referring to these sequence numbers" (class `confirm`).
    /// Sends a redundant `confirm.select` after a channel's first publish. Its reply proves that
    /// the broker accepted that publish. A second `confirm.select` changes nothing.
    pub(crate) fn prove(&mut self, cx: &mut Context, channel: u16) {
        cx.write(channel, &confirm::Select { nowait: false });
        cx.await_reply(channel, &confirm::Select::INFO, Awaited::Proof);
    }
}
