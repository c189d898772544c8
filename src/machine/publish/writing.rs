//! Writing publishes and calls on the channel of their exchange.

use crate::error::Error;
use crate::machine::Publish;
use crate::machine::channel::Awaited;
use crate::machine::context::Context;
use crate::machine::ids::ChannelNumber;
use crate::machine::publish::Publishing;
use crate::machine::publish::check::{REPLY_TO, publish_method};
use crate::machine::publish::publishers::{NUMBER_HEADER, REPUBLISHED_HEADER};
use crate::protocol::method::confirm;
use crate::protocol::{Properties, ShortStr, Table, TableRef};

impl Publishing {
    /// Writes a publish with all its frames, or nothing if it cannot be encoded. `attempts` is the
    /// number of times that it was written before.
    pub(crate) fn write_publish(
        &mut self,
        cx: &mut Context,
        channel: ChannelNumber,
        publish: &Publish<'_>,
        attempts: u32,
    ) -> Result<(), Error> {
        let mut method = publish_method(cx, publish)?;
        let mut renamed = None;
        if cx.topology.has_renamed_queues() {
            renamed = cx.topology.update_publish(&mut method, publish.headers);
        }
        let mut headers = renamed.as_ref().map(Table::as_ref).or(publish.headers);
        let may_be_returned = publish.mandatory || publish.immediate;
        if (may_be_returned || attempts > 0)
            && let Some(publisher) = self.publishers.on(channel)
        {
            let mut own_headers = Table::new();
            if may_be_returned {
                own_headers.insert(NUMBER_HEADER, publisher.confirms.next() as i64)?;
            }
            if attempts > 0 {
                own_headers.insert(REPUBLISHED_HEADER, attempts)?;
                cx.counters.republished += 1;
            }
            self.header_buffer.clear();
            self.header_buffer
                .extend_from_slice(own_headers.as_ref().as_bytes());
            self.header_buffer
                .extend_from_slice(headers.unwrap_or_default().as_bytes());
            let all_headers = TableRef::new(&self.header_buffer);
            headers = Some(all_headers.map_err(|error| Error::invalid("headers", error))?);
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

    /// Writes a call, with direct reply-to and its own correlation id.
    pub(crate) fn write_call(
        &mut self,
        cx: &mut Context,
        channel: ChannelNumber,
        publish: &Publish<'_>,
    ) -> Result<(), Error> {
        // The channel has a publisher: `ready_channel` or `write_queued` has returned it.
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

    /// Sends a redundant `confirm.select` behind a channel's first publish. Its reply shows that
    /// the broker accepted that publish, so the exchange exists and the user may publish to it. A
    /// second `confirm.select` changes nothing.
    ///
    /// If the broker refuses the publish, the probe is late. So no probe is sent to a broker that
    /// closes the connection over late methods. An error is then treated as if the broker had
    /// accepted the first publish, because it may have.
    pub(crate) fn send_probe(&mut self, cx: &mut Context, channel: ChannelNumber) {
        if cx.learned.closes_over_late_methods {
            if let Some(publisher) = self.publishers.on(channel) {
                publisher.is_first_accepted = true;
            }
            return;
        }
        cx.write(channel, &confirm::Select { nowait: false });
        cx.await_reply(channel, &confirm::Select::INFO, Awaited::Probe);
    }
}
