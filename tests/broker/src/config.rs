//! The configuration of a broker: users, limits, and settings for simulations.

use puka::protocol::{Table, Value};
use std::fmt;
use std::ops::Range;
use std::time::Duration;

/// The configuration of a [`Broker`](crate::Broker). The defaults are RabbitMQ's where it has the
/// setting.
///
/// ```
/// use puka_test_broker::Config;
/// use std::time::Duration;
/// let config = Config { heartbeat: Duration::from_secs(5), ..Config::default() };
/// assert_eq!(config.channel_max, 2047);
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    /// The users that may log in; `guest` with password `guest` by default.
    pub users: Vec<User>,
    /// The virtual hosts; `/` by default.
    pub vhosts: Vec<String>,
    /// The SASL mechanisms to offer, of `PLAIN`, `AMQPLAIN`, `RABBIT-CR-DEMO`, `ANONYMOUS` and
    /// `EXTERNAL`; the first two by default.
    pub mechanisms: Vec<String>,
    /// The user that `ANONYMOUS` logs in, like RabbitMQ's `anonymous_login_user`; `guest` by
    /// default.
    pub anonymous_user: String,
    /// The user that `EXTERNAL` logs in, in context of the name in a certificate; none by default.
    pub external_user: Option<String>,
    /// The `channel_max` to propose in `tune`; 0 for no limit.
    pub channel_max: u16,
    /// The `frame_max` to propose in `tune`, in bytes; 0 for no limit but
    /// [`frame_limit`](Self::frame_limit).
    pub frame_max: u32,
    /// The largest accepted frame if no `frame_max` was negotiated, in bytes; 1 MiB by default.
    pub frame_limit: u32,
    /// The heartbeat to propose in `tune`, in whole seconds; zero for none.
    pub heartbeat: Duration,
    /// The largest body in bytes; 16 MiB by default, as in RabbitMQ since 4.0. A larger one is a
    /// channel error 406.
    pub max_message_size: u64,
    /// The size of all stored messages, in bytes, above which publishers are blocked as "low on
    /// memory"; 256 MiB by default.
    pub memory_limit: usize,
    /// The unsent output of a connection, in bytes, above which its consumers receive no more; 1
    /// MiB by default.
    pub output_limit: usize,
    /// The number of messages that [`Broker::published`](crate::Broker::published) returns, the
    /// newest ones; 10 000 by default.
    pub published_log: usize,
    /// The size of the bodies and properties that [`Broker::published`](crate::Broker::published)
    /// returns, in bytes; 16 MiB by default.
    pub published_log_bytes: usize,
    /// The server properties in `start`.
    pub server_properties: Table,
    /// The timeout of the whole handshake; 10 s by default.
    pub handshake_timeout: Duration,
    /// The delay before the connection of a client that failed to log in is closed without a frame;
    /// 3 s by default.
    pub refusal_delay: Duration,
    /// The delay of a confirm, at random within the range; empty at zero by default, which is at
    /// once.
    pub confirm_delay: Range<Duration>,
    /// Whether confirms that are due together are sent as one frame with `multiple`, as RabbitMQ
    /// does; `true` by default.
    pub coalesce_confirms: bool,
    /// The seed of all random values: generated names and delays.
    pub seed: u64,
    /// The seconds since 1970-01-01 UTC at the first instant passed to the broker: the base of the
    /// times in `x-death`.
    pub unix_time: u64,
    /// How often a message may be requeued before it is dropped or dead-lettered, as by a quorum
    /// queue; `None` for no limit.
    pub delivery_limit: Option<u32>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            users: vec![User::new("guest", "guest")],
            vhosts: vec![String::from("/")],
            mechanisms: vec![String::from("AMQPLAIN"), String::from("PLAIN")],
            anonymous_user: String::from("guest"),
            external_user: None,
            channel_max: 2047,
            frame_max: 131_072,
            frame_limit: 1 << 20,
            heartbeat: Duration::from_secs(60),
            max_message_size: 16 << 20,
            memory_limit: 256 << 20,
            output_limit: 1 << 20,
            published_log: 10_000,
            published_log_bytes: 16 << 20,
            server_properties: server_properties(),
            handshake_timeout: Duration::from_secs(10),
            refusal_delay: Duration::from_secs(3),
            confirm_delay: Duration::ZERO..Duration::ZERO,
            coalesce_confirms: true,
            delivery_limit: None,
            seed: 0,
            unix_time: 1_700_000_000,
        }
    }
}

/// Adds an entry with a short name.
pub(crate) fn put<'v>(table: &mut Table, name: &str, value: impl Into<Value<'v>>) {
    table.insert(name, value).unwrap_or_default();
}

/// Returns the default server properties.
fn server_properties() -> Table {
    let mut capabilities = Table::new();
    for name in [
        "publisher_confirms",
        "exchange_exchange_bindings",
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        "consumer_priorities",
        "authentication_failure_close",
        "per_consumer_qos",
        "direct_reply_to",
    ] {
        put(&mut capabilities, name, true);
    }
    let mut properties = Table::new();
    put(&mut properties, "capabilities", &capabilities);
    put(&mut properties, "cluster_name", "puka-test-broker@memory");
    put(
        &mut properties,
        "information",
        "An AMQP 0-9-1 broker in memory, for tests",
    );
    put(&mut properties, "platform", "Rust");
    put(&mut properties, "product", "puka-test-broker");
    put(&mut properties, "version", env!("CARGO_PKG_VERSION"));
    properties
}

/// A user and its permissions.
#[derive(Clone)]
pub struct User {
    /// The name.
    pub name: String,
    /// The password. It is never printed.
    pub password: String,
    /// Whether messages may have the `user_id` of another user: RabbitMQ's tag `impersonator`.
    pub impersonator: bool,
    /// The virtual hosts that the user may open; `None` for all.
    pub vhosts: Option<Vec<String>>,
    /// The exchanges and queues that the user may declare and delete.
    pub configure: Pattern,
    /// The exchanges that the user may publish to, and the queues that it may bind.
    pub write: Pattern,
    /// The queues that the user may consume, and the exchanges that it may bind to.
    pub read: Pattern,
}

impl User {
    /// Creates a user with all permissions.
    #[must_use]
    pub fn new(name: impl Into<String>, password: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            password: password.into(),
            impersonator: false,
            vhosts: None,
            configure: Pattern::All,
            write: Pattern::All,
            read: Pattern::All,
        }
    }
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User")
            .field("name", &self.name)
            .field("impersonator", &self.impersonator)
            .field("vhosts", &self.vhosts)
            .field("configure", &self.configure)
            .field("write", &self.write)
            .field("read", &self.read)
            .finish_non_exhaustive()
    }
}

/// The names that a permission covers, in context of RabbitMQ's regular expressions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Every name.
    All,
    /// No name.
    None,
    /// Names with this prefix.
    Prefix(String),
    /// These names.
    Names(Vec<String>),
}

impl Pattern {
    /// Returns `true` if the pattern covers the name.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::None => false,
            Self::Prefix(prefix) => name.starts_with(prefix.as_str()),
            Self::Names(names) => names.iter().any(|candidate| candidate == name),
        }
    }
}
