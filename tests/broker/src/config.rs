//! What a broker is told when it is made: users, limits, and the knobs of a simulation.

use puka::protocol::{Table, Value};
use std::fmt;
use std::ops::Range;
use std::time::Duration;

/// How a [`Broker`](crate::Broker) is set up. The defaults are RabbitMQ's where it has the setting.
///
/// ```
/// use puka_test_broker::Config;
/// use std::time::Duration;
/// let config = Config { heartbeat: Duration::from_secs(5), ..Config::default() };
/// assert_eq!(config.channel_max, 2047);
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    /// Who may log in; `guest` with password `guest` by default.
    pub users: Vec<User>,
    /// The virtual hosts; `/` by default.
    pub vhosts: Vec<String>,
    /// SASL mechanisms offered, of `PLAIN`, `AMQPLAIN`, `RABBIT-CR-DEMO`, `ANONYMOUS` and `EXTERNAL`; the first two by
    /// default.
    pub mechanisms: Vec<String>,
    /// The name of the user whom `ANONYMOUS` logs in, as RabbitMQ's `anonymous_login_user`; `guest` by default.
    pub anonymous_user: String,
    /// The name of the user whom `EXTERNAL` logs in, as a certificate would say; nobody by default.
    pub external_user: Option<String>,
    /// Channels open at once that `tune` proposes; 0 for no limit.
    pub channel_max: u16,
    /// Octets of a whole frame that `tune` proposes; 0 for no limit but [`frame_limit`](Self::frame_limit).
    pub frame_max: u32,
    /// Octets of a frame that are accepted when no `frame_max` was agreed upon; 1 MiB by default.
    pub frame_limit: u32,
    /// The heartbeat that `tune` proposes, in whole seconds; zero for none.
    pub heartbeat: Duration,
    /// The largest body, in octets; 16 MiB by default, as RabbitMQ has it since 4.0. A larger one is a channel error 406.
    pub max_message_size: u64,
    /// Octets of messages held at which publishers are blocked as "low on memory"; 256 MiB by default.
    pub memory_limit: usize,
    /// Octets waiting to be sent on a connection at which its consumers get no more; 1 MiB by default.
    pub output_limit: usize,
    /// Messages kept for [`Broker::published`](crate::Broker::published), the newest ones; 10 000 by default.
    pub published_log: usize,
    /// Octets of bodies and properties kept for [`Broker::published`](crate::Broker::published); 16 MiB by default.
    pub published_log_octets: usize,
    /// What `start` tells of the broker.
    pub server_properties: Table,
    /// How long the whole handshake may take; 10 s by default.
    pub handshake_timeout: Duration,
    /// How long a client that failed to log in waits for the silent close; 3 s by default.
    pub refusal_delay: Duration,
    /// How long a confirm takes, at random within the range; empty at zero by default, which is at once.
    pub confirm_delay: Range<Duration>,
    /// Whether confirms that are due together leave as one frame with `multiple`, as RabbitMQ's do; true by default.
    pub coalesce_confirms: bool,
    /// The seed of everything random: names that the broker makes, delays.
    pub seed: u64,
    /// Seconds since 1970-01-01 UTC at the first moment the broker is told of: what `x-death` counts from.
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
            published_log_octets: 16 << 20,
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

/// Adds an entry whose name is short enough.
pub(crate) fn put<'v>(table: &mut Table, name: &str, value: impl Into<Value<'v>>) {
    table.insert(name, value).unwrap_or_default();
}

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
    put(&mut properties, "information", "An AMQP 0-9-1 broker in memory, for tests");
    put(&mut properties, "platform", "Rust");
    put(&mut properties, "product", "puka-test-broker");
    put(&mut properties, "version", env!("CARGO_PKG_VERSION"));
    properties
}

/// Who may log in, and what they may do.
#[derive(Clone)]
pub struct User {
    /// The name.
    pub name: String,
    /// The password. It is never printed.
    pub password: String,
    /// Whether messages may carry another one's `user_id`: RabbitMQ's tag `impersonator`.
    pub impersonator: bool,
    /// The virtual hosts that may be opened; `None` for all.
    pub vhosts: Option<Vec<String>>,
    /// Which exchanges and queues may be declared and deleted.
    pub configure: Pattern,
    /// Which exchanges may be published to, which queues bound.
    pub write: Pattern,
    /// Which queues may be consumed, which exchanges bound to.
    pub read: Pattern,
}

impl User {
    /// A user who may do everything.
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

/// Which names a permission covers, in place of RabbitMQ's regular expressions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Every name.
    All,
    /// No name.
    None,
    /// Names that begin like this.
    Prefix(String),
    /// These names.
    Names(Vec<String>),
}

impl Pattern {
    /// Whether it covers the name.
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
