//! Requests that publish messages.

use super::Client;
use super::builder::{Entries, flags, name};
use crate::error::Error;
use crate::link::Capacity;
use crate::machine::{Body, PromiseId, Publish, TransactionId};
use crate::protocol::{Properties, ShortStr, Table, Value};
use std::borrow::Cow;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A request that publishes a message. Returned by [`Client::basic_publish`].
#[derive(Clone, Debug)]
#[must_use = "a request does nothing unless it is awaited or sent"]
pub struct BasicPublish<'a> {
    pub(super) client: &'a Client,
    exchange: Cow<'a, str>,
    routing_key: Cow<'a, str>,
    mandatory: bool,
    immediate: bool,
    properties: Properties<'a>,
    expiration: Option<String>,
    pub(super) headers: Entries,
    body: Body<'a>,
    /// The first error of a setter. Boxed to keep the builder small, because an error is rare.
    setter_error: Option<Box<Error>>,
    mode: PublishMode,
}

/// How a message is published: what reports its outcome.
#[derive(Clone, Copy, Debug)]
pub(super) enum PublishMode {
    Confirmed,
    Unconfirmed,
    Transaction(TransactionId),
}

flags! { BasicPublish:
    /// Asks the broker to return the message if no queue is bound for it. The publish then fails
    /// with [`Error::NoRoute`]. Off by default. The library adds a header `x-puka-publish` to the
    /// message, by which it finds the publish of a returned message.
    mandatory,
    /// Asks the broker to return the message if no consumer is ready for it. The publish then fails
    /// with [`Error::NoConsumers`]. Off by default. With RabbitMQ 3 and later, which would close
    /// the connection, the publish fails before it is sent. Any other broker that closes the
    /// connection over it, such as a proxy for RabbitMQ, does so once: the publish fails with
    /// [`Error::NotImplemented`], and later ones before they are sent.
    immediate,
}

