//! Consumers of several queues.

use super::builder::{Entries, arguments, consumer_settings, flags, name};
use super::{Client, Consumer};
use crate::machine::{Consume, ConsumerSettings};
use crate::options::{OnDrop, Resubscribe};
use std::borrow::Cow;

/// One of the queues of [`Client::basic_consume_multi`], with its own settings.
#[derive(Clone, Debug)]
#[must_use = "settings do nothing unless passed to `basic_consume_multi`"]
pub struct ConsumeQueue<'a> {
    queue: Cow<'a, str>,
    consumer_tag: Cow<'a, str>,
    no_local: bool,
    exclusive: bool,
    pub(super) arguments: Entries,
}

flags! { ConsumeQueue:
    /// Excludes messages that this connection published. RabbitMQ ignores it. Off by default.
    no_local,
    /// Makes this the only consumer of the queue; [`AccessRefused`](crate::Error::AccessRefused) if
    /// there is another. Off by default.
    exclusive,
}

arguments!(ConsumeQueue);

impl<'a> ConsumeQueue<'a> {
    /// Creates the settings of a queue with their defaults.
    pub fn new(queue: impl Into<Cow<'a, str>>) -> Self {
        Self {
            queue: queue.into(),
            consumer_tag: Cow::Borrowed(""),
            no_local: false,
            exclusive: false,
            arguments: Entries::default(),
        }
    }

    /// Sets a readable part of the consumer tag. The library adds a prefix that makes the tag
    /// unique.
    pub fn consumer_tag(mut self, tag: impl Into<Cow<'a, str>>) -> Self {
        self.consumer_tag = tag.into();
        self
    }

    fn to_consume(&self) -> Result<Consume<'_>, crate::Error> {
        Ok(Consume {
            queue: name("queue", &self.queue)?,
            tag: &self.consumer_tag,
            prefetch_count: 0,
            no_local: self.no_local,
            no_ack: false,
            exclusive: self.exclusive,
            arguments: self.arguments.table("arguments")?,
            resubscribe: None,
            on_drop: OnDrop::default(),
        })
    }
}

impl<'a> From<&'a str> for ConsumeQueue<'a> {
    fn from(queue: &'a str) -> Self {
        Self::new(queue)
    }
}

impl<'a> From<&'a String> for ConsumeQueue<'a> {
    fn from(queue: &'a String) -> Self {
        Self::new(queue)
    }
}

impl From<String> for ConsumeQueue<'_> {
    fn from(queue: String) -> Self {
        Self::new(queue)
    }
}

/// A request that starts a consumer of several queues. Returned by [`Client::basic_consume_multi`].
#[derive(Clone, Debug)]
#[must_use = "a request does nothing unless it is awaited or sent"]
pub struct BasicConsumeMulti<'a> {
    client: &'a Client,
    queues: Vec<ConsumeQueue<'a>>,
    prefetch_count: u16,
    no_ack: bool,
    resubscribe: Option<Resubscribe>,
    on_drop: OnDrop,
}

flags! { BasicConsumeMulti:
    /// Makes messages count as settled when the broker sends them, so those in transit are lost
    /// with the connection. Off by default.
    no_ack,
}

impl BasicConsumeMulti<'_> {
    /// Sets how many messages of all the queues together may be read and unsettled at a time. 0
    /// means no limit, and is the default, as in Puka for Python.
    ///
    /// The client applies the limit, because RabbitMQ applies it to each queue since 4.3, and
    /// before closes the connection over it if one of them is a quorum queue or a stream. So up to
    /// this many messages of each queue may be buffered.
    pub fn prefetch_count(mut self, messages: u16) -> Self {
        self.prefetch_count = messages;
        self
    }
}

consumer_settings!(BasicConsumeMulti);

request!(BasicConsumeMulti, Request, Consumer, |request, machine| {
    let queues = request
        .queues
        .iter()
        .map(ConsumeQueue::to_consume)
        .collect::<Result<Vec<_>, _>>()?;
    let settings = ConsumerSettings {
        prefetch_count: request.prefetch_count,
        no_ack: request.no_ack,
        resubscribe: request.resubscribe,
        on_drop: request.on_drop,
    };
    machine.consume_multi(&queues, &settings)
});

impl Client {
    /// Starts one consumer of several queues, which share one channel and one prefetch count.
    /// Either all of them start, or none. [`Delivery::queue`](crate::Delivery::queue) returns the
    /// queue of a message. The consumer ends when its last queue has ended;
    /// [`Consumer::ended_queues`] returns those that ended before, and has an example.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound) if one of the queues does not exist,
    /// [`AccessRefused`](crate::Error::AccessRefused) without permission or if another consumer is
    /// exclusive, [`InvalidArgument`](crate::Error::InvalidArgument) if the name of a queue is
    /// empty.
    ///
    /// # Spec
    /// `basic.consume`, 1.8.3.3; `basic.qos`, 1.8.3.1
    pub fn basic_consume_multi<'a, Q>(
        &'a self,
        queues: impl IntoIterator<Item = Q>,
    ) -> BasicConsumeMulti<'a>
    where
        Q: Into<ConsumeQueue<'a>>,
    {
        let queues = queues.into_iter().map(Into::into).collect();
        BasicConsumeMulti {
            client: self,
            queues,
            prefetch_count: 0,
            no_ack: false,
            resubscribe: None,
            on_drop: OnDrop::default(),
        }
    }
}
