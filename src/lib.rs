//! An opinionated AMQP 0-9-1 client, tuned to RabbitMQ, after Python's Puka: every request is a promise, there are no
//! channels in your way, an error reaches exactly the request that caused it, and a publish is something you can wait for.
//!
//! ```
//! # puka_test_suite::example(async |client| {
//! client.queue_declare("orders").durable(true).await?;
//! client.basic_publish("", "orders", "Hello world!").persistent(true).await?; // the broker has confirmed it
//!
//! let mut orders = client.basic_consume("orders").prefetch_count(100).await?;
//! if let Some(delivery) = orders.next().await {
//!     let delivery = delivery?;
//!     assert_eq!(delivery.body(), b"Hello world!");
//!     delivery.ack()?; // queued at once, nothing to wait for
//! }
//! client.close().await
//! # });
//! ```
//!
//! # Getting a client
//! `puka-smol`, `puka-async-std` and `puka-tokio` resolve, dial and drive, over TCP, TLS and Unix sockets:
//! `puka_smol::connect("amqp://localhost/").await?`. For another runtime, [`dial_and_open`] wants a [`Dial`] and a [`Clock`].
//! Over any other byte stream, and on any other executor, [`open`] gives a [`Client`] and a [`Driver`], a future to poll
//! wherever futures are polled. Without any executor, [`evented`] has a client to wait for, with callbacks, or for your own
//! event loop.
//!
//! # Logging in
//! A URI or [`Options`] say where brokers are and who logs in: with [`Options::credentials`], with
//! [`Options::credentials_from`], which is asked at each login, and with the SASL mechanisms of
//! [`Options::auth_mechanisms`] or one's own ([`SaslMechanism`]). No `Debug` and no error shows a password.
//!
//! # Requests
//! A request is a builder with the argument names of Puka and of the spec. It can be
//!
//! - awaited: it is sent, after waiting for room if need be, and resolves to its answer;
//! - sent at once with `.send()`, which gives a [`Promise`], so that many are under way; `.try_send()` says at once when it
//!   can't be;
//! - submitted with `.submit().await`, which waits for room but not for the answer.
//!
//! Dropping a future at any await is harmless: the answer is absorbed, and the next request gets its own.
//!
//! # Channels, which nobody sees
//! A request borrows a pooled channel. Publishes go over one confirm channel for each exchange, so the order of messages to
//! one exchange is kept, and a missing exchange fails only what was published to it. A consumer has a channel of its own. When
//! the broker closes a channel, what caused that has its answer, and a new channel takes its place.
//!
//! # What is bounded
//! Everything, by [`Options`]: octets that wait to be written, requests, publishes without a confirm, deliveries that wait to
//! be taken, sizes of frames and messages, channels. Every request has a deadline.

mod client;
mod driver;
mod error;
#[cfg(feature = "evented")]
pub mod evented;
mod link;
pub mod machine;
mod message;
mod options;
pub mod protocol;
pub mod recovery;
#[cfg(feature = "tls")]
pub mod tls;
mod uri;

pub use client::{
    BasicCancel, BasicConsume, BasicConsumeMulti, BasicGet, BasicPublish, BasicQos, BeginTransaction, Client,
    ConsumeQueue, Consumer, DeadLetterStrategy, DelayedRetry, Delivery, ExchangeBind, ExchangeDeclare,
    ExchangeDelete, ExchangeUnbind, HeadersMatch, LeaderLocator, Notices, Overflow, Promise, QueueBind,
    QueueDeclare, QueueDelete, QueuePurge, QueueType, QueueUnbind, Rpc, Sending, StreamOffset, Transaction,
};
pub use driver::{Clock, Dial, Driver, Transport, dial};
pub use error::{Broken, Error, Fault, Peer, TlsCause, TlsFault};
pub use machine::{Body, ConnectionState, Ended, Notice, Queue, Recovered, ServerProperties};
pub use message::{Message, Returned};
pub use options::{
    Credentials, Entity, Options, RecoverTopology, Recovery, SaslMechanism, TlsOptions, TlsSource,
};
pub use uri::{AuthMechanism, Endpoint, Uri, UriError, UriPart};

use futures_io::{AsyncRead, AsyncWrite};

/// Opens a connection over any byte stream: gives the client, and the driver to poll wherever futures are polled.
///
/// The handshake begins with the driver's first poll; [`Client::connect`] waits for it. The options' endpoints, what they say
/// of TLS, and the deadlines for resolving, dialling and TLS matter only to whoever dials. That the stream is encrypted is
/// for [`Options::encrypted_transport`] to say.
///
/// ```
/// use puka::Options;
///
/// let broker = puka_test_broker::Server::new(Default::default());
/// let (client, driver) = puka::open(broker.connect(), puka_smol::Clock, Options::default());
/// smol::spawn(driver).detach();
/// smol::block_on(async {
///     let server = client.connect().await?;
///     assert_eq!(server.product(), "puka-test-broker");
///     client.close().await
/// })?;
/// # Ok::<(), puka::Error>(())
/// ```
pub fn open<Io, C>(io: Io, clock: C, options: Options) -> (Client, Driver<Io, C>)
where
    Io: AsyncRead + AsyncWrite + Unpin,
    C: Clock,
{
    let link = link::Link::new(machine::Connection::new(clock.now(), options));
    (Client::new(link.clone()), Driver::new(io, clock, link))
}

/// [Dials](dial) and [opens](open): what the adapters' `connect` does before it spawns the driver. Over TLS and Unix sockets
/// the options are told that the [transport is encrypted](Options::encrypted_transport).
///
/// ```
/// use futures_lite::future;
/// use puka::Options;
///
/// # let url = puka_test_suite::Listening::start()?.url();
/// let options = Options::from_uri(&url)?; // such as "amqp://localhost/"
/// smol::block_on(async {
///     let (client, driver) = puka::dial_and_open(&puka_smol::Dialer, puka_smol::Clock, options).await?;
///     let work = async {
///         client.queue_declare("orders").await?;
///         client.close().await
///     };
///     // No executor: the driver is polled beside the work.
///     future::try_zip(work, driver).await
/// })?;
/// # Ok::<(), puka::Error>(())
/// ```
///
/// # Errors
/// As [`dial`].
///
/// # Cancel safety
/// Dropping the future closes what it has opened.
pub async fn dial_and_open<C: Clock>(
    dialer: &impl Dial,
    clock: C,
    mut options: Options,
) -> Result<(Client, Driver<Transport, C>), Error> {
    let stream = dial(dialer, &clock, &options).await?;
    if stream.is_private() {
        options = options.encrypted_transport(true);
    }
    Ok(open(stream, clock, options))
}

/// Has the README's examples compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
