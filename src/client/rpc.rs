//! Calls: publishes that resolve to a reply.

use super::Client;
use super::publish::BasicPublish;
use crate::machine::Body;
use crate::message::Message;
use std::borrow::Cow;
use std::time::Duration;

/// A request that publishes a message and waits for the reply. Returned by [`Client::rpc`] and
/// [`BasicPublish::rpc`].
#[derive(Clone, Debug)]
#[must_use = "a request does nothing unless it is awaited or sent"]
pub struct Rpc<'a> {
    client: &'a Client,
    publish: BasicPublish<'a>,
    timeout: Option<Duration>,
}

impl Rpc<'_> {
    /// Sets how long the reply may take;
    /// [`Options::request_timeout`](crate::Options::request_timeout) by default, and at most a
    /// hundred years.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

request!(Rpc, Publish, Message, |request, machine| {
    request
        .publish
        .build_and_start(|publish| machine.call(publish, request.timeout))
});

impl<'a> BasicPublish<'a> {
    /// Publishes the message as a call, and resolves to the reply: [`Client::rpc`] with properties.
    pub fn rpc(self) -> Rpc<'a> {
        Rpc {
            client: self.client,
            publish: self,
            timeout: None,
        }
    }
}

impl Client {
    /// Publishes a message, and resolves to the reply.
    ///
    /// The program that handles the call publishes the reply to the default exchange. Its routing
    /// key is the property `reply_to` of the call. Its `correlation_id` is that of the call, which
    /// cannot be guessed. Many calls may be pending.
    ///
    /// Neither the call nor the reply is stored on disk, and a reply is dropped if its caller has
    /// gone. A reply should not be
    /// [`mandatory`](BasicPublish::mandatory): before 4.2, RabbitMQ returns it although it delivers
    /// it. To test whether a caller is still there, declare its `reply_to` passively.
    ///
    /// ```
    /// # puka_test_suite::example(async |client| {
    /// client.queue_declare("square").exclusive(true).await?;
    /// let mut calls = client.basic_consume("square").await?;
    /// let reply = client.rpc("", "square", "12").send();
    ///
    /// let call = calls.next().await.expect("a call was made")?;
    /// let number: u32 = String::from_utf8_lossy(call.body()).parse().unwrap_or(0);
    /// let reply_to = call.properties().reply_to.expect("a call has reply_to").to_string();
    /// let id = call.properties().correlation_id.expect("and correlation_id").to_string();
    /// let square = client.basic_publish("", reply_to, (number * number).to_string());
    /// square.correlation_id(&id).await?;
    /// call.ack()?;
    ///
    /// assert_eq!(reply.await?.body(), b"144");
    /// # client.close().await
    /// # });
    /// ```
    ///
    /// # Errors
    /// [`NoRoute`](crate::Error::NoRoute) if no queue is bound for it;
    /// [`Timeout`](crate::Error::Timeout) if no reply arrived in time;
    /// [`Unconfirmed`](crate::Error::Unconfirmed) if the channel or the connection was lost first
    /// and the outcome is unknown; otherwise the errors of [`basic_publish`](Self::basic_publish).
    ///
    /// # Cancel safety
    /// Nothing was sent if the future is dropped while it waits for capacity. If it is dropped
    /// later, the message is still published as a whole, and its reply is discarded.
    ///
    /// # Spec
    /// RabbitMQ's direct reply-to.
    pub fn rpc<'a>(
        &'a self,
        exchange: impl Into<Cow<'a, str>>,
        routing_key: impl Into<Cow<'a, str>>,
        body: impl Into<Body<'a>>,
    ) -> Rpc<'a> {
        self.basic_publish(exchange, routing_key, body).rpc()
    }
}
