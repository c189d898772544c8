//! The whole state of the broker, and the look-ups that its parts share.

use crate::channel::Channel;
use crate::config::{Config, Pattern, User};
use crate::connection::Connection;
use crate::crashes::Crashes;
use crate::fault::Fault;
use crate::ids::{ConnectionId, FrameContext, QueueId};
use crate::message::{Memory, Message, Reason};
use crate::queue::Queue;
use crate::random::Random;
use crate::timers::Timers;
use crate::vhost::VHost;
use crate::view::Published;
use puka::protocol::ReplyCode;
use puka::protocol::method::Encode;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The state of the broker.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) config: Config,
    pub(crate) vhosts: BTreeMap<Arc<str>, VHost>,
    pub(crate) queues: BTreeMap<QueueId, Queue>,
    pub(crate) connections: BTreeMap<ConnectionId, Connection>,
    next_id: u64,
    pub(crate) random: Random,
    pub(crate) memory: Memory,
    /// The reason of an alarm that was raised by a test.
    pub(crate) alarm: Option<String>,
    pub(crate) timers: Timers,
    /// The queues that may have something to deliver or to drop, because something has changed.
    pub(crate) dirty: BTreeSet<QueueId>,
    pub(crate) stuck: BTreeSet<QueueId>,
    /// Queues that are no longer stuck. The frames that need them are not processed yet.
    pub(crate) released: Vec<QueueId>,
    /// The largest number of channels of all connections.
    pub(crate) user_channel_limit: Option<usize>,
    /// The queues over which channels crash, by name.
    pub(crate) crashes: BTreeMap<String, Crashes>,
    /// The messages to publish to a dead-letter exchange.
    pub(crate) dead_letters: VecDeque<DeadLetter>,
    /// The channels with confirms that are due.
    pub(crate) unconfirmed: BTreeSet<(ConnectionId, u16)>,
    pub(crate) published: VecDeque<Published>,
    pub(crate) published_bytes: usize,
    /// The latest and the first instant that callers have passed.
    pub(crate) clock: Option<(Instant, Instant)>,
}

/// A message to be published to a dead-letter exchange.
#[derive(Debug)]
pub(crate) struct DeadLetter {
    pub(crate) vhost: Arc<str>,
    /// The queue that it was in.
    pub(crate) queue: Arc<str>,
    pub(crate) exchange: Arc<str>,
    /// Replaces its own routing keys.
    pub(crate) routing_key: Option<Arc<str>>,
    pub(crate) message: Arc<Message>,
    pub(crate) reason: Reason,
}

/// The kind of access to an entity.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Permission {
    Configure,
    Write,
    Read,
}

impl State {
    pub(crate) fn new(config: Config) -> Self {
        let vhosts = config
            .vhosts
            .iter()
            .map(|name| (Arc::from(name.as_str()), VHost::new()))
            .collect();
        Self {
            random: Random::new(config.seed),
            config,
            vhosts,
            queues: BTreeMap::new(),
            connections: BTreeMap::new(),
            next_id: 1,
            memory: Memory::default(),
            alarm: None,
            timers: Timers::default(),
            dirty: BTreeSet::new(),
            stuck: BTreeSet::new(),
            released: Vec::new(),
            user_channel_limit: None,
            crashes: BTreeMap::new(),
            dead_letters: VecDeque::new(),
            unconfirmed: BTreeSet::new(),
            published: VecDeque::new(),
            published_bytes: 0,
            clock: None,
        }
    }

    /// Returns a number that was not used before.
    pub(crate) fn fresh_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    /// Records the time. It never goes back.
    pub(crate) fn advance_clock(&mut self, now: Instant) -> Instant {
        let (latest, _) = self.clock.get_or_insert((now, now));
        *latest = now.max(*latest);
        *latest
    }

    /// Returns the seconds since 1970-01-01 UTC.
    pub(crate) fn unix_time(&self) -> u64 {
        let elapsed = self.clock.map_or(Duration::ZERO, |(latest, first)| {
            latest.saturating_duration_since(first)
        });
        self.config.unix_time + elapsed.as_secs()
    }

    /// Returns why publishers are blocked.
    pub(crate) fn alarm(&self) -> Option<&str> {
        let full = self.memory.used() >= self.config.memory_limit;
        self.alarm.as_deref().or(full.then_some("low on memory"))
    }

    /// Sends a method on the channel of a frame.
    pub(crate) fn send(&mut self, context: FrameContext, method: &impl Encode) {
        if let Some(connection) = self.connections.get_mut(&context.connection) {
            connection.send(context.now, context.channel, method);
        }
    }