macro_rules! text_properties {
    ($($(#[$doc:meta])* $method:ident => $field:ident;)*) => {
        impl<'a> BasicPublish<'a> {
            $(
                $(#[$doc])*
                pub fn $method(mut self, $method: &'a str) -> Self {
                    match ShortStr::new($method) {
                        Ok(text) => self.properties.$field = Some(text),
                        Err(error) => self.store_error(stringify!($method), error),
                    }
                    self
                }
            )*
        }
    };
}

text_properties! {
    /// Sets the MIME type of the body, such as `application/json`.
    content_type => content_type;
    /// Sets the MIME encoding of the body, such as `gzip`.
    content_encoding => content_encoding;
    /// Sets the id that matches a reply to its request.
    correlation_id => correlation_id;
    /// Sets the queue for the reply. RabbitMQ's `amq.rabbitmq.reply-to` is refused: its replies
    /// arrive on the channel of the publish, where nothing waits for them. Use
    /// [`rpc`](BasicPublish::rpc) instead.
    reply_to => reply_to;
    /// Sets the application's id of the message.
    message_id => message_id;
    /// Sets the application's name for this kind of message: the property `type`.
    message_type => r#type;
    /// Sets the user who publishes the message. The broker requires the name of the login, so
    /// another name is refused before it is sent, unless
    /// [`Options::allow_foreign_user_id`](crate::Options::allow_foreign_user_id) is set.
    user_id => user_id;
    /// Sets the application that publishes the message.
    app_id => app_id;
    /// Sets the reserved property `cluster-id`.
    cluster_id => cluster_id;
}

impl<'a> BasicPublish<'a> {
    pub(super) fn with_mode(mut self, mode: PublishMode) -> Self {
        self.mode = mode;
        self
    }

    /// Stores the error of a setter, if it is the first. Sending the request returns it.
    fn store_error(&mut self, what: &'static str, error: impl fmt::Display) {
        self.setter_error
            .get_or_insert_with(|| Error::invalid(what, error).into());
    }

    fn capacity(&self) -> Capacity {
        match self.mode {
            PublishMode::Confirmed | PublishMode::Unconfirmed => Capacity::Publish,
            PublishMode::Transaction(_) => Capacity::Transact,
        }
    }

    /// Sets whether the broker confirms the message. On by default. Has no effect in a transaction
    /// and for a call.
    ///
    /// Without a confirm, the publish resolves when it is queued for writing, and its outcome is
    /// not reported. The message is lost if the connection fails first, the exchange does not
    /// exist, or no queue matches. If the exchange does not exist, the broker closes the channel
    /// and discards all messages on it that it has not processed. Only
    /// [`Notice::ChannelClosed`](crate::Notice::ChannelClosed) reports this.
    ///
    /// Messages without confirms to one exchange keep their order. They are not ordered relative to
    /// confirmed messages. Both kinds share a capacity: a publish without a confirm also waits
    /// while [`Options::max_publishes_in_flight`](crate::Options::max_publishes_in_flight)
    /// publishes are unconfirmed.
    ///
    /// Use it for messages that may be lost, such as samples, positions and log lines. It costs the
    /// broker and this client less work.
    ///
    /// # Errors
    /// With `false`, awaiting the publish fails with [`Timeout`](Error::Timeout) if there was no
    /// outgoing capacity in time, with [`InvalidArgument`](Error::InvalidArgument) if the message
    /// is `mandatory` or `immediate`, because no request would receive the returned message, and
    /// with the reason why the connection is closed.
    ///
    /// # Spec
    /// `basic.publish`, 1.8.3.7, on a channel without RabbitMQ's `confirm.select`.
    #[doc(alias = "confirm_select")]
    pub fn confirm(mut self, confirm: bool) -> Self {
        if !matches!(self.mode, PublishMode::Transaction(_)) {
            self.mode = if confirm {
                PublishMode::Confirmed
            } else {
                PublishMode::Unconfirmed
            };
        }
        self
    }

    /// Sets whether the message survives a restart of the broker in a durable queue. Off by
    /// default.
    pub fn persistent(mut self, persistent: bool) -> Self {
        self.properties.delivery_mode = Some(if persistent { 2 } else { 1 });
        self
    }

    /// Sets the priority, for queues with priorities.
    pub fn priority(mut self, priority: u8) -> Self {
        self.properties.priority = Some(priority);
        self
    }

    /// Sets how long the message may stay in a queue, in whole milliseconds. RabbitMQ refuses more
    /// than ten years.
    pub fn expiration(mut self, expiration: Duration) -> Self {
        self.expiration = Some(expiration.as_millis().to_string());
        self
    }

    /// Sets the time of the message, in whole seconds. A time before 1970 is an
    /// [`Error::InvalidArgument`].
    pub fn timestamp(mut self, time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(since) => self.properties.timestamp = Some(since.as_secs()),
            Err(_) => self.store_error("timestamp", "the time is before 1970"),
        }
        self
    }

    /// Adds a header. Any field table value is accepted.
    pub fn header<'v>(mut self, name: &str, value: impl Into<Value<'v>>) -> Self {
        self.headers.add("headers", name, value);
        self
    }

    /// Adds all entries of a table to the headers.
    pub fn headers(mut self, headers: &Table) -> Self {
        self.headers.extend("headers", headers.as_ref());
        self
    }

    /// Sets all properties of the message, headers included. Replaces the values set before, also
    /// an invalid one.
    pub fn properties(mut self, properties: Properties<'a>) -> Self {
        self.properties = properties;
        self.setter_error = None;
        self.expiration = None;
        self.headers = Entries::default();
        if let Some(headers) = self.properties.headers.take() {
            match headers.table() {
                Ok(table) => self.headers.extend("headers", table),
                Err(error) => self.store_error("headers", error),
            }
        }
        self
    }
}

impl BasicPublish<'_> {
    /// Builds the publish, and passes it to a function that starts it in the state machine.
    #[inline]
    pub(super) fn build_and_start(
        &self,
        start: impl FnOnce(&Publish<'_>) -> Result<PromiseId, Error>,
    ) -> Result<PromiseId, Error> {
        if let Some(error) = &self.setter_error {
            return Err((**error).clone());
        }
        let with_expiration;
        let properties = match &self.expiration {
            None => &self.properties,
            Some(expiration) => {
                with_expiration = Properties {
                    expiration: Some(ShortStr::new(expiration)?),
                    ..self.properties
                };
                &with_expiration
            }
        };
        let headers = if self.headers.is_empty() {
            None
        } else {
            Some(self.headers.table("headers")?)
        };
        let publish = Publish {
            exchange: name("exchange", &self.exchange)?,
            routing_key: name("routing_key", &self.routing_key)?,
            mandatory: self.mandatory,
            immediate: self.immediate,
            properties,
            headers,
            body: self.body.as_borrowed(),
        };
        match self.body.user_owned() {
            None => start(&publish),
            Some(body) => {
                // The state machine drops its share of the body under the lock. The body's owner
                // may be a type of the user, whose `Drop` must not run there.
                let guarded = self.client.handle().link().guard(body);
                start(&Publish {
                    body: Body::Lent(&guarded),
                    ..publish
                })
            }
        }
    }
}

request!(
    BasicPublish,
    |request| request.capacity(),
    (),
    |request, machine| {
        request.build_and_start(|publish| match request.mode {
            PublishMode::Confirmed => machine.publish(publish),
            PublishMode::Unconfirmed => machine.publish_unconfirmed(publish),
            PublishMode::Transaction(id) => machine.publish_in(id, publish),
        })
    }
);

impl Client {
    /// Publishes a message, and resolves when the broker has confirmed it: when the queues that
    /// persist it have written it to disk, or when no queue matches.
    ///
    /// # Errors
    /// - [`NotFound`](Error::NotFound) if the exchange does not exist.
    /// - [`AccessRefused`](Error::AccessRefused) without permission.
    /// - [`NoRoute`](Error::NoRoute) if the message is mandatory and no queue is bound for it.
    /// - [`Nacked`](Error::Nacked) if a queue refused the message.
    /// - [`Unconfirmed`](Error::Unconfirmed) if the outcome is unknown, because the connection or
    ///   channel was lost or the deadline passed.
    /// - [`Timeout`](Error::Timeout) if the message was not sent in time, because there was no
    ///   outgoing capacity.
    /// - [`InvalidArgument`](Error::InvalidArgument) if the broker would refuse the message.
    /// - [`MissingCapability`](Error::MissingCapability) if the broker does not support confirms;
    ///   [`confirm(false)`](BasicPublish::confirm) publishes without.
    /// - [`ChannelLimit`](Error::ChannelLimit) if the broker refuses the channel.
    ///
    /// A publish whose deadline has passed no longer counts towards
    /// [`Options::max_publishes_in_flight`](crate::Options::max_publishes_in_flight), so a queue
    /// that confirms nothing does not block other publishes for longer. A late confirm is ignored.
    ///
    /// All publishes to an exchange share a channel, which the broker closes when it refuses one of
    /// them. So one refused publish also fails the others that are in flight to that exchange:
    ///
    /// - A publish that was in flight alone fails with the broker's error.
    /// - If the exchange does not exist or is forbidden, and no publish on the channel is known to
    ///   have succeeded, the broker has accepted none. All fail with that error.
    /// - If the exchange was deleted later, the last publish fails with that error.
    /// - If there is another error, and no publish on the channel is known to have succeeded, the
    ///   first publish fails with that error.
    /// - If the broker refuses a message because of its size, which its text contains, the only
    ///   publish in flight with that size fails with that error. The sizes of the last 1024 large
    ///   bodies of a channel are known.
    /// - All other publishes fail with `Unconfirmed`, with the broker's error as the source,
    ///   because the broker does not say whether it accepted them.
    ///
    /// # Cancel safety
    /// Nothing was sent if the future is dropped while it waits for capacity. If it is dropped
    /// later, the message is still published as a whole.
    ///
    /// # Spec
    /// `basic.publish`, 1.8.3.7; RabbitMQ's publisher confirms.
    #[doc(alias = "publish")]
    pub fn basic_publish<'a>(
        &'a self,
        exchange: impl Into<Cow<'a, str>>,
        routing_key: impl Into<Cow<'a, str>>,
        body: impl Into<Body<'a>>,
    ) -> BasicPublish<'a> {
        BasicPublish {
            client: self,
            exchange: exchange.into(),
            routing_key: routing_key.into(),
            mandatory: false,
            immediate: false,
            properties: Properties::default(),
            expiration: None,
            headers: Entries::default(),
            body: body.into(),
            setter_error: None,
            mode: PublishMode::Confirmed,
        }
    }
}
