//! The client: a handle to a connection that many may hold.

use super::handle::Handle;
use super::promise::Promise;
use crate::error::Error;
use crate::link::Link;
use crate::machine::{Connection, ConnectionState, Counters, PromiseId, ServerProperties};
use std::fmt;
use std::sync::Arc;

/// A handle to a connection. Clone it for each task or thread that has something to ask.
///
/// A request is a builder. `.await` sends it, waiting for room first when the outgoing side is full, and waits for the
/// answer. `.send()` sends it at once and gives a [`Promise`], so that many can be under way; `.try_send()` and
/// `.submit()` differ in what they do when the outgoing side is full. There are no channels to think of: an error is the
/// answer to the request that caused it, and nothing else notices. Requests that are under way at the same time are not
/// ordered among each other, as they use different channels: await a `queue_declare` before you publish to its queue.
///
/// When the last handle has gone (clients, promises, consumers and deliveries), the connection is closed gracefully.
///
/// ```
/// # puka_test_suite::example(async |client| {
/// client.queue_declare("orders").durable(true).await?;
/// client.basic_publish("", "orders", "one").await?;
/// let order = client.basic_get("orders").await?.expect("one was published");
/// assert_eq!(order.body(), b"one");
/// order.ack()
/// # });
/// ```
#[derive(Clone)]
pub struct Client(Handle);

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    pub(crate) fn new(link: Arc<Link>) -> Self {
        Self(Handle::new(link))
    }

    pub(crate) fn with_handle(handle: Handle) -> Self {
        Self(handle)
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.0
    }

    fn promise<T>(&self, ask: impl FnOnce(&mut Connection) -> PromiseId) -> Promise<T> {
        Promise::new(self.0.clone(), self.0.link().with(ask))
    }

    /// Waits until the connection is open. The handshake begins with the driver's first poll, asked for or not, and
    /// requests made before it is done wait for it.
    ///
    /// # Errors
    /// [`Error::AccessRefused`] or [`Error::LoginRefused`] for wrong credentials, [`Error::NotAllowed`] for a virtual host that
    /// is unknown or forbidden, [`Error::NoMechanism`] and [`Error::UnencryptedLogin`] when there is no mechanism to log in
    /// with, [`Error::CannotLogIn`] when a source of credentials or a mechanism fails, [`Error::UnsupportedProtocol`] and
    /// [`Error::NotAmqp`] for another protocol, [`Error::InvalidArgument`] for options that can't work, [`Error::Timeout`],
    /// [`Error::ConnectionBroken`].
    ///
    /// # Cancel safety
    /// Dropping the promise changes nothing.
    pub fn connect(&self) -> Promise<ServerProperties> {
        self.promise(Connection::connect)
    }

    /// Closes the connection. No further request is accepted; what was accepted is sent, and its answers are waited for,
    /// within half of [`Options::close_timeout`](crate::Options::close_timeout). Consumers end at once, those that are being
    /// started included; what they have not handed out, the broker takes back.
    ///
    /// # Errors
    /// [`Error::Timeout`] when the broker did not answer, why the connection is closed when it was so already and not by
    /// us.
    ///
    /// # Cancel safety
    /// Dropping the promise does not stop it from closing.
    pub fn close(&self) -> Promise<()> {
        self.promise(Connection::close)
    }

    /// Gives the broker another secret for the login, such as a fresh OAuth 2 token before the old one expires. The reason
    /// is for the broker's log.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] before the connection is open, or when the secret is too long for a frame;
    /// [`Error::NotAllowed`], which ends the connection, when the broker refuses it.
    ///
    /// # Cancel safety
    /// Dropping the promise does not take it back.
    ///
    /// # Spec
    /// RabbitMQ's extension `connection.update-secret`.
    pub fn update_secret(&self, new_secret: impl AsRef<[u8]>, reason: &str) -> Promise<()> {
        let asked = self.0.link().with(|machine| {
            machine.update_secret(new_secret.as_ref(), super::settings::name("reason", reason)?)
        });
        asked.map_or_else(Promise::failed, |id| Promise::new(self.0.clone(), id))
    }

    /// Why the broker holds back publishes, while it does: it is low on memory or disk. Requests and acknowledgements are
    /// still sent, but the broker may not read them before it has recovered.
    ///
    /// # Spec
    /// RabbitMQ's extension `connection.blocked`.
    #[must_use]
    pub fn blocked(&self) -> Option<String> {
        self.0.link().with(|machine| machine.blocked().map(str::to_owned))
    }

    /// How the connection is: on its way, open, lost and on its way back, or closed. [`notices`](Self::notices) tell when it
    /// changes.
    #[must_use]
    pub fn state(&self) -> ConnectionState {
        self.0.link().with(|machine| machine.state())
    }

    /// What has happened to the connection since it was made, in numbers: how often it was lost and came back, and what that
    /// cost.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.0.link().with(|machine| machine.counters())
    }

    /// The name that a queue has now, by the one that the broker gave it when it was declared: recovering a queue that the
    /// broker names gives it another name. Requests that use the first name find it, so this is for those who tell others.
    #[must_use]
    pub fn current_name(&self, queue: &str) -> String {
        let name = self.0.link().with(|machine| machine.current_name(queue.as_bytes()).into_owned());
        String::from_utf8_lossy(&name).into_owned()
    }

    /// Why the connection is closed; `None` while it is not.
    #[must_use]
    pub fn why_closed(&self) -> Option<Error> {
        self.0.link().with(|machine| machine.why_closed().cloned())
    }

    /// What the server says of itself; empty until the connection is open.
    #[must_use]
    pub fn server_properties(&self) -> ServerProperties {
        self.0.link().with(|machine| machine.server_properties().clone())
    }
}
