//! The topology record: the entities that this connection has declared and bound. They are replayed
//! after a loss.
//!
//! An entity is removed when the program deletes or unbinds it, or the broker deletes it. The
//! record belongs to the connection and not to a channel, because an entity that was declared on
//! one channel may be deleted on another.

use crate::machine::recovery::bindings::{Binding, Bindings, Destination, Name, Route, table};
use crate::machine::recovery::names::{Names, dead_letter_queue, with_dead_letter_queue};
use crate::machine::recovery::step::{ReplayStep, StepGroup};
use crate::options::RecoverTopology;
use crate::protocol::method::{basic, exchange, queue};
use crate::protocol::{Method, ShortStr, Table, TableRef};
use std::collections::BTreeMap;

/// A recorded exchange.
#[derive(Clone, Debug)]
pub(crate) struct ExchangeRecord {
    kind: Name,
    durable: bool,
    auto_delete: bool,
    internal: bool,
    arguments: Box<[u8]>,
}

/// A recorded queue.
#[derive(Clone, Debug)]
pub(crate) struct QueueRecord {
    /// The first name of a server-named queue. The broker makes another name each time.
    original_name: Option<Name>,
    durable: bool,
    exclusive: bool,
    auto_delete: bool,
    arguments: Box<[u8]>,
}

/// The topology record.
#[derive(Debug, Default)]
pub(crate) struct Topology {
    exchanges: BTreeMap<Name, ExchangeRecord>,
    /// The queues by their current names.
    queues: BTreeMap<Name, QueueRecord>,
    bindings: Bindings,
    names: Names,
    /// The largest number of entities to record; `None` without recovery.
    max_records: Option<usize>,
    /// The program was notified that not everything is recorded.
    is_overflow_reported: bool,
}

impl Topology {
    pub(crate) fn new(max_records: usize) -> Self {
        Self {
            max_records: Some(max_records),
            ..Self::default()
        }
    }

    /// Returns the record if entities are recorded, because there is recovery.
    pub(crate) fn if_recording(&mut self) -> Option<&mut Self> {
        self.max_records.is_some().then_some(self)
    }

    /// Records that the program is notified that not everything is recorded. Returns `false` if it
    /// was notified before.
    pub(crate) fn record_overflow(&mut self) -> bool {
        !std::mem::replace(&mut self.is_overflow_reported, true)
    }

    /// Returns `true` if another entity can be recorded.
    fn has_capacity(&self) -> bool {
        self.max_records.is_some_and(|max| self.len() < max)
    }

    /// Returns the number of recorded entities.
    pub(crate) fn len(&self) -> usize {
        self.exchanges.len() + self.queues.len() + self.bindings.len()
    }

    /// Records the effect of a request to which the broker has replied. Returns `false` if the
    /// record is full.
    pub(crate) fn record(&mut self, request: &Method<'_>, reply: &Method<'_>) -> bool {
        match *request {
            Method::Exchange(exchange::Method::Declare(it)) if !it.passive => {
                self.record_exchange(&it)
            }
            Method::Exchange(exchange::Method::Delete(it)) => {
                self.forget_exchange(it.exchange);
                true
            }
            Method::Exchange(exchange::Method::Bind(it)) => {
                let route = Route::new(it.source, it.routing_key, it.arguments);
                self.bind(Destination::Exchange(it.destination.into()), route)
            }
            Method::Exchange(exchange::Method::Unbind(it)) => {
                let route = Route::new(it.source, it.routing_key, it.arguments);
                self.unbind(&Destination::Exchange(it.destination.into()), route);
                true
            }
            Method::Queue(queue::Method::Declare(it)) if !it.passive => {
                // Unreachable: no other reply completes a `queue.declare`.
                let Method::Queue(queue::Method::DeclareOk(ok)) = reply else {
                    return true;
                };
                self.record_queue(&it, ok)
            }
            Method::Queue(queue::Method::Delete(it)) => {
                self.forget_queue(it.queue);
                true
            }
            Method::Queue(queue::Method::Bind(it)) => {
                let route = Route::new(it.exchange, it.routing_key, it.arguments);
                self.bind(Destination::Queue(it.queue.into()), route)
            }
            Method::Queue(queue::Method::Unbind(it)) => {
                let route = Route::new(it.exchange, it.routing_key, it.arguments);
                self.unbind(&Destination::Queue(it.queue.into()), route);
                true
            }
            _ => true,
        }
    }

