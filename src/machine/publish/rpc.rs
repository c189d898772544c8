//! Calls: publishes with a reply, over RabbitMQ's direct reply-to.
//!
//! A channel for calls consumes from the pseudo-queue `amq.rabbitmq.reply-to`. The broker replaces
//! the property `reply-to` of a call with the address of that channel, and the property
//! `correlation-id` matches a reply to its call.

use crate::error::Error;
use crate::machine::context::Context;
use crate::machine::ids::ChannelNumber;
use crate::machine::publish::Publishing;
use crate::machine::publish::pending::{PendingPublish, PublishKind};
use crate::machine::{PromiseId, Publish, Reply};
use crate::message::Message;
use std::time::Duration;

impl Publishing {
    /// Publishes a call. Its promise completes with the reply. Without a timeout, that of a request
    /// applies. The publish is mandatory, so a call that no queue receives fails at once.
    pub(crate) fn call(
        &mut self,
        cx: &mut Context,
        publish: &Publish<'_>,
        timeout: Option<Duration>,
    ) -> Result<PromiseId, Error> {
        let properties = publish.properties;
        for (name, property) in [
            ("reply_to", properties.reply_to),
            ("correlation_id", properties.correlation_id),
        ] {
            if property.is_some() {
                return Err(Error::invalid(name, "must not be set: a call has its own"));
            }
        }
        self.check_to_publish(cx, publish)?;
        let publish = Publish {
            mandatory: true,
            ..publish.clone()
        };
        let ready = self.ready_channel(cx, publish.exchange, PublishKind::Call);
        if let Some(channel) = ready {
            self.write_call(cx, channel, &publish)?;
        }
        let promise = cx
            .promises
            .open_timed(timeout.unwrap_or(cx.options.timeouts.request));
        match ready {
            Some(channel) => {
                let size = publish.body.as_bytes().len();
                let stored = publish
                    .immediate
                    .then(|| PendingPublish::new(promise, PublishKind::Call, &publish));
                self.record_sent(cx, channel, promise, size, stored);
            }
            None => self.enqueue(PendingPublish::new(promise, PublishKind::Call, &publish)),
        }
        Ok(promise)
    }

    /// Completes the call to which a reply belongs. Drops a late reply and a reply to an unknown
    /// call.
    pub(crate) fn handle_reply(
        &mut self,
        cx: &mut Context,
        channel: ChannelNumber,
        message: Message,
    ) {
        let incarnation = cx.incarnation(channel);
        let correlation_id = message.properties().correlation_id;
        let number = correlation_id.and_then(|id| self.call_ids.number(incarnation, id.as_bytes()));
        if let Some(promise) = number.and_then(|number| self.publishers.take_call(channel, number))
        {
            cx.complete(promise, Ok(Reply::Message(Box::new(message))));
        }
    }
}
