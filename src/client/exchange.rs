//! Requests of class `exchange`.

use super::Client;
use super::builder::{Entries, arguments, flags, name};
use crate::protocol::method::exchange as methods;
use std::borrow::Cow;

/// A request that declares an exchange. Returned by [`Client::exchange_declare`].
#[derive(Clone, Debug)]
#[must_use = "a request does nothing unless it is awaited or sent"]
pub struct ExchangeDeclare<'a> {
    client: &'a Client,
    exchange: Cow<'a, str>,
    exchange_type: Cow<'a, str>,
    passive: bool,
    durable: bool,
    auto_delete: bool,
    internal: bool,
    pub(super) arguments: Entries,
}

flags! { ExchangeDeclare:
    /// Only checks that the exchange exists; [`NotFound`](crate::Error::NotFound) if it does not.
    /// Off by default.
    passive,
    /// Lets the exchange survive a restart of the broker. Off by default, as in Puka for Python.
    durable,
    /// Deletes the exchange when its last binding is removed. Off by default.
    auto_delete,
    /// Refuses publishes; the exchange accepts messages only from other exchanges. Off by default.
    internal,
}

arguments!(ExchangeDeclare);

request!(ExchangeDeclare, Request, (), |request, machine| {
    machine.request(methods::Declare {
        exchange: name("exchange", &request.exchange)?,
        r#type: name("exchange_type", &request.exchange_type)?,
        passive: request.passive,
        durable: request.durable,
        auto_delete: request.auto_delete,
        internal: request.internal,
        nowait: false,
        arguments: request.arguments.table("arguments")?,
    })
});

impl<'a> ExchangeDeclare<'a> {
    /// Sets the type: `direct` (the default), `fanout`, `topic`, `headers`, or a plugin's type.
    pub fn exchange_type(mut self, exchange_type: impl Into<Cow<'a, str>>) -> Self {
        self.exchange_type = exchange_type.into();
        self
    }
}

/// A request that deletes an exchange. Returned by [`Client::exchange_delete`].
#[derive(Clone, Debug)]
#[must_use = "a request does nothing unless it is awaited or sent"]
pub struct ExchangeDelete<'a> {
    client: &'a Client,
    exchange: Cow<'a, str>,
    if_unused: bool,
}

flags! { ExchangeDelete:
    /// Deletes the exchange only if it has no bindings; otherwise
    /// [`PreconditionFailed`](crate::Error::PreconditionFailed). Off by default.
    if_unused,
}

request!(ExchangeDelete, Request, (), |request, machine| {
    machine.request(methods::Delete {
        exchange: name("exchange", &request.exchange)?,
        if_unused: request.if_unused,
        nowait: false,
    })
});

/// A request that binds an exchange to an exchange. Returned by [`Client::exchange_bind`].
#[derive(Clone, Debug)]
#[must_use = "a request does nothing unless it is awaited or sent"]
pub struct ExchangeBind<'a> {
    client: &'a Client,
    destination: Cow<'a, str>,
    source: Cow<'a, str>,
    routing_key: Cow<'a, str>,
    pub(super) arguments: Entries,
}

arguments!(ExchangeBind);

request!(ExchangeBind, Request, (), |request, machine| {
    machine.request(methods::Bind {
        destination: name("destination", &request.destination)?,
        source: name("source", &request.source)?,
        routing_key: name("routing_key", &request.routing_key)?,
        nowait: false,
        arguments: request.arguments.table("arguments")?,
    })
});

/// A request that removes a binding between exchanges. Returned by [`Client::exchange_unbind`].
#[derive(Clone, Debug)]
#[must_use = "a request does nothing unless it is awaited or sent"]
pub struct ExchangeUnbind<'a> {
    client: &'a Client,
    destination: Cow<'a, str>,
    source: Cow<'a, str>,
    routing_key: Cow<'a, str>,
    pub(super) arguments: Entries,
}

arguments!(ExchangeUnbind);

request!(ExchangeUnbind, Request, (), |request, machine| {
    machine.request(methods::Unbind {
        destination: name("destination", &request.destination)?,
        source: name("source", &request.source)?,
        routing_key: name("routing_key", &request.routing_key)?,
        nowait: false,
        arguments: request.arguments.table("arguments")?,
    })
});

impl<'a> ExchangeBind<'a> {
    /// Sets the routing key; empty by default.
    pub fn routing_key(mut self, routing_key: impl Into<Cow<'a, str>>) -> Self {
        self.routing_key = routing_key.into();
        self
    }
}

impl<'a> ExchangeUnbind<'a> {
    /// Sets the routing key of the binding; empty by default.
    pub fn routing_key(mut self, routing_key: impl Into<Cow<'a, str>>) -> Self {
        self.routing_key = routing_key.into();
        self
    }
}

impl Client {
    /// Declares an exchange: creates it, or checks that an existing one has the same settings.
    ///
    /// # Errors
    /// [`PreconditionFailed`](crate::Error::PreconditionFailed) if an existing exchange has other
    /// settings, [`AccessRefused`](crate::Error::AccessRefused) without permission or for a name
    /// that begins with `amq.`, [`CommandInvalid`](crate::Error::CommandInvalid) for an unknown
    /// type (which closes the connection before RabbitMQ 3.13.3; later it is `PreconditionFailed`).
    ///
    /// # Spec
    /// `exchange.declare`, 1.6.2.1
    pub fn exchange_declare<'a>(
        &'a self,
        exchange: impl Into<Cow<'a, str>>,
    ) -> ExchangeDeclare<'a> {
        ExchangeDeclare {
            client: self,
            exchange: exchange.into(),
            exchange_type: Cow::Borrowed("direct"),
            passive: false,
            durable: false,
            auto_delete: false,
            internal: false,
            arguments: Entries::default(),
        }
    }

    /// Deletes an exchange. Deleting a missing exchange is not an error.
    ///
    /// # Spec
    /// `exchange.delete`, 1.6.2.3
    pub fn exchange_delete<'a>(&'a self, exchange: impl Into<Cow<'a, str>>) -> ExchangeDelete<'a> {
        ExchangeDelete {
            client: self,
            exchange: exchange.into(),
            if_unused: false,
        }
    }

    /// Binds the `destination` exchange to the `source` exchange, from which it then receives
    /// messages.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound) if one of them does not exist;
    /// [`MissingCapability`](crate::Error::MissingCapability) if the broker does not support such
    /// bindings.
    ///
    /// # Spec
    /// RabbitMQ's extension `exchange.bind`.
    pub fn exchange_bind<'a>(
        &'a self,
        destination: impl Into<Cow<'a, str>>,
        source: impl Into<Cow<'a, str>>,
    ) -> ExchangeBind<'a> {
        ExchangeBind {
            client: self,
            destination: destination.into(),
            source: source.into(),
            routing_key: Cow::Borrowed(""),
            arguments: Entries::default(),
        }
    }

    /// Removes a binding between two exchanges. Removing a missing binding is not an error.
    ///
    /// # Errors
    /// [`MissingCapability`](crate::Error::MissingCapability) if the broker does not support such
    /// bindings.
    ///
    /// # Spec
    /// RabbitMQ's extension `exchange.unbind`.
    pub fn exchange_unbind<'a>(
        &'a self,
        destination: impl Into<Cow<'a, str>>,
        source: impl Into<Cow<'a, str>>,
    ) -> ExchangeUnbind<'a> {
        ExchangeUnbind {
            client: self,
            destination: destination.into(),
            source: source.into(),
            routing_key: Cow::Borrowed(""),
            arguments: Entries::default(),
        }
    }
}