    /// Records a declared exchange. Returns `false` if the record is full.
    fn record_exchange(&mut self, it: &exchange::Declare<'_>) -> bool {
        // "The server MUST, in each virtual host, pre-declare an exchange instance for each
        // standard exchange type that it implements" (class `exchange`), so these need no replay.
        if it.exchange.is_empty() || it.exchange.as_bytes().starts_with(b"amq.") {
            return true;
        }
        let has_capacity =
            self.has_capacity() || self.exchanges.contains_key(it.exchange.as_bytes());
        if has_capacity {
            let record = ExchangeRecord {
                kind: it.r#type.into(),
                durable: it.durable,
                auto_delete: it.auto_delete,
                internal: it.internal,
                arguments: it.arguments.as_bytes().into(),
            };
            self.exchanges.insert(it.exchange.into(), record);
        }
        has_capacity
    }

    /// Records a declared queue under the name that the broker returned. Returns `false` if the
    /// record is full.
    fn record_queue(&mut self, it: &queue::Declare<'_>, ok: &queue::DeclareOk<'_>) -> bool {
        let declared = Name::from(ok.queue);
        let arguments = self.with_original_dead_letter_queue(it.arguments);
        self.names.take_over(ok.queue);
        let has_capacity = self.has_capacity() || self.queues.contains_key(&declared);
        if has_capacity {
            let record = QueueRecord {
                original_name: it.queue.is_empty().then(|| declared.clone()),
                durable: it.durable,
                exclusive: it.exclusive,
                auto_delete: it.auto_delete,
                arguments,
            };
            self.queues.insert(declared, record);
        }
        has_capacity
    }

    /// Records a binding. Returns `false` if the record is full.
    fn bind(&mut self, destination: Destination, route: Route) -> bool {
        if !self.has_capacity() && !self.bindings.contains(&destination, &route) {
            return false;
        }
        self.bindings.insert(destination, route);
        true
    }

    /// Removes a binding.
    fn unbind(&mut self, destination: &Destination, route: Route) {
        if self.bindings.remove(destination, &route) {
            self.forget_unused(vec![route.source]);
        }
    }

    /// Removes those of the exchanges that are auto-delete and from which no binding is left. "If
    /// set, the exchange is deleted when all queues have finished using it" (1.6.2.1). The bindings
    /// to such an exchange are removed with it, so the exchanges at their other end may be unused,
    /// too.
    fn forget_unused(&mut self, mut sources: Vec<Name>) {
        while let Some(source) = sources.pop() {
            let is_deleted = self
                .exchanges
                .get(&source)
                .is_some_and(|exchange| exchange.auto_delete)
                && !self.bindings.has_source(&source);
            if is_deleted {
                sources.extend(self.take_exchange(source.as_short_str()));
            }
        }
    }

    /// Removes a deleted exchange and the bindings from and to it.
    pub(crate) fn forget_exchange(&mut self, exchange: ShortStr<'_>) {
        let sources = self.take_exchange(exchange);
        self.forget_unused(sources);
    }

    /// Removes an exchange and the bindings from and to it. Returns the sources of the bindings to
    /// it.
    fn take_exchange(&mut self, exchange: ShortStr<'_>) -> Vec<Name> {
        self.exchanges.remove(exchange.as_bytes());
        let sources = self
            .bindings
            .remove_to(&Destination::Exchange(exchange.into()));
        self.bindings.remove_from(exchange);
        sources
    }

    /// Removes a deleted queue and the bindings to it. `queue` may be any of its names.
    pub(crate) fn forget_queue(&mut self, queue: ShortStr<'_>) {
        let queue = Name::from(self.current(queue));
        self.queues.remove(&queue);
        self.names.forget(&queue);
        let sources = self.bindings.remove_to(&Destination::Queue(queue));
        self.forget_unused(sources);
    }

    /// Returns `true` if the broker deletes a queue with its last consumer: "If set, the queue is
    /// deleted when all consumers have finished using it" (1.7.2.1). `queue` may be any of its
    /// names.
    pub(crate) fn is_auto_delete(&self, queue: ShortStr<'_>) -> bool {
        self.queues
            .get(self.current(queue).as_bytes())
            .is_some_and(|queue| queue.auto_delete)
    }

