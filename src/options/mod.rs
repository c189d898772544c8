//! Connection options: endpoints, login, TLS, limits and timeouts.
//!
//! This module uses no sockets and no TLS library. The code that dials reads the options through
//! getters.

use crate::error::Error;
use crate::protocol::frame::INITIAL_FRAME_MAX;
use crate::protocol::{Table, Value};
use crate::uri::{Endpoint, Uri};
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::Duration;

mod check;
mod login;
mod on_drop;
mod recovery;
mod resubscribe;
mod tcp;
mod tls;

pub(crate) use login::{CredentialSource, Login, Mechanism};
pub use login::{Credentials, SaslMechanism};
pub use on_drop::OnDrop;
pub(crate) use recovery::Filter;
pub use recovery::{Entity, RecoverTopology, Recovery};
pub use resubscribe::Resubscribe;
pub(crate) use tcp::Tcp;
pub use tls::{TlsOptions, TlsSource};

/// The settings of a connection. Each has a default that suits most programs.
///
/// Some values end the connection with [`Error::InvalidArgument`] before anything is written:
/// values that cannot be sent, such as a name of more than 255 bytes, and a limit of 0 for
/// [`max_requests`](Self::max_requests), [`max_outgoing_bytes`](Self::max_outgoing_bytes),
/// [`max_publishes_in_flight`](Self::max_publishes_in_flight),
/// [`max_buffered_deliveries`](Self::max_buffered_deliveries) or
/// [`max_buffered_bytes`](Self::max_buffered_bytes). Timeouts are at most a hundred years; longer
/// ones are shortened.
///
/// ```
/// use puka::Options;
/// use std::time::Duration;
/// let options = Options::from_uri("amqp://localhost/%2f?heartbeat=10")?
///     .connection_name("invoices")
///     .request_timeout(Duration::from_secs(5));
/// # Ok::<(), puka::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    endpoints: Vec<Endpoint>,
    tcp: Tcp,
    tls: Option<TlsOptions>,
    pub(crate) virtual_host: String,
    pub(crate) login: Login,
    pub(crate) connection_name: Option<String>,
    pub(crate) client_properties: Table,
    pub(crate) limits: Limits,
    pub(crate) timeouts: Timeouts,
    pub(crate) foreign_user_id: bool,
    pub(crate) recovery: Option<Recovery>,
}

/// The default size of the largest body.
pub(crate) const MAX_MESSAGE_SIZE: u64 = 64 << 20;

/// The limits of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) channel_max: u16,
    pub(crate) frame_max: u32,
    pub(crate) initial_frame_max: u32,
    pub(crate) heartbeat: u16,
    pub(crate) request_channels: u16,
    pub(crate) publish_channels: u16,
    pub(crate) requests: usize,
    pub(crate) outgoing_bytes: usize,
    pub(crate) publishes_in_flight: usize,
    /// The largest body; `None` for the default.
    pub(crate) message_size: Option<u64>,
    pub(crate) buffered_deliveries: usize,
    pub(crate) buffered_bytes: usize,
}

impl Limits {
    /// Returns the size of the largest body that is stored when it is received.
    #[inline]
    pub(crate) fn received_size(&self) -> u64 {
        self.message_size.unwrap_or(MAX_MESSAGE_SIZE)
    }
}

/// The timeouts of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Timeouts {
    pub(crate) resolve: Duration,
    pub(crate) dial: Duration,
    pub(crate) tls: Duration,
    pub(crate) handshake: Duration,
    pub(crate) request: Duration,
    pub(crate) close: Duration,
}

impl Default for Options {
    /// Returns the options for `amqp://guest:guest@localhost:5672/`, with the virtual host `/`.
    fn default() -> Self {
        Self::from(Uri::default())
    }
}