    /// Sends a reply, unless `nowait` is set.
    pub(crate) fn reply(&mut self, context: FrameContext, nowait: bool, method: &impl Encode) {
        if !nowait {
            self.send(context, method);
        }
    }

    /// Returns the connection of a frame.
    pub(crate) fn connection(&self, context: FrameContext) -> Result<&Connection, Fault> {
        self.connections
            .get(&context.connection)
            .ok_or(Fault::Silent)
    }

    /// Returns the channel of a frame.
    pub(crate) fn channel(&mut self, context: FrameContext) -> Result<&mut Channel, Fault> {
        let connection = self
            .connections
            .get_mut(&context.connection)
            .ok_or(Fault::Silent)?;
        connection
            .channels
            .get_mut(&context.channel)
            .ok_or_else(|| Fault::new(ReplyCode::CHANNEL_ERROR, "expected 'channel.open'"))
    }

    /// Returns the virtual host of a connection, with its name.
    pub(crate) fn vhost(&self, context: FrameContext) -> Result<(Arc<str>, &VHost), Fault> {
        let name = Arc::clone(&self.connection(context)?.vhost);
        let vhost = self
            .vhosts
            .get(&name)
            .ok_or_else(|| Fault::internal("the virtual host does not exist"))?;
        Ok((name, vhost))
    }

    /// Returns the virtual host of a connection, with its name, for a change.
    pub(crate) fn vhost_mut(
        &mut self,
        context: FrameContext,
    ) -> Result<(Arc<str>, &mut VHost), Fault> {
        let name = Arc::clone(&self.connection(context)?.vhost);
        let vhost = self
            .vhosts
            .get_mut(&name)
            .ok_or_else(|| Fault::internal("the virtual host does not exist"))?;
        Ok((name, vhost))
    }

    /// Returns the id of a queue, if it exists.
    pub(crate) fn queue_id(&self, vhost: &str, name: &str) -> Option<QueueId> {
        self.vhosts.get(vhost)?.queues.get(name).copied()
    }

    /// Returns a queue, which must exist and not be exclusive to another connection.
    pub(crate) fn queue(&mut self, context: FrameContext, name: &str) -> Result<&mut Queue, Fault> {
        let (vhost_name, vhost) = self.vhost(context)?;
        let id = vhost.queues.get(name).copied();
        let queue = id.and_then(|id| self.queues.get_mut(&id));
        let queue = queue.ok_or_else(|| Fault::no_queue(&vhost_name, name))?;
        if queue.owner.is_some_and(|owner| owner != context.connection) {
            return Err(locked(&vhost_name, name));
        }
        Ok(queue)
    }

    /// Returns the queue name that a method means. An empty field means the queue last declared on
    /// the channel.
    pub(crate) fn queue_name(
        &mut self,
        context: FrameContext,
        field: &str,
    ) -> Result<Arc<str>, Fault> {
        if !field.is_empty() {
            return Ok(clean(field).into());
        }
        let last = self.channel(context)?.last_queue.clone();
        last.ok_or_else(|| Fault::new(ReplyCode::NOT_FOUND, "no previously declared queue"))
    }

    /// Checks that the user of a connection has a permission on an entity.
    pub(crate) fn check_permission(
        &self,
        context: FrameContext,
        permission: Permission,
        kind: &str,
        name: &str,
    ) -> Result<(), Fault> {
        let connection = self.connection(context)?;
        let User {
            configure,
            write,
            read,
            name: user,
            ..
        } = &connection.user;
        let (pattern, verb): (&Pattern, _) = match permission {
            Permission::Configure => (configure, "configure"),
            Permission::Write => (write, "write"),
            Permission::Read => (read, "read"),
        };
        // Permissions name the default exchange `amq.default`.
        let checked = if kind == "exchange" && name.is_empty() {
            "amq.default"
        } else {
            name
        };
        if pattern.matches(checked) {
            return Ok(());
        }
        let vhost = &connection.vhost;
        Err(Fault::refused(format_args!(
            "{verb} access to {kind} '{checked}' in vhost '{vhost}' refused for user '{user}'"
        )))
    }
}

/// Returns the fault of a queue that is exclusive to another connection.
pub(crate) fn locked(vhost: &str, name: &str) -> Fault {
    Fault::new(
        ReplyCode::RESOURCE_LOCKED,
        format_args!(
            "cannot obtain exclusive access to locked queue '{name}' in vhost '{vhost}'. It could \
             be originally declared on another connection or the exclusive property value does not \
             match that of the original declaration."
        ),
    )
}

/// Returns a name without CR and LF, which RabbitMQ removes.
pub(crate) fn clean(name: &str) -> String {
    name.chars()
        .filter(|&character| character != '\r' && character != '\n')
        .collect()
}
