//! Calls: a message, and the reply to it.

use super::Client;
use super::publish::BasicPublish;
use crate::machine::Body;
use crate::message::Message;
use std::borrow::Cow;
use std::time::Duration;

/// Publishes a message and waits for the reply. Made by [`Client::rpc`] and [`BasicPublish::rpc`].
#[derive(Clone, Debug)]
#[must_use = "a request does nothing unless it is awaited or sent"]
pub struct Rpc<'a> {
    client: &'a Client,
    publish: BasicPublish<'a>,
    timeout: Option<Duration>,
}

impl Rpc<'_> {
    /// Sets how long the reply may take. The default is
    /// [`Options::request_timeout`](crate::Options::request_timeout), the maximum a hundred years.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

request!(Rpc, Publish, Message, |it, machine| it.publish.ask(|publish| machine.call(publish, it.timeout)));

impl<'a> BasicPublish<'a> {
    /// Publishes it as a call, and waits for the reply: [`Client::rpc`] with properties.
    pub fn rpc(self) -> Rpc<'a> {
        Rpc { client: self.client, publish: self, timeout: None }
    }
}

impl Client {
    /// Publishes a message, and resolves to the reply.
    ///
    /// The reply is published to the default exchange. Its routing key is the property `reply_to`
    /// of the call, and its `correlation_id` is that of the call, which cannot be guessed. Many
    /// calls may be pending. Neither the call nor the reply is stored on disk, and a reply is
    /// dropped if its caller has gone.
    ///
    /// ```
    /// # puka_test_suite::example(async |client| {
    /// client.queue_declare("square").exclusive(true).await?;
    /// let mut calls = client.basic_consume("square").await?;
    /// let reply = client.rpc("", "square", "12").send();
    ///
    /// let call = calls.next().await.expect("one was made")?;
    /// let number: u32 = String::from_utf8_lossy(call.body()).parse().unwrap_or(0);
    /// let reply_to = call.properties().reply_to.expect("a call says where to").to_string();
    /// let correlation_id = call.properties().correlation_id.expect("and to which").to_string();
    /// let answer = client.basic_publish("", reply_to, (number * number).to_string());
    /// answer.correlation_id(&correlation_id).await?;
    /// call.ack()?;
    ///
    /// assert_eq!(reply.await?.body(), b"144");
    /// # client.close().await
    /// # });
    /// ```
    ///
    /// # Errors
    /// [`NoRoute`](crate::Error::NoRoute) when no queue is bound for it; [`Timeout`](crate::Error::Timeout) when no reply came
    /// in time; [`Unconfirmed`](crate::Error::Unconfirmed) when the channel or the connection went first, and nobody can know
    /// whether it was answered; else what [`basic_publish`](Self::basic_publish) says.
    ///
    /// # Cancel safety
    /// Dropped while it waits for room, nothing was sent. Dropped later, the message is published whole, and its reply is
    /// absorbed.
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