impl From<Uri> for Options {
    fn from(uri: Uri) -> Self {
        Self {
            endpoints: uri.endpoints().to_vec(),
            tcp: Tcp::default(),
            tls: uri
                .is_tls()
                .then(|| TlsOptions::from_parameters(uri.tls_parameters())),
            virtual_host: uri.virtual_host().to_owned(),
            login: Login::from_uri(&uri),
            connection_name: None,
            client_properties: Table::new(),
            limits: Limits {
                channel_max: uri.channel_max().unwrap_or(2047),
                frame_max: uri.frame_max().unwrap_or(131_072),
                initial_frame_max: INITIAL_FRAME_MAX,
                heartbeat: uri.heartbeat().unwrap_or(60),
                request_channels: 64,
                publish_channels: 64,
                requests: 65_536,
                outgoing_bytes: 16 << 20,
                publishes_in_flight: 65_536,
                message_size: None,
                buffered_deliveries: 100_000,
                buffered_bytes: 64 << 20,
            },
            timeouts: Timeouts {
                resolve: Duration::from_secs(10),
                dial: uri.connection_timeout().unwrap_or(Duration::from_secs(10)),
                tls: Duration::from_secs(10),
                handshake: Duration::from_secs(10),
                request: Duration::from_secs(30),
                close: Duration::from_secs(10),
            },
            foreign_user_id: false,
            recovery: Some(Recovery::default()),
        }
    }
}

/// The longest timeout: a hundred years. `Instant + Duration` panics on overflow, which this limit
/// avoids.
const MAX_TIMEOUT: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The largest limit in bytes: 512 MiB on a 32-bit target.
///
/// The sizes of queued bodies are added up. Bodies may share their memory, so a sum may exceed the
/// memory of the process: 64 publishes of one body of 64 MiB would overflow 32 bits. The largest
/// sum has five terms, each of at most this limit: the bytes that are queued, unconfirmed and of
/// requests, and one body by which each of the first two may exceed its limit.
const MAX_BYTES: usize = usize::MAX / 8;

