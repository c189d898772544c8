//! Connection options: endpoints, login, TLS, limits and timeouts.
//!
//! This module uses no sockets and no TLS library. The code that dials reads the options through
//! getters.

use crate::error::Error;
use crate::protocol::{Table, Value};
use crate::uri::{Endpoint, Uri};
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::Duration;

mod check;
mod login;
mod recovery;
mod tls;

pub(crate) use login::{CredentialSource, Login, Mechanism};
pub use login::{Credentials, SaslMechanism};
pub(crate) use recovery::Filter;
pub use recovery::{Entity, RecoverTopology, Recovery};
pub use tls::{TlsOptions, TlsSource};

/// The settings of a connection. Each has a default that suits most programs.
///
/// Values that cannot be sent, such as a name of more than 255 bytes, and limits of 0 end the
/// connection with [`Error::InvalidArgument`] before anything is written. Timeouts are limited to a
/// hundred years.
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
    tls: Option<TlsOptions>,
    pub(crate) virtual_host: String,
    pub(crate) login: Login,
    pub(crate) connection_name: Option<String>,
    pub(crate) client_properties: Table,
    pub(crate) limits: Limits,
    pub(crate) deadlines: Deadlines,
    pub(crate) foreign_user_id: bool,
    pub(crate) recovery: Option<Recovery>,
}

