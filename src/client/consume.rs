//! Requests that start, resize and cancel consumers.

use super::builder::{Entries, arguments, consumer_settings, flags, name};
use super::{Client, Consumer};
use crate::machine::Consume;
use crate::options::{OnDrop, Resubscribe};
use std::borrow::Cow;

/// A request that starts a consumer. Returned by [`Client::basic_consume`].
#[derive(Clone, Debug)]
#[must_use = "a request does nothing unless it is awaited or sent"]
pub struct BasicConsume<'a> {
    client: &'a Client,
    queue: Cow<'a, str>,
    consumer_tag: Cow<'a, str>,
    prefetch_count: u16,
    no_local: bool,
    no_ack: bool,
    exclusive: bool,
    resubscribe: Option<Resubscribe>,
    on_drop: OnDrop,
    pub(super) arguments: Entries,
}

flags! { BasicConsume:
    /// Excludes messages that this connection published. RabbitMQ ignores it. Off by default.
    no_local,
    /// Makes messages count as settled when the broker sends them, so those in transit are lost
    /// with the connection. Off by default.
    no_ack,
    /// Makes this the only consumer of the queue; [`AccessRefused`](crate::Error::AccessRefused) if
    /// there is another. Off by default.
    exclusive,
}

arguments!(BasicConsume);

impl<'a> BasicConsume<'a> {
    /// Sets how many messages may be unsettled at a time. 0 means no limit, and is the default, as
    /// in Puka for Python.
    ///
    /// Set a limit: without one, the broker sends the whole queue, and up to
    /// [`Options::max_buffered_bytes`](crate::Options::max_buffered_bytes) of it are buffered. Each
    /// time the buffer is full, reading pauses. A task that takes deliveries and also waits for
    /// replies, such as the confirm of a publish, may then be delayed by half a second, as
    /// described at [`Options::max_buffered_deliveries`](crate::Options::max_buffered_deliveries).
    pub fn prefetch_count(mut self, messages: u16) -> Self {
        self.prefetch_count = messages;
        self
    }

    /// Sets a readable part of the consumer tag. The library adds a prefix that makes the tag
    /// unique.
    pub fn consumer_tag(mut self, tag: impl Into<Cow<'a, str>>) -> Self {
        self.consumer_tag = tag.into();
        self
    }
}

consumer_settings!(BasicConsume);

request!(BasicConsume, Request, Consumer, |request, machine| {
    machine.consume(&Consume {
        queue: name("queue", &request.queue)?,
        tag: &request.consumer_tag,
        prefetch_count: request.prefetch_count,
        no_local: request.no_local,
        no_ack: request.no_ack,
        exclusive: request.exclusive,
        arguments: request.arguments.table("arguments")?,
        resubscribe: request.resubscribe,
        on_drop: request.on_drop,
    })
});

/// A request that changes the prefetch count of a consumer. Returned by [`Client::basic_qos`].
#[derive(Clone, Debug)]
#[must_use = "a request does nothing unless it is awaited or sent"]
pub struct BasicQos<'a> {
    client: &'a Client,
    consumer: &'a Consumer,
    prefetch_count: u16,
}

request!(BasicQos, Request, (), |request, machine| machine
    .qos(request.consumer.id(), request.prefetch_count));

/// A request that cancels a consumer. Returned by [`Client::basic_cancel`].
#[derive(Clone, Debug)]
#[must_use = "a request does nothing unless it is awaited or sent"]
pub struct BasicCancel<'a> {
    client: &'a Client,
    consumer: &'a Consumer,
}

request!(BasicCancel, Request, String, |request, machine| machine
    .cancel(request.consumer.id()));

impl Client {
    /// Starts a consumer on its own channel, so its prefetch count and its errors affect no other.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound) if the queue does not exist,
    /// [`AccessRefused`](crate::Error::AccessRefused) without permission or if another consumer is
    /// exclusive, [`InvalidArgument`](crate::Error::InvalidArgument) if the name is empty,
    /// [`ChannelLimit`](crate::Error::ChannelLimit) if other consumers use all channels that
    /// [`channel_max`](crate::Options::channel_max) and the broker allow. Two channels are reserved
    /// for requests.
    ///
    /// # Spec
    /// `basic.consume`, 1.8.3.3; `basic.qos`, 1.8.3.1
    #[doc(alias("consume", "subscribe"))]
    pub fn basic_consume<'a>(&'a self, queue: impl Into<Cow<'a, str>>) -> BasicConsume<'a> {
        BasicConsume {
            client: self,
            queue: queue.into(),
            consumer_tag: Cow::Borrowed(""),
            prefetch_count: 0,
            no_local: false,
            no_ack: false,
            exclusive: false,
            resubscribe: None,
            on_drop: OnDrop::default(),
            arguments: Entries::default(),
        }
    }

    /// Changes how many messages of an active consumer may be unsettled at a time; 0 for no limit.
    ///
    /// The broker fixes the limit of a consumer when it starts. So a higher limit starts another
    /// consumer on the broker for the difference, and a lower limit starts a replacement. Their
    /// deliveries also arrive at `consumer`, and [`Consumer::tag`] stays the first tag. If the
    /// broker closes the connection over the change, the request fails with that error, and the
    /// recovered consumer has the previous limit.
    ///
    /// # Errors
    /// [`Stale`](crate::Error::Stale) if the consumer has ended,
    /// [`InvalidArgument`](crate::Error::InvalidArgument) if it is exclusive, because the broker
    /// allows no second consumer beside it, or if it has a stream offset, because a second consumer
    /// would repeat messages.
    ///
    /// # Spec
    /// `basic.qos`, 1.8.3.1, and RabbitMQ's consumer prefetch.
    #[doc(alias = "prefetch")]
    pub fn basic_qos<'a>(&'a self, consumer: &'a Consumer, prefetch_count: u16) -> BasicQos<'a> {
        BasicQos {
            client: self,
            consumer,
            prefetch_count,
        }
    }

    /// Cancels a consumer, and resolves to its tag. Unlike [`Consumer::cancel`], deliveries that
    /// the consumer has already taken from the connection can still be read.
    ///
    /// # Errors
    /// [`Stale`](crate::Error::Stale) if the consumer has already ended.
    ///
    /// # Spec
    /// `basic.cancel`, 1.8.3.5
    pub fn basic_cancel<'a>(&'a self, consumer: &'a Consumer) -> BasicCancel<'a> {
        BasicCancel {
            client: self,
            consumer,
        }
    }
}