macro_rules! setters {
    ($(
        $(#[$doc:meta])*
        $name:ident($value:ident: $ty:ty) => $($field:ident).+ $(, $max:expr)?;
    )*) => {
        impl Options {
    /// Sets the largest body in bytes, sent or received; at most 512 MiB on a 32-bit target. The
    /// default is 64 MiB, and 16 MiB for bodies sent to RabbitMQ since 4.0, which is its own
    /// default. A publish of a larger body fails before it is sent. A larger body that is received
    /// is dropped, and its delivery [reports](crate::Message::too_large_body) that.
    ///
    /// RabbitMQ closes the channel over a message that exceeds its limit, `max_message_size` in
    /// `rabbitmq.conf`. The message fails with the broker's error if no other publish in flight to
    /// the exchange has its size. The others fail with
    /// [`Error::Unconfirmed`](crate::Error::Unconfirmed). So set the same limit here as there.
    #[must_use]
    pub fn max_message_size(mut self, bytes: u64) -> Self {
        self.limits.message_size = Some(bytes.min(MAX_BYTES as u64));
        self
    }

            $(
                $(#[$doc])*
                #[must_use]
                pub fn $name(mut self, $value: $ty) -> Self {
                    self.$($field).+ = $value$(.min($max))?;
                    self
                }
            )*
        }
    };
}

setters! {
    /// Sets how many channels may be open at once; 2047 by default, as in RabbitMQ. The broker may
    /// lower it, and 0 leaves it to the broker. Each consumer, each transaction, each exchange that
    /// is published to and each unsettled message of a `basic_get` uses one channel.
    ///
    /// Two channels are reserved for requests and publishes. Unsettled messages of `basic_get` may
    /// use seven eighths of the others. A consumer, transaction or `basic_get` that would exceed
    /// these limits fails with [`Error::ChannelLimit`].
    ///
    /// RabbitMQ can also limit the channels of a user or a node. It does not announce that, and
    /// closes the connection over the channel that exceeds the limit. The work that needed the
    /// channel fails with [`Error::ChannelLimit`], and the connection recovers. From then on, the
    /// number of channels that were open is the limit. One of them is reserved for requests and
    /// publishes, unless consumers and transactions used them all. A consumer without a channel
    /// after a loss is restarted later, because the broker counts the channels of the lost
    /// connection until it notices the loss. The limit may rise, so a consumer or transaction may
    /// exceed it again after a delay: 1 s at first, and twice as long after each refusal, up to 10
    /// min. Each refusal costs the connection.
    channel_max(channels: u16) => limits.channel_max;
    /// Sets the largest frame in bytes, including its header and end; 131 072 by default, as in
    /// RabbitMQ. The broker may lower it, and 0 leaves it to the broker. Opening a connection fails
    /// if it is below 4096, which AMQP does not allow.
    ///
    /// RabbitMQ since 4.1 requires at least 8192. If a client asks for less, it closes the
    /// transport after some seconds and without a reason. The connection then fails with
    /// [`Broken::SmallFrameMax`](crate::Broken::SmallFrameMax).
    frame_max(bytes: u32) => limits.frame_max;
    /// Sets the largest frame in bytes during the login, before `frame_max` is negotiated; 8192 by
    /// default, as in RabbitMQ since 4.1, and at least 4096. A frame contains the password or token
    /// and the client properties. A longer one fails with [`Error::InvalidArgument`] before it is
    /// sent.
    ///
    /// For long tokens, set it to the value of `initial_frame_max` in `rabbitmq.conf`. A frame that
    /// exceeds the broker's value ends the login. The default is not larger, because the broker
    /// does not announce its value, and does not say that it was exceeded.
    initial_frame_max(bytes: u32) => limits.initial_frame_max;
    /// Sets the heartbeat interval in seconds; 60 by default, as in RabbitMQ. The smaller value of
    /// both sides is used, and 0 leaves it to the broker.
    heartbeat(seconds: u16) => limits.heartbeat;
    /// Sets how many channels are used for requests such as `queue_declare` and `basic_get`; 64 by
    /// default, and 0 counts as 1. Each is used for one request at a time, and further requests are
    /// queued. 64 channels hide the round-trip time, and are a small load for the broker.
    ///
    /// The channel of a request that timed out is closed and replaced. Until the broker has closed
    /// such channels, up to four times as many may be open.
    request_channels(channels: u16) => limits.request_channels;
    /// Sets how many channels publishes may use; 64 by default, and 0 counts as 1. An exchange uses
    /// up to three of them: one for publishes with confirms, one for publishes without, and one for
    /// calls. At the limit, an idle channel is closed for each new one. If none is idle, exchanges
    /// take turns of at least 100 ms.
    publish_channels(channels: u16) => limits.publish_channels;
    /// Sets how many requests, new transactions and new consumers may be pending; 65 536 by
    /// default, and at least 1. At the limit, awaiting a request waits, and `try_send` returns
    /// `Full`.
    max_requests(requests: usize) => limits.requests;
    /// Sets how many bytes may be queued for writing; 16 MiB by default, at least 1, and on a
    /// 32-bit target at most 512 MiB. At the limit, awaiting a request waits, and `try_send`
    /// returns `Full`. Bytes that were passed to the transport and not yet written are not counted;
    /// they are at most as many again.
    max_outgoing_bytes(bytes: usize) => limits.outgoing_bytes, MAX_BYTES;
    /// Sets how many publishes may be unconfirmed; 65 536 by default, and at least 1. At the limit,
    /// awaiting a publish waits, and `try_send` returns `Full`.
    max_publishes_in_flight(publishes: usize) => limits.publishes_in_flight;
    /// Sets how many deliveries may be buffered for all consumers together; 100 000 by default, and
    /// at least 1. At the limit, reading pauses until half of them are taken. This delays
    /// everything that the broker sends, so set a prefetch count for each consumer.
    ///
    /// Replies and confirms arrive on the same stream, so they are delayed, too. If a reply is
    /// pending and the pause has lasted half a second, reading continues until four times the limit
    /// is buffered. Meanwhile each consumer that has buffered more than its share gets a prefetch
    /// count of 1, until its deliveries are taken. In a queue with a single active consumer,
    /// another consumer may become active because of that. Some consumers keep their prefetch
    /// count:
    ///
    /// - a consumer of one queue with a prefetch count, because programs rely on it;
    /// - a consumer with `no_ack`, which has none;
    /// - an exclusive consumer, which cannot have a second consumer beside it;
    /// - a consumer of a stream, because a replacement would miss messages.
    ///
    /// [`Notice::ReadingPaused`](crate::Notice::ReadingPaused) reports a pause of half a second. A
    /// request whose deadline passes during a pause fails with
    /// [`Error::ReadingPaused`](crate::Error::ReadingPaused).
    max_buffered_deliveries(deliveries: usize) => limits.buffered_deliveries;
    /// Sets how many bytes of deliveries may be buffered; 64 MiB by default, and at least 1. At the
    /// limit, reading pauses as at [`max_buffered_deliveries`](Self::max_buffered_deliveries). So
    /// up to four times as many bytes (256 MiB) may be buffered while a reply is pending.
    ///
    /// Messages of which a part was received are limited separately: all together may have as many
    /// bytes as this limit. Above that, the largest of them is dropped, as if it exceeded
    /// [`max_message_size`](Self::max_message_size).
    max_buffered_bytes(bytes: usize) => limits.buffered_bytes;
    /// Sets the timeout for resolving a host name; 10 s by default. A resolver usually asks another
    /// name server after 5 s, so two servers are asked.
    resolve_timeout(time: Duration) => timeouts.resolve, MAX_TIMEOUT;
    /// Sets the timeout for dialling one address; 10 s by default, enough for three lost packets.
    /// The next address is tried after 250 ms without waiting for this timeout.
    dial_timeout(time: Duration) => timeouts.dial, MAX_TIMEOUT;
    /// Sets the timeout for the TLS handshake; 10 s by default, as for the AMQP handshake.
    tls_timeout(time: Duration) => timeouts.tls, MAX_TIMEOUT;
    /// Sets the timeout for the AMQP handshake, from the protocol header to `open-ok`; 10 s by
    /// default, as in RabbitMQ.
    handshake_timeout(time: Duration) => timeouts.handshake, MAX_TIMEOUT;
    /// Sets the timeout of a request, including its wait for a channel, and of a publish until it
    /// is confirmed; 30 s by default, because a broker that flushes to a slow disk takes seconds.
    /// Each wait for outgoing capacity has the same timeout, in addition.
    request_timeout(time: Duration) => timeouts.request, MAX_TIMEOUT;
    /// Sets the timeout for `close`; 10 s by default. Up to half of it is used to wait for pending
    /// requests.
    close_timeout(time: Duration) => timeouts.close, MAX_TIMEOUT;
    /// Refuses to send the password in clear text, as PLAIN, AMQPLAIN and RABBIT-CR-DEMO do, unless
    /// [`encrypted_transport`](Self::encrypted_transport) is set. Off by default, because brokers
    /// in a private network seldom have TLS.
    refuse_unencrypted_login(refuse: bool) => login.refuse_unencrypted;
    /// Declares that the stream passed to [`open`](crate::open) cannot be read by others, because
    /// it is encrypted or does not leave the machine. The adapters set this for TLS and Unix
    /// sockets. Off by default.
    encrypted_transport(encrypted: bool) => login.encrypted_transport;
    /// Allows publishes with a `user_id` that is not the user of the login. Off by default: such a
    /// publish fails before it is sent, because RabbitMQ closes the channel over it unless the user
    /// has the tag `impersonator`.
    allow_foreign_user_id(allow: bool) => foreign_user_id;
}

impl Options {
    /// Returns the defaults, overridden by the settings of a URI.
    ///
    /// `amqp://host/` means the virtual host `/`, unlike in RabbitMQ's specification of URIs, where
    /// it means the virtual host with an empty name; see [`Uri::parse`].
    ///
    /// # Errors
    /// [`Error::Uri`] if the URI is invalid.
    pub fn from_uri(uri: &str) -> Result<Self, Error> {
        Ok(Uri::parse(uri)?.into())
    }

    /// Replaces the endpoints by a single one.
    ///
    /// # Errors
    /// As [`endpoints`](Self::endpoints).
    pub fn endpoint(self, endpoint: Endpoint) -> Result<Self, Error> {
        self.endpoints([endpoint])
    }

    /// Replaces the endpoints. They are tried in this order: [`dial`](crate::dial) begins with the
    /// next one when one fails, or after 250 ms without an answer, and the first to answer wins.
    /// After a loss, the order begins with the endpoint that worked last.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if there are no endpoints, a host or path is empty, or a port is
    /// 0.
    pub fn endpoints(
        mut self,
        endpoints: impl IntoIterator<Item = Endpoint>,
    ) -> Result<Self, Error> {
        self.endpoints = endpoints.into_iter().collect();
        if self.endpoints.is_empty() {
            return Err(Error::invalid(
                "endpoints",
                "at least one endpoint is required",
            ));
        }
        for endpoint in &self.endpoints {
            let reason = match endpoint {
                Endpoint::Tcp { host, .. } if host.is_empty() => "a host name must not be empty",
                Endpoint::Tcp { port: 0, .. } => "a port must be 1 to 65535, got 0",
                Endpoint::Unix(path) if path.as_os_str().is_empty() => {
                    "a socket path must not be empty"
                }
                _ => continue,
            };
            return Err(Error::invalid("endpoints", reason));
        }
        Ok(self)
    }

    /// Shuffles the endpoints once, so that programs with the same list do not all connect to the
    /// first one.
    #[must_use]
    pub fn shuffle_endpoints(mut self) -> Self {
        // The keys of a `RandomState` are the standard library's only source of randomness.
        let random = RandomState::new();
        let mut index = 0;
        self.endpoints.sort_by_cached_key(|_| {
            index += 1;
            random.hash_one(index)
        });
        self
    }

    /// Returns the endpoints, at least one, in the order in which they are tried.
    #[must_use]
    pub fn get_endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Uses TLS for TCP endpoints, regardless of the URI. Their ports do not change: brokers expect
    /// TLS on port 5671.
    #[must_use]
    pub fn tls(mut self, tls: TlsOptions) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Returns `true` if TCP endpoints use TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Returns the TLS options, if TLS is used.
    #[must_use]
    pub fn get_tls(&self) -> Option<&TlsOptions> {
        self.tls.as_ref()
    }

    /// Returns the timeout for resolving a host name.
    #[must_use]
    pub fn get_resolve_timeout(&self) -> Duration {
        self.timeouts.resolve
    }

    /// Returns the timeout for dialling one address.
    #[must_use]
    pub fn get_dial_timeout(&self) -> Duration {
        self.timeouts.dial
    }

    /// Returns the timeout for the TLS handshake.
    #[must_use]
    pub fn get_tls_timeout(&self) -> Duration {
        self.timeouts.tls
    }

    /// Sets the virtual host. It may be empty, which a URI cannot express.
    #[must_use]
    pub fn virtual_host(mut self, name: &str) -> Self {
        name.clone_into(&mut self.virtual_host);
        self
    }

    /// Sets a name for this connection, which the broker's tools show.
    #[must_use]
    pub fn connection_name(mut self, name: &str) -> Self {
        self.connection_name = Some(name.to_owned());
        self
    }

    /// Sets a property of the client, which the broker's tools show.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the name has more than 255 bytes or the value is nested too
    /// deeply.
    pub fn client_property<'v>(
        mut self,
        name: &str,
        value: impl Into<Value<'v>>,
    ) -> Result<Self, Error> {
        self.client_properties
            .insert(name, value)
            .map_err(|error| Error::invalid("client_property", error))?;
        Ok(self)
    }
}

#[cfg(test)]
mod tests;
