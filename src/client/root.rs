//! The client, a handle to a connection.

use super::handle::Handle;
use super::promise::Promise;
use crate::error::Error;
use crate::link::Link;
use crate::machine::{Connection, ConnectionState, Counters, PromiseId, ServerProperties};
use std::fmt;
use std::sync::Arc;

/// A handle to a connection. Clone it for each task or thread that sends requests.
///
/// A request is a builder. `.await` waits for outgoing capacity, sends the request, and waits for
/// the reply. `.send()` sends it at once and returns a [`Promise`], so that many can be pending;
/// `.try_send()` and `.submit()` differ in what they do without capacity.
///
/// The library manages the channels: an error is the result of the request that caused it. It
/// affects no other request, except publishes in flight to the same exchange, as described at
/// [`basic_publish`](Self::basic_publish). Pending requests use different channels, so they are not
/// ordered relative to each other: await a `queue_declare` before you publish to its queue.
///
/// The connection is closed gracefully when the last handle is dropped: clients, promises,
/// consumers and deliveries.
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

    fn promise<T>(&self, start: impl FnOnce(&mut Connection) -> PromiseId) -> Promise<T> {
        Promise::new(self.0.clone(), self.0.link().with(start))
    }

    /// Waits until the connection is open. The handshake begins with the driver's first poll, with
    /// or without this call, and earlier requests wait for it.
    ///
    /// # Errors
    /// [`Error::AccessRefused`] or [`Error::LoginRefused`] for wrong credentials,
    /// [`Error::NotAllowed`] for a virtual host that is unknown or forbidden,
    /// [`Error::NoMechanism`] and [`Error::UnencryptedLogin`] if no login mechanism is possible,
    /// [`Error::CannotLogIn`] if a source of credentials or a mechanism fails,
    /// [`Error::UnsupportedProtocol`] and [`Error::NotAmqp`] for another protocol,
    /// [`Error::TlsExpected`] at a port for TLS,
    /// [`Error::InvalidArgument`] for invalid options, [`Error::Timeout`],
    /// [`Error::ConnectionBroken`]. A connection that dials and has tried several endpoints or
    /// addresses fails with [`Error::CannotConnect`], which lists these errors.
    ///
    /// # Cancel safety
    /// Dropping the promise has no effect on the connection.
    pub fn connect(&self) -> Promise<ServerProperties> {
        self.promise(Connection::connect)
    }

    /// Closes the connection. Later requests are refused. Accepted publishes and requests are sent,
    /// and their replies awaited, within half of
    /// [`Options::close_timeout`](crate::Options::close_timeout). If there is a transport, its
    /// handshake and recovery are completed for that purpose; no other transport is dialled.
    /// Consumers end at once, also those that are starting. The broker requeues the deliveries that
    /// were not read.
    ///
    /// # Errors
    /// [`Error::CloseIncomplete`] if publishes or requests did not complete in that time, or if
    /// there was no transport to send them. [`Error::Timeout`] if the broker did not reply to the
    /// close. The earlier error if the connection was already closed, and not by this client.
    ///
    /// # Cancel safety
    /// Dropping the promise does not stop the close.
    pub fn close(&self) -> Promise<()> {
        self.promise(Connection::close)
    }

    /// Sends the broker a new secret for the login, such as a fresh OAuth 2 token before the old
    /// one expires. The reason appears in the broker's log.
    ///
    /// When a lost connection is recovered, the login uses the last secret that the broker
    /// accepted, or that was sent and had no reply. With
    /// [`credentials_from`](crate::Options::credentials_from), it asks that source instead. A
    /// secret that is not UTF-8 is only sent. The login's frame must not exceed
    /// [`initial_frame_max`](crate::Options::initial_frame_max), which may be less than the
    /// negotiated `frame_max`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] before the connection is open, or if the secret does not fit into
    /// a frame of the negotiated `frame_max`. [`Error::NotAllowed`], which ends the connection, if
    /// the broker refuses it.
    /// [`Error::Full`] if the broker has not replied to eight earlier ones.
    ///
    /// # Cancel safety
    /// Dropping the promise does not cancel the request.
    ///
    /// # Spec
    /// RabbitMQ's extension `connection.update-secret`.
    #[doc(alias = "refresh_token")]
    pub fn update_secret(&self, new_secret: impl AsRef<[u8]>, reason: &str) -> Promise<()> {
        let started = self.0.link().with(|machine| {
            machine.update_secret(new_secret.as_ref(), super::builder::name("reason", reason)?)
        });
        Promise::from_started(&self.0, started)
    }

    /// Returns the broker's reason for blocking publishes, which is low memory or disk space;
    /// `None` while it does not block them. Requests and acknowledgements are still sent, but the
    /// broker may not read them until it unblocks the connection.
    ///
    /// # Spec
    /// RabbitMQ's extension `connection.blocked`.
    #[must_use]
    pub fn blocked(&self) -> Option<String> {
        self.0
            .link()
            .with(|machine| machine.blocked().map(str::to_owned))
    }

    /// Returns the state of the connection: connecting, open, reconnecting or closed.
    /// [`notices`](Self::notices) report its changes.
    #[must_use]
    pub fn state(&self) -> ConnectionState {
        self.0.link().with(|machine| machine.state())
    }

    /// Returns counters of the connection since it was created: how often it was lost and
    /// recovered, and what was lost.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.0.link().with(|machine| machine.counters())
    }

    /// Returns the current name of a queue whose first name was generated by the broker. Recovery
    /// declares such a queue again, and the broker generates another name. Requests accept the
    /// first name, so this is only needed to pass the name to others.
    #[must_use]
    pub fn current_name(&self, queue: &str) -> String {
        let name = self
            .0
            .link()
            .with(|machine| machine.current_name(queue.as_bytes()).into_owned());
        String::from_utf8_lossy(&name).into_owned()
    }

    /// Returns the reason why the connection is closed; `None` while it is not.
    #[must_use]
    pub fn why_closed(&self) -> Option<Error> {
        self.0.link().with(|machine| machine.why_closed().cloned())
    }

    /// Returns the properties that the server reported; empty until the connection is open.
    #[must_use]
    pub fn server_properties(&self) -> ServerProperties {
        self.0
            .link()
            .with(|machine| machine.server_properties().clone())
    }
}
