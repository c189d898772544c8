//! Publishing.

use super::Client;
use super::settings::{Entries, flags, name};
use crate::error::Error;
use crate::link::Room;
use crate::machine::{Body, PromiseId, Publish, TransactionId};
use crate::protocol::{Properties, ShortStr, Table, Value};
use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Publishes a message. Made by [`Client::basic_publish`].
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
    /// Boxed, because there is hardly ever one.
    fault: Option<Box<Error>>,
    via: Via,
}

/// How a message is published.
#[derive(Clone, Copy, Debug)]
pub(super) enum Via {
    Confirmed,
    Unconfirmed,
    Transaction(TransactionId),
}

flags! { BasicPublish:
    /// Has the message come back when no queue is bound for it: [`Error::NoRoute`]. Off by default. The message then carries
    /// a header `x-puka-publish`, by which a return finds its own publish.
    mandatory,
    /// Has the message come back when no consumer is ready for it: [`Error::NoConsumers`]. Off by default, and refused when
    /// the server is RabbitMQ 3 or later, which closes the connection over it.
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
                            self.fault.get_or_insert(Error::invalid(stringify!($method), error).into());
                        }
                    }
                    self
                }
            )*
        }
    };
}

text_properties! {
    /// MIME type of the body, such as `application/json`.
    content_type => content_type;
    /// MIME encoding of the body, such as `gzip`.
    content_encoding => content_encoding;
    /// Which request this belongs to.
    correlation_id => correlation_id;
    /// Where the answer should go.
    reply_to => reply_to;
    /// The application's id of the message.
    message_id => message_id;
    /// The application's name for this kind of message: the property `type`.
    message_type => r#type;
    /// Who publishes it. The broker checks that it is who logged in, so another is refused before it is sent, unless
    /// [`Options::allow_foreign_user_id`](crate::Options::allow_foreign_user_id) is set.
    user_id => user_id;
    /// The application that publishes it.
    app_id => app_id;
    /// Reserved.
    cluster_id => cluster_id;
}

impl<'a> BasicPublish<'a> {
    pub(super) fn via(mut self, via: Via) -> Self {
        self.via = via;
        self
    }

    fn room(&self) -> Room {
        match self.via {
            Via::Confirmed | Via::Unconfirmed => Room::Publish,
            Via::Transaction(_) => Room::Transact,
        }
    }

    /// Whether the broker is to confirm the message. On by default. Has no effect within a transaction and on a call.
    ///
    /// Without, it resolves as soon as the message stands in the order of what is to be written, and nobody is told what becomes
    /// of it. It is lost when the connection is before the broker has it, when there is no such exchange, when no queue takes
    /// it. The broker closes the channel over some of these, and with the channel go all the messages on it that it had not
    /// yet looked at; all there is to see of it is [`Notice::ChannelClosed`](crate::Notice::ChannelClosed), and not that once the
    /// connection is being closed. Such messages keep their order among each other, for one exchange, but not with those that are
    /// confirmed. They find room as others do: while as many publishes as may be wait for their confirm, these wait, too.
    ///
    /// It is for what may be lost: samples, positions, log lines. The broker has less to do for each, and so has this side.
    ///
    /// # Errors
    /// [`Timeout`](Error::Timeout) when it was held back for too long, and why the connection is closed;
    /// [`InvalidArgument`](Error::InvalidArgument) when the message is `mandatory` or `immediate`: it would come back to nobody.
    ///
    /// # Spec
    /// `basic.publish`, 1.8.3.7, on a channel without RabbitMQ's `confirm.select`.
    pub fn confirm(mut self, confirm: bool) -> Self {
        if !matches!(self.via, Via::Transaction(_)) {
            self.via = if confirm { Via::Confirmed } else { Via::Unconfirmed };
        }
        self
    }

    /// Whether the message survives a restart of the broker, in a queue that does. By default it is not said, which means no.
    pub fn persistent(mut self, persistent: bool) -> Self {
        self.properties.delivery_mode = Some(if persistent { 2 } else { 1 });
        self
    }

    /// The priority, for queues that have some.
    pub fn priority(mut self, priority: u8) -> Self {
        self.properties.priority = Some(priority);
        self
    }

    /// When the message expires in its queue, to the millisecond; ten years at most.
    pub fn expiration(mut self, expiration: Duration) -> Self {
        self.expiration = Some(expiration.as_millis().to_string());
        self
    }

    /// When the message was made, to the second. A time before 1970 is an [`Error::InvalidArgument`].
    pub fn timestamp(mut self, time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(since) => self.properties.timestamp = Some(since.as_secs()),
            Err(_) => {
                self.fault.get_or_insert(Error::invalid("timestamp", "it is before 1970").into());
            }
        }
        self
    }

    /// Adds a header. Any value of a field table will do.
    pub fn header<'v>(mut self, name: &str, value: impl Into<Value<'v>>) -> Self {
        self.headers.add("headers", name, value);
        self
    }

    /// Adds all the entries of a table to the headers.
    pub fn headers(mut self, headers: &Table) -> Self {
        self.headers.extend("headers", headers.as_ref());
        self
    }

    /// Takes all the properties of a message, its headers included, in place of those set before.
    pub fn properties(mut self, properties: Properties<'a>) -> Self {
        self.properties = properties;
        self.expiration = None;
        self.headers = Entries::default();
        if let Some(headers) = self.properties.headers.take() {
            match headers.table() {
                Ok(table) => self.headers.extend("headers", table),
                Err(error) => {
                    self.fault.get_or_insert(Error::invalid("headers", error).into());
                }
            }
        }
        self
    }
}

impl BasicPublish<'_> {
    /// Asks the machine.
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
                expiring = Properties { expiration: Some(ShortStr::new(expiration)?), ..self.properties };
                &expiring
            }
        };
        // The state machine drops its share of the body under the lock. The body's owner may be a
        // type of the user, whose `Drop` must not run there.
        let guarded = self.body.users_own().map(|body| self.client.handle().link().guard(body));
        let body = guarded.as_ref().map_or_else(|| self.body.lend(), Body::Lent);
        let headers = if self.headers.is_empty() { None } else { Some(self.headers.table("headers")?) };
        ask(&Publish {
            exchange: name("exchange", &self.exchange)?,
            routing_key: name("routing_key", &self.routing_key)?,
            mandatory: self.mandatory,
            immediate: self.immediate,
            properties,
            headers,
            body,
        })
    }
}

request!(BasicPublish, |it| it.room(), (), |it, machine| {
    it.ask(|publish| match it.via {
        Via::Confirmed => machine.publish(publish),
        Via::Unconfirmed => machine.publish_unconfirmed(publish),
        Via::Transaction(id) => machine.publish_in(id, publish),
    })
});

impl Client {
    /// Publishes a message, and resolves when the broker has confirmed it: when it is on the disks of the queues that keep it
    /// there, or when no queue wants it.
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
    /// When several publishes to an exchange are in flight and the broker refuses one, it says neither which nor what it has
    /// taken before. If the first publish since the channel was opened has not gone through, it took none, and an error
    /// that names the exchange is the answer to all of them. If the exchange went later, it is the answer to the last, and
    /// the others are `Unconfirmed` with it as their cause.
    ///
    /// # Cancel safety
    /// Dropped while it waits for room, nothing was sent. Dropped later, the message is published whole.
    ///
    /// # Spec
    /// `basic.publish`, 1.8.3.7; RabbitMQ's publisher confirms.
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
