//! Requests that publish messages.

use super::Client;
use super::builder::{Entries, flags, name};
use crate::error::Error;
use crate::link::Capacity;
use crate::machine::{Body, PromiseId, Publish, TransactionId};
use crate::protocol::{Properties, ShortStr, Table, Value};
use std::borrow::Cow;
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
    /// Boxed to keep the builder small, because a fault is rare.
    fault: Option<Box<Error>>,
    via: Via,
}

/// The kind of a publish.
#[derive(Clone, Copy, Debug)]
pub(super) enum Via {
    Confirmed,
    Unconfirmed,
    Transaction(TransactionId),
}

flags! { BasicPublish:
    /// Asks the broker to return the message if no queue is bound for it: [`Error::NoRoute`]. Off
    /// by default. The message carries a header `x-puka-publish`, which matches a return to its
    /// publish.
    mandatory,
    /// Asks the broker to return the message if no consumer is ready for it:
    /// [`Error::NoConsumers`]. Off by default. Refused for RabbitMQ 3 and later, which would close
    /// the connection.
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
                        Err(error) => {
                            let error = Error::invalid(stringify!($method), error);
                            self.fault.get_or_insert(error.into());
                        }
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
    /// Sets the queue for the reply. RabbitMQ's `amq.rabbitmq.reply-to` is refused, because its
    /// replies come on the channel of the publish: use [`rpc`](BasicPublish::rpc).
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
    pub(super) fn via(mut self, via: Via) -> Self {
        self.via = via;
        self
    }

    fn capacity(&self) -> Capacity {
        match self.via {
            Via::Confirmed | Via::Unconfirmed => Capacity::Publish,
            Via::Transaction(_) => Capacity::Transact,
        }
    }

    /// Sets whether the broker confirms the message. On by default. Has no effect in a transaction
    /// and for a call.
    ///
    /// Without a confirm, the publish resolves when it is queued for writing, and its outcome is
    /// not reported. The message is lost if the connection fails first, the exchange does not
    /// exist, or no queue matches. In some of these cases the broker closes the channel and
    /// discards all messages on it that it has not processed. Only
    /// [`Notice::ChannelClosed`](crate::Notice::ChannelClosed) reports this, and not once the
    /// connection is closing. Such messages keep their order among each other for one exchange, but
    /// not relative to confirmed ones. They use the same capacity: while the limit of unconfirmed
    /// publishes is reached, they wait, too.
    ///
    /// Use it for messages that may be lost, such as samples, positions and log lines. It costs the
    /// broker and this client less work.
    ///
    /// # Errors
    /// [`Timeout`](Error::Timeout) if there was no outgoing capacity in time, or the reason why the
    /// connection is closed; [`InvalidArgument`](Error::InvalidArgument) if the message is
    /// `mandatory` or `immediate`, because no request would receive the return.
    ///
    /// # Spec
    /// `basic.publish`, 1.8.3.7, on a channel without RabbitMQ's `confirm.select`.
    #[doc(alias = "confirm_select")]
    pub fn confirm(mut self, confirm: bool) -> Self {
        if !matches!(self.via, Via::Transaction(_)) {
            self.via = if confirm {
                Via::Confirmed
            } else {
                Via::Unconfirmed
            };
        }
        self
    }

    /// Sets whether the message survives a restart of the broker in a durable queue. Unset by
    /// default, which means no.
    pub fn persistent(mut self, persistent: bool) -> Self {
        self.properties.delivery_mode = Some(if persistent { 2 } else { 1 });
        self
    }

    /// Sets the priority, for queues with priorities.
    pub fn priority(mut self, priority: u8) -> Self {
        self.properties.priority = Some(priority);
        self
    }

    /// Sets how long the message may stay in a queue, in whole milliseconds; at most ten years.
    pub fn expiration(mut self, expiration: Duration) -> Self {
        self.expiration = Some(expiration.as_millis().to_string());
        self
    }

    /// Sets the time of the message, in whole seconds. A time before 1970 is an
    /// [`Error::InvalidArgument`].
    pub fn timestamp(mut self, time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(since) => self.properties.timestamp = Some(since.as_secs()),
            Err(_) => {
                self.fault
                    .get_or_insert(Error::invalid("timestamp", "the time is before 1970").into());
            }
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

    /// Sets all properties of the message, headers included. Replaces the values set before.
    pub fn properties(mut self, properties: Properties<'a>) -> Self {
        self.properties = properties;
        self.expiration = None;
        self.headers = Entries::default();
        if let Some(headers) = self.properties.headers.take() {
            match headers.table() {
                Ok(table) => self.headers.extend("headers", table),
                Err(error) => {
                    self.fault
                        .get_or_insert(Error::invalid("headers", error).into());
                }
            }
        }
        self
    }
}

impl BasicPublish<'_> {
    /// Builds the publish and passes it to the state machine.
    #[inline]
    pub(super) fn ask(
        &self,
        ask: impl FnOnce(&Publish<'_>) -> Result<PromiseId, Error>,
    ) -> Result<PromiseId, Error> {
        if let Some(fault) = &self.fault {
            return Err((**fault).clone());
        }
        let expiring;
        let properties = match &self.expiration {
            None => &self.properties,
            Some(expiration) => {
                expiring = Properties {
                    expiration: Some(ShortStr::new(expiration)?),
                    ..self.properties
                };
                &expiring
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
            body: self.body.lend(),
        };
        match self.body.users_own() {
            None => ask(&publish),
            Some(body) => {
                // The state machine drops its share of the body under the lock. The body's owner
                // may be a type of the user, whose `Drop` must not run there.
                let guarded = self.client.handle().link().guard(body);
                ask(&Publish {
                    body: Body::Lent(&guarded),
                    ..publish
                })
            }
        }
    }
}

request!(BasicPublish, |it| it.capacity(), (), |it, machine| {
    it.ask(|publish| match it.via {
        Via::Confirmed => machine.publish(publish),
        Via::Unconfirmed => machine.publish_unconfirmed(publish),
        Via::Transaction(id) => machine.publish_in(id, publish),
    })
});

impl Client {
    /// Publishes a message, and resolves when the broker has confirmed it: when the queues that
    /// persist it have written it to disk, or when no queue matches.
    ///
    /// # Errors
    /// [`NotFound`](Error::NotFound) if the exchange does not exist,
    /// [`AccessRefused`](Error::AccessRefused) without permission, [`NoRoute`](Error::NoRoute) if
    /// it is mandatory and no queue is bound for it, [`Nacked`](Error::Nacked) if a queue refused
    /// it, [`Unconfirmed`](Error::Unconfirmed) if the outcome is unknown because the connection or
    /// channel was lost or the deadline passed; [`Timeout`](Error::Timeout) if it was not sent in
    /// time because there was no outgoing capacity; [`InvalidArgument`](Error::InvalidArgument) if
    /// the broker would refuse it.
    ///
    /// A publish whose deadline has passed no longer counts towards
    /// [`Options::max_publishes_in_flight`](crate::Options::max_publishes_in_flight), so a queue
    /// that confirms nothing does not block other publishes for longer. A late confirm is ignored.
    ///
    /// When several publishes to an exchange are in flight and the broker refuses one, it says
    /// neither which one nor which of the earlier ones it has accepted. If the first publish since
    /// the channel was opened is not known to have succeeded, the broker accepted none, and an
    /// error that names the exchange completes all of them. If the exchange was deleted later, that
    /// error completes the last one, and the others fail with `Unconfirmed`, with the error as the
    /// source.
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
            fault: None,
            via: Via::Confirmed,
        }
    }
}