    /// Returns `true` if a server-named queue has another name than its first one.
    #[inline]
    pub(crate) fn has_renamed_queues(&self) -> bool {
        !self.names.is_empty()
    }

    /// Returns the current name of a queue, of which `name` is any name.
    pub(crate) fn current<'n>(&'n self, name: ShortStr<'n>) -> ShortStr<'n> {
        self.current_if_renamed(name.as_bytes()).unwrap_or(name)
    }

    /// Returns the current name of a queue if it differs from this name.
    pub(crate) fn current_if_renamed(&self, name: &[u8]) -> Option<ShortStr<'_>> {
        if self.names.is_empty() {
            return None;
        }
        self.names.get(name)
    }

    /// Replaces earlier queue names in a publish. Returns its headers if they change.
    pub(crate) fn update_publish<'n>(
        &'n self,
        publish: &mut basic::Publish<'n>,
        headers: Option<TableRef<'_>>,
    ) -> Option<Table> {
        self.names.update_publish(publish, headers)
    }

    /// Returns the arguments of a queue with the first name of its dead-letter queue. The current
    /// name can be found by the first one as long as that queue is recorded.
    fn with_original_dead_letter_queue(&self, arguments: TableRef<'_>) -> Box<[u8]> {
        let original = dead_letter_queue(arguments).and_then(|queue| self.original_name(queue));
        let Some(queue) = original else {
            return arguments.as_bytes().into();
        };
        with_dead_letter_queue(arguments, queue.as_bytes())
            .as_ref()
            .as_bytes()
            .into()
    }

    /// Returns the first name of a queue, of which `name` is any name.
    pub(crate) fn original<'n>(&'n self, name: ShortStr<'n>) -> ShortStr<'n> {
        self.original_name(name.as_bytes()).unwrap_or(name)
    }

    /// Returns the first name of a server-named queue, of which `name` is any name.
    fn original_name(&self, name: &[u8]) -> Option<ShortStr<'_>> {
        let current = self
            .current_if_renamed(name)
            .map_or(name, ShortStr::as_bytes);
        let original = self.queues.get(current)?.original_name.as_ref()?;
        Some(original.as_short_str())
    }

    /// Calls `encode` with the request that contains the current names of queues. Returns `None` if
    /// the request is the same.
    pub(crate) fn encode_renamed<R>(
        &self,
        request: Method<'_>,
        encode: impl FnOnce(&Method<'_>) -> R,
    ) -> Option<R> {
        let arguments = match &request {
            Method::Queue(queue::Method::Declare(it)) => {
                self.names.dead_letter_arguments(it.arguments)
            }
            _ => None,
        };
        let mut request = request;
        let current = queue_of(&mut request).and_then(|queue| self.names.get(queue.as_bytes()));
        if current.is_none() && arguments.is_none() {
            return None;
        }
        if let (Some(current), Some(queue)) = (current, queue_of(&mut request)) {
            *queue = current;
        }
        if let (Some(arguments), Method::Queue(queue::Method::Declare(it))) =
            (&arguments, &mut request)
        {
            it.arguments = arguments.as_ref();
        }
        Some(encode(&request))
    }

    /// Records that the broker has given a queue another name.
    pub(crate) fn rename(&mut self, from: ShortStr<'_>, to: ShortStr<'_>) {
        let Some(queue) = self.queues.remove(from.as_bytes()) else {
            return;
        };
        if queue.original_name.is_some() {
            self.names.rename(from, to);
        }
        self.queues.insert(to.into(), queue);
        self.bindings.redirect(
            &Destination::Queue(from.into()),
            &Destination::Queue(to.into()),
        );
    }

    fn is_transient_queue(&self, name: &[u8]) -> bool {
        self.queues
            .get(name)
            .is_some_and(|queue| !queue.durable || queue.exclusive)
    }

    fn is_transient_exchange(&self, name: &[u8]) -> bool {
        self.exchanges
            .get(name)
            .is_some_and(|exchange| !exchange.durable)
    }

    /// Returns the steps of a group that declare the selected entities.
    pub(crate) fn steps(&self, group: StepGroup, selected: RecoverTopology) -> Vec<ReplayStep> {
        let (all, transient) = match selected {
            RecoverTopology::All => (true, true),
            RecoverTopology::Transient => (false, true),
            RecoverTopology::Nothing => (false, false),
        };
        // The broker keeps a binding between durable entities, and deletes any other.
        let is_binding_selected = |destination: &Destination, route: &Route| {
            let is_transient = || {
                self.is_transient_exchange(&route.source)
                    || match destination {
                        Destination::Queue(name) => self.is_transient_queue(name),
                        Destination::Exchange(name) => self.is_transient_exchange(name),
                    }
            };
            all || transient && is_transient()
        };
        let bindings = |to_exchanges: bool| {
            let is_of_group =
                move |to: &Destination| matches!(to, Destination::Exchange(_)) == to_exchanges;
            let bindings = self.bindings.to(is_of_group);
            let selected = bindings.filter(|(to, route)| is_binding_selected(to, route));
            selected.map(|(to, route)| ReplayStep::Binding(Binding::new(to, route)))
        };
        let queues = |server_named: bool| {
            let queues = self.queues.iter();
            let queues = queues.filter(move |(_, it)| it.original_name.is_some() == server_named);
            let selected =
                queues.filter(|(name, _)| all || transient && self.is_transient_queue(name));
            selected.map(|(name, _)| ReplayStep::Queue(name.clone()))
        };
        match group {
            StepGroup::Exchanges => {
                let exchanges = self.exchanges.keys();
                let selected =
                    exchanges.filter(|name| all || transient && self.is_transient_exchange(name));
                selected
                    .map(|name| ReplayStep::Exchange(name.clone()))
                    .chain(bindings(true))
                    .collect()
            }
            StepGroup::ServerNamedQueues => queues(true).collect(),
            StepGroup::OtherQueues => queues(false).collect(),
            StepGroup::QueueBindings => bindings(false).collect(),
        }
    }

    /// Returns `true` if the entity that a step declares is still recorded.
    pub(crate) fn has(&self, step: &ReplayStep) -> bool {
        match step {
            ReplayStep::Exchange(name) => self.exchanges.contains_key(name),
            ReplayStep::Queue(name) => self.queues.contains_key(name),
            ReplayStep::Binding(binding) => self.bindings.has(binding),
        }
    }

    /// Returns the request of a step, or `None` if its entity was removed.
    pub(crate) fn request<'a>(&'a self, step: &'a ReplayStep) -> Option<Method<'a>> {
        match step {
            ReplayStep::Exchange(name) => {
                let it = self.exchanges.get(name)?;
                let declare = exchange::Declare {
                    exchange: name.as_short_str(),
                    r#type: it.kind.as_short_str(),
                    passive: false,
                    durable: it.durable,
                    auto_delete: it.auto_delete,
                    internal: it.internal,
                    nowait: false,
                    arguments: table(&it.arguments),
                };
                Some(Method::Exchange(exchange::Method::Declare(declare)))
            }
            ReplayStep::Queue(name) => {
                let it = self.queues.get(name)?;
                let declare = queue::Declare {
                    queue: if it.original_name.is_some() {
                        ShortStr::EMPTY
                    } else {
                        name.as_short_str()
                    },
                    passive: false,
                    durable: it.durable,
                    exclusive: it.exclusive,
                    auto_delete: it.auto_delete,
                    nowait: false,
                    arguments: table(&it.arguments),
                };
                Some(Method::Queue(queue::Method::Declare(declare)))
            }
            ReplayStep::Binding(binding) => Some(binding.request()),
        }
    }
}

/// Returns the queue of a request.
fn queue_of<'a, 'n>(request: &'a mut Method<'n>) -> Option<&'a mut ShortStr<'n>> {
    match request {
        Method::Queue(queue::Method::Declare(it)) => Some(&mut it.queue),
        Method::Queue(queue::Method::Bind(it)) => Some(&mut it.queue),
        Method::Queue(queue::Method::Unbind(it)) => Some(&mut it.queue),
        Method::Queue(queue::Method::Purge(it)) => Some(&mut it.queue),
        Method::Queue(queue::Method::Delete(it)) => Some(&mut it.queue),
        Method::Basic(basic::Method::Get(it)) => Some(&mut it.queue),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