#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) channel_max: u16,
    pub(crate) frame_max: u32,
    pub(crate) heartbeat: u16,
    pub(crate) request_channels: u16,
    pub(crate) publish_channels: u16,
    pub(crate) requests: usize,
    pub(crate) outgoing_bytes: usize,
    pub(crate) publishes_in_flight: usize,
    pub(crate) message_size: u64,
    pub(crate) buffered_deliveries: usize,
    pub(crate) buffered_bytes: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct Deadlines {
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
                heartbeat: uri.heartbeat().unwrap_or(60),
                request_channels: 64,
                publish_channels: 64,
                requests: 65_536,
                outgoing_bytes: 16 << 20,
                publishes_in_flight: 65_536,
                message_size: 64 << 20,
                buffered_deliveries: 100_000,
                buffered_bytes: 64 << 20,
            },
            deadlines: Deadlines {
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

/// A hundred years. `Instant + Duration` panics on overflow, and this limit cannot overflow.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The largest limit: 512 MiB on a 32-bit target. The sizes of queued bodies are added up, and
/// bodies may share their memory, so without this limit 64 publishes of one body of 64 MiB would
/// overflow the sum. A sum is at most the limits of queued, of unconfirmed and of requests' bytes,
/// and the first two may be exceeded by one body each.
const MOST_BYTES: usize = usize::MAX / 8;

macro_rules! setters {
    ($(
        $(#[$doc:meta])*
        $name:ident($value:ident: $ty:ty) => $($field:ident).+ $(, $most:expr)?;
    )*) => {
        impl Options {
            $(
                $(#[$doc])*
                #[must_use]
                pub fn $name(mut self, $value: $ty) -> Self {
                    self.$($field).+ = $value$(.min($most))?;
                    self
                }
            )*
        }
    };
}

setters! {
    /// Sets how many channels may be open at once; 2047 by default, as in RabbitMQ. The server may
    /// lower it. Each consumer, each transaction, each exchange that is published to and each
    /// unsettled message of a `basic_get` uses one. Two channels are reserved for requests and
    /// publishes, and an eighth of the others is reserved from messages of `basic_get`. A
    /// `basic_get` above that fails with [`Error::ChannelLimit`].
    channel_max(channels: u16) => limits.channel_max;
    /// Sets the largest frame in bytes, including its header and end; 131 072 by default, as in
    /// RabbitMQ. The server may lower it, and 0 leaves it to the server. Opening a connection fails
    /// if it is below 4096, which AMQP does not allow. RabbitMQ since 4.1 requires at least 8192:
    /// it closes the transport of a client that asks for less, after some seconds and without a
    /// reason. The error is [`Broken::SmallFrameMax`](crate::Broken::SmallFrameMax) then.
    frame_max(bytes: u32) => limits.frame_max;
    /// Sets the heartbeat interval in seconds; 60 by default, as in RabbitMQ. The smaller value of
    /// both sides is used, and 0 leaves it to the server.
    heartbeat(seconds: u16) => limits.heartbeat;
    /// Sets how many channels are used for requests such as `queue_declare` and `basic_get`, each
    /// for one request at a time; 64 by default, which hides the round-trip time and is a small
    /// load for the broker. 0 counts as 1. Further requests are queued. The channel of a request
    /// that timed out is closed and replaced. Until the broker has closed such channels, the pool
    /// may be up to four times as large.
    request_channels(channels: u16) => limits.request_channels;
    /// Sets how many channels publishes may use; 64 by default, and 0 counts as 1. Each exchange
    /// uses up to three of them, when needed: one with confirms, one without, and one for calls. At
    /// the limit, idle channels are closed to make room. If none is idle, exchanges take turns of
    /// at least 100 ms.
    publish_channels(channels: u16) => limits.publish_channels;
    /// Sets how many requests, new transactions and new consumers may be pending; 65 536 by
    /// default, and at least 1. At the limit, awaiting a request waits, and `try_send` returns
    /// `Full`.
    max_requests(requests: usize) => limits.requests;
    /// Sets how many bytes may be queued for writing; 16 MiB by default. The minimum is 1, the
    /// maximum on a 32-bit target 512 MiB. At the limit, awaiting a request waits, and `try_send`
    /// returns `Full`. Bytes that the transport has taken and not yet written, at most as many
    /// again, are not counted.
    max_outgoing_bytes(bytes: usize) => limits.outgoing_bytes, MOST_BYTES;
    /// Sets how many publishes may be unconfirmed; 65 536 by default, and at least 1. At the limit,
    /// awaiting a publish waits, and `try_send` returns `Full`.
    max_publishes_in_flight(publishes: usize) => limits.publishes_in_flight;
    /// Sets the largest body in bytes, sent or received; 64 MiB by default, and at most 512 MiB on
    /// a 32-bit target. A larger one is refused before it is sent. A larger one that is received is
    /// dropped, and its delivery reports that. RabbitMQ has a limit of its own, by default 16 MiB
    /// since 4.0. It closes the channel over a larger message, so other publishes in flight to the
    /// same exchange fail with [`Error::Unconfirmed`](crate::Error::Unconfirmed).
    max_message_size(bytes: u64) => limits.message_size, MOST_BYTES as u64;
    /// Sets how many deliveries may be buffered for all consumers together; 100 000 by default, and
    /// at least 1. At the limit, reading pauses until half of them are taken. This delays
    /// everything that the broker sends, so set a prefetch count for each consumer.
    ///
    /// Replies and confirms use the same stream, so they are delayed, too. If a pause has lasted
    /// half a second and a reply is pending, reading continues up to four times the limit.
    /// Consumers that have more than their share buffered get a prefetch count of 1 until their
    /// deliveries are taken. These consumers are not throttled: a consumer with its own prefetch
    /// count, because programs rely on it, and consumers that use `no_ack`, are exclusive or read a
    /// stream, because that would take a second consumer beside them or leave a gap between two. In
    /// a queue with a single active consumer, another consumer may become active.
    ///
    /// [`Notice::ReadingPaused`](crate::Notice::ReadingPaused) reports a pause of half a second. A
    /// request that is not answered in time during a pause fails with
    /// [`Error::ReadingPaused`](crate::Error::ReadingPaused).
    max_buffered_deliveries(deliveries: usize) => limits.buffered_deliveries;
    /// Sets how many bytes of deliveries may be buffered; 64 MiB by default, and at least 1. At the
    /// limit, reading pauses as at [`max_buffered_deliveries`](Self::max_buffered_deliveries), so
    /// up to four times as many (256 MiB) may be buffered while a reply is pending. Partly received
    /// messages of all channels may take as many bytes again as the limit. Above that, the largest
    /// of them is dropped, as if it exceeded [`max_message_size`](Self::max_message_size).
    max_buffered_bytes(bytes: usize) => limits.buffered_bytes;
    /// Sets the timeout for resolving a host name; 10 s by default, twice the time after which a
    /// resolver asks another server.
    resolve_timeout(time: Duration) => deadlines.resolve, LONGEST;
    /// Sets the timeout for dialling one address; 10 s by default, which allows for three lost
    /// packets.
    dial_timeout(time: Duration) => deadlines.dial, LONGEST;
    /// Sets the timeout for the TLS handshake; 10 s by default, as for the AMQP handshake.
    tls_timeout(time: Duration) => deadlines.tls, LONGEST;
    /// Sets the timeout for the AMQP handshake, from the protocol header to `open-ok`; 10 s by
    /// default, as in RabbitMQ.
    handshake_timeout(time: Duration) => deadlines.handshake, LONGEST;
    /// Sets how long a request may take, including its wait for a channel, and a publish until it
    /// is confirmed; 30 s by default, because a broker that flushes to a slow disk takes seconds.
    /// The same timeout limits each wait for outgoing capacity.
    request_timeout(time: Duration) => deadlines.request, LONGEST;
    /// Sets the timeout for `close`; 10 s by default. Up to half of it is used to wait for pending
    /// requests.
    close_timeout(time: Duration) => deadlines.close, LONGEST;
    /// Refuses to send the password in clear text: with PLAIN, AMQPLAIN and RABBIT-CR-DEMO, unless
    /// [`encrypted_transport`](Self::encrypted_transport) is set. False by default, because brokers
    /// in a private network seldom have TLS.
    refuse_unencrypted_login(refuse: bool) => login.refuse_unencrypted;
    /// Declares that the stream passed to [`open`](crate::open) cannot be read by others, because
    /// it is encrypted or does not leave the machine. The adapters set this for TLS and Unix
    /// sockets. False by default.
    encrypted_transport(encrypted: bool) => login.encrypted_transport;
    /// Allows a `user_id` other than the login's in publishes. RabbitMQ closes the channel over
    /// such a publish unless the user has the tag `impersonator`, so by default it is refused
    /// before it is sent.
    allow_foreign_user_id(allow: bool) => foreign_user_id;
}

impl Options {
    /// Returns the defaults, overridden by the settings of a URI.
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

    /// Replaces the endpoints. They are tried in this order.
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
            let wrong = match endpoint {
                Endpoint::Tcp { host, .. } if host.is_empty() => "a host name must not be empty",
                Endpoint::Tcp { port: 0, .. } => "a port must be 1 to 65535, got 0",
                Endpoint::Unix(path) if path.as_os_str().is_empty() => {
                    "a socket path must not be empty"
                }
                _ => continue,
            };
            return Err(Error::invalid("endpoints", wrong));
        }
        Ok(self)
    }

    /// Shuffles the endpoints once, so that programs with the same list do not all connect to the
    /// first one.
    #[must_use]
    pub fn shuffle_endpoints(mut self) -> Self {
        // The keys of a `RandomState` are the standard library's only source of randomness.
        let random = RandomState::new();
        let mut place = 0;
        self.endpoints.sort_by_cached_key(|_| {
            place += 1;
            random.hash_one(place)
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
        self.deadlines.resolve
    }

    /// Returns the timeout for dialling one address.
    #[must_use]
    pub fn get_dial_timeout(&self) -> Duration {
        self.deadlines.dial
    }

    /// Returns the timeout for the TLS handshake.
    #[must_use]
    pub fn get_tls_timeout(&self) -> Duration {
        self.deadlines.tls
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
