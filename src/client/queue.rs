//! Requests of class `queue`.

use super::Client;
use super::builder::{Entries, arguments, flags, name};
use crate::machine::Queue;
use crate::protocol::method::queue as methods;
use std::borrow::Cow;

/// A request that declares a queue. Returned by [`Client::queue_declare`].
#[derive(Clone, Debug)]
#[must_use = "a request does nothing unless it is awaited or sent"]
pub struct QueueDeclare<'a> {
    client: &'a Client,
    queue: Cow<'a, str>,
    passive: bool,
    durable: bool,
    exclusive: bool,
    auto_delete: bool,
    pub(super) arguments: Entries,
}

flags! { QueueDeclare:
    /// Only checks that the queue exists; [`NotFound`](crate::Error::NotFound) if it does not. Off
    /// by default.
    passive,
    /// Lets the queue survive a restart of the broker. Off by default, as in Puka for Python.
    durable,
    /// Restricts the queue to this connection and deletes it when the connection ends. Off by
    /// default.
    exclusive,
    /// Deletes the queue when its last consumer ends. Off by default.
    auto_delete,
}

arguments!(QueueDeclare);

request!(QueueDeclare, Request, Queue, |request, machine| {
    machine.request(methods::Declare {
        queue: name("queue", &request.queue)?,
        passive: request.passive,
        durable: request.durable,
        exclusive: request.exclusive,
        auto_delete: request.auto_delete,
        nowait: false,
        arguments: request.arguments.table("arguments")?,
    })
});

/// A request that deletes a queue. Returned by [`Client::queue_delete`].
#[derive(Clone, Debug)]
#[must_use = "a request does nothing unless it is awaited or sent"]
pub struct QueueDelete<'a> {
    client: &'a Client,
    queue: Cow<'a, str>,
    if_unused: bool,
    if_empty: bool,
}

flags! { QueueDelete:
    /// Deletes the queue only if it has no consumers; otherwise
    /// [`PreconditionFailed`](crate::Error::PreconditionFailed). Off by default.
    if_unused,
    /// Deletes the queue only if it has no messages; otherwise
    /// [`PreconditionFailed`](crate::Error::PreconditionFailed). Off by default.
    if_empty,
}

request!(QueueDelete, Request, u32, |request, machine| {
    machine.request(methods::Delete {
        queue: name("queue", &request.queue)?,
        if_unused: request.if_unused,
        if_empty: request.if_empty,
        nowait: false,
    })
});

/// A request that discards the messages of a queue. Returned by [`Client::queue_purge`].
#[derive(Clone, Debug)]
#[must_use = "a request does nothing unless it is awaited or sent"]
pub struct QueuePurge<'a> {
    client: &'a Client,
    queue: Cow<'a, str>,
}

request!(QueuePurge, Request, u32, |request, machine| {
    machine.request(methods::Purge {
        queue: name("queue", &request.queue)?,
        nowait: false,
    })
});

/// A request that binds a queue to an exchange. Returned by [`Client::queue_bind`].
#[derive(Clone, Debug)]
#[must_use = "a request does nothing unless it is awaited or sent"]
pub struct QueueBind<'a> {
    client: &'a Client,
    queue: Cow<'a, str>,
    exchange: Cow<'a, str>,
    routing_key: Cow<'a, str>,
    pub(super) arguments: Entries,
}

arguments!(QueueBind);

request!(QueueBind, Request, (), |request, machine| {
    machine.request(methods::Bind {
        queue: name("queue", &request.queue)?,
        exchange: name("exchange", &request.exchange)?,
        routing_key: name("routing_key", &request.routing_key)?,
        nowait: false,
        arguments: request.arguments.table("arguments")?,
    })
});

/// A request that removes a binding of a queue. Returned by [`Client::queue_unbind`].
#[derive(Clone, Debug)]
#[must_use = "a request does nothing unless it is awaited or sent"]
pub struct QueueUnbind<'a> {
    client: &'a Client,
    queue: Cow<'a, str>,
    exchange: Cow<'a, str>,
    routing_key: Cow<'a, str>,
    pub(super) arguments: Entries,
}

arguments!(QueueUnbind);

request!(QueueUnbind, Request, (), |request, machine| {
    machine.request(methods::Unbind {
        queue: name("queue", &request.queue)?,
        exchange: name("exchange", &request.exchange)?,
        routing_key: name("routing_key", &request.routing_key)?,
        arguments: request.arguments.table("arguments")?,
    })
});

impl<'a> QueueBind<'a> {
    /// Sets the routing key; empty by default.
    pub fn routing_key(mut self, routing_key: impl Into<Cow<'a, str>>) -> Self {
        self.routing_key = routing_key.into();
        self
    }
}

impl<'a> QueueUnbind<'a> {
    /// Sets the routing key of the binding; empty by default.
    pub fn routing_key(mut self, routing_key: impl Into<Cow<'a, str>>) -> Self {
        self.routing_key = routing_key.into();
        self
    }
}

impl Client {
    /// Declares a queue: creates it, or checks that an existing one has the same settings. If the
    /// name is empty, the broker generates a name, which the reply contains.
    ///
    /// # Errors
    /// [`PreconditionFailed`](crate::Error::PreconditionFailed) if an existing queue has other
    /// settings, [`ResourceLocked`](crate::Error::ResourceLocked) if it is exclusive to another
    /// connection, [`AccessRefused`](crate::Error::AccessRefused) without permission or for a name
    /// that begins with `amq.`.
    ///
    /// # Spec
    /// `queue.declare`, 1.7.2.1
    pub fn queue_declare<'a>(&'a self, queue: impl Into<Cow<'a, str>>) -> QueueDeclare<'a> {
        QueueDeclare {
            client: self,
            queue: queue.into(),
            passive: false,
            durable: false,
            exclusive: false,
            auto_delete: false,
            arguments: Entries::default(),
        }
    }

    /// Deletes a queue, and resolves to the number of deleted messages. Deleting a missing queue is
    /// not an error.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::Error::InvalidArgument) if the name is empty.
    ///
    /// # Spec
    /// `queue.delete`, 1.7.2.9
    pub fn queue_delete<'a>(&'a self, queue: impl Into<Cow<'a, str>>) -> QueueDelete<'a> {
        QueueDelete {
            client: self,
            queue: queue.into(),
            if_unused: false,
            if_empty: false,
        }
    }

    /// Discards the ready messages of a queue, and resolves to their number. Unsettled deliveries
    /// are not affected.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound) if the queue does not exist;
    /// [`InvalidArgument`](crate::Error::InvalidArgument) if the name is empty.
    ///
    /// # Spec
    /// `queue.purge`, 1.7.2.7
    pub fn queue_purge<'a>(&'a self, queue: impl Into<Cow<'a, str>>) -> QueuePurge<'a> {
        QueuePurge {
            client: self,
            queue: queue.into(),
        }
    }

    /// Binds a queue to an exchange. Repeating a binding is not an error.
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound) if the queue or the exchange does not exist;
    /// [`InvalidArgument`](crate::Error::InvalidArgument) if the queue's name is empty.
    ///
    /// # Spec
    /// `queue.bind`, 1.7.2.3
    pub fn queue_bind<'a>(
        &'a self,
        queue: impl Into<Cow<'a, str>>,
        exchange: impl Into<Cow<'a, str>>,
    ) -> QueueBind<'a> {
        QueueBind {
            client: self,
            queue: queue.into(),
            exchange: exchange.into(),
            routing_key: Cow::Borrowed(""),
            arguments: Entries::default(),
        }
    }

    /// Removes a binding of a queue. Removing a missing binding is not an error.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::Error::InvalidArgument) if the queue's name is empty.
    ///
    /// # Spec
    /// `queue.unbind`, 1.7.2.5
    pub fn queue_unbind<'a>(
        &'a self,
        queue: impl Into<Cow<'a, str>>,
        exchange: impl Into<Cow<'a, str>>,
    ) -> QueueUnbind<'a> {
        QueueUnbind {
            client: self,
            queue: queue.into(),
            exchange: exchange.into(),
            routing_key: Cow::Borrowed(""),
            arguments: Entries::default(),
        }
    }
}
