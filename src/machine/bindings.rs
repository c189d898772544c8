//! The bindings of a connection's topology, indexed by destination and by source.
//!
//! A recovery renames queues and forgets what is gone, one entity after the other. Each time it touches the
//! bindings of that entity only: going through all of them took 18 s for 2000 queues of 10 bindings.

use crate::protocol::method::{exchange, queue};
use crate::protocol::{Method, ShortStr, TableRef};
use std::collections::{BTreeMap, BTreeSet};

pub(super) type Name = Box<[u8]>;

/// Returns a name that came from a method.
pub(super) fn short(name: &[u8]) -> ShortStr<'_> {
    ShortStr::from_octets(name).unwrap_or_default()
}

/// Returns a table that came from a method.
pub(super) fn table(bytes: &[u8]) -> TableRef<'_> {
    TableRef::new(bytes).unwrap_or_default()
}

/// The end of a binding at which messages arrive.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Destination {
    Queue(Name),
    Exchange(Name),
}

/// A binding. The order of its fields puts those of one destination and source next to each other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Binding {
    pub(super) destination: Destination,
    pub(super) source: Name,
    pub(super) routing_key: Name,
    pub(super) arguments: Box<[u8]>,
}

impl Binding {
    /// Returns the request that makes it.
    pub(super) fn request(&self) -> Method<'_> {
        let (routing_key, arguments) = (short(&self.routing_key), table(&self.arguments));
        match &self.destination {
            Destination::Queue(queue) => Method::Queue(queue::Method::Bind(queue::Bind {
                queue: short(queue),
                exchange: short(&self.source),
                routing_key,
                nowait: false,
                arguments,
            })),
            Destination::Exchange(destination) => Method::Exchange(exchange::Method::Bind(exchange::Bind {
                destination: short(destination),
                source: short(&self.source),
                routing_key,
                nowait: false,
                arguments,
            })),
        }
    }
}

/// The bindings of a topology. Each operation costs as much as the bindings that it changes.
#[derive(Debug, Default)]
pub(super) struct Bindings {
    by_destination: BTreeMap<Destination, BTreeSet<Binding>>,
    /// The destinations of each source.
    by_source: BTreeMap<Name, BTreeSet<Destination>>,
    len: usize,
}

impl Bindings {
    /// Returns the number of bindings.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Returns `true` if there is this binding.
    pub(super) fn contains(&self, binding: &Binding) -> bool {
        self.by_destination.get(&binding.destination).is_some_and(|bindings| bindings.contains(binding))
    }

    /// Returns `true` if there is a binding from this exchange.
    pub(super) fn has_source(&self, exchange: &[u8]) -> bool {
        self.by_source.contains_key(exchange)
    }

    /// Returns all bindings, ordered by destination and source.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Binding> {
        self.by_destination.values().flatten().inspect(|_| visit())
    }

    /// Adds a binding.
    pub(super) fn insert(&mut self, binding: Binding) {
        let (source, destination) = (binding.source.clone(), binding.destination.clone());
        let bindings = self.by_destination.entry(destination.clone()).or_default();
        self.len += usize::from(bindings.insert(binding));
        self.by_source.entry(source).or_default().insert(destination);
    }

    /// Removes a binding. Returns `false` if there is none like it.
    pub(super) fn remove(&mut self, binding: &Binding) -> bool {
        let Binding { destination, source, .. } = binding;
        let Some(bindings) = self.by_destination.get_mut(destination) else { return false };
        if !bindings.remove(binding) {
            return false;
        }
        self.len -= 1;
        let is_last = between(bindings, destination, source).next().is_none();
        if bindings.is_empty() {
            self.by_destination.remove(destination);
        }
        if is_last {
            self.unlink(source, destination);
        }
        true
    }

    /// Removes the bindings to a destination. Returns their sources, each once.
    pub(super) fn remove_to(&mut self, destination: &Destination) -> Vec<Name> {
        let bindings = self.by_destination.remove(destination).unwrap_or_default();
        self.len -= bindings.len();
        let sources = sources(&bindings);
        for source in &sources {
            self.unlink(source, destination);
        }
        sources
    }

    /// Removes the bindings from an exchange.
    pub(super) fn remove_from(&mut self, exchange: &[u8]) {
        for destination in self.by_source.remove(exchange).unwrap_or_default() {
            let Some(bindings) = self.by_destination.get_mut(&destination) else { continue };
            let removed: Vec<_> = between(bindings, &destination, exchange).cloned().collect();
            self.len -= removed.len();
            for binding in removed {
                bindings.remove(&binding);
            }
            if bindings.is_empty() {
                self.by_destination.remove(&destination);
            }
        }
    }

    /// Leads the bindings to one destination to another.
    pub(super) fn redirect(&mut self, from: &Destination, to: &Destination) {
        let Some(bindings) = self.by_destination.remove(from) else { return };
        for source in sources(&bindings) {
            self.unlink(&source, from);
            self.by_source.entry(source).or_default().insert(to.clone());
        }
        self.len -= bindings.len();
        let redirected = bindings.into_iter();
        let redirected = redirected.map(|binding| Binding { destination: to.clone(), ..binding });
        let bindings = self.by_destination.entry(to.clone()).or_default();
        let before = bindings.len();
        bindings.append(&mut redirected.collect());
        self.len += bindings.len() - before;
    }

    fn unlink(&mut self, source: &[u8], destination: &Destination) {
        if let Some(destinations) = self.by_source.get_mut(source) {
            destinations.remove(destination);
            if destinations.is_empty() {
                self.by_source.remove(source);
            }
        }
    }
}

/// Returns the sources of bindings to one destination, each once.
fn sources(bindings: &BTreeSet<Binding>) -> Vec<Name> {
    let mut sources: Vec<&Name> = bindings.iter().inspect(|_| visit()).map(|it| &it.source).collect();
    sources.dedup();
    sources.into_iter().cloned().collect()
}

/// Returns those of the bindings to one destination that come from this source.
fn between<'b>(
    bindings: &'b BTreeSet<Binding>,
    destination: &Destination,
    source: &[u8],
) -> impl Iterator<Item = &'b Binding> {
    let first = Binding {
        destination: destination.clone(),
        source: source.into(),
        routing_key: Box::default(),
        arguments: Box::default(),
    };
    let behind = bindings.range(&first..).inspect(|_| visit());
    behind.take_while(move |binding| binding.source == first.source)
}

#[cfg(not(test))]
fn visit() {}

#[cfg(test)]
use tests::visit;

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::Cell;

    thread_local! {
        static VISITED: Cell<usize> = const { Cell::new(0) };
    }

    pub(super) fn visit() {
        VISITED.set(VISITED.get() + 1);
    }

    /// Returns how many bindings were looked at since the last call.
    pub(in crate::machine) fn visited() -> usize {
        VISITED.take()
    }

    #[derive(Clone, Debug)]
    enum Change {
        Insert(Binding),
        Remove(Binding),
        RemoveTo(Destination),
        RemoveFrom(Name),
        Redirect(Destination, Destination),
    }

    fn names() -> impl Strategy<Value = Name> {
        prop::collection::vec(0..3_u8, 0..2).prop_map(Vec::into_boxed_slice)
    }

    fn destinations() -> impl Strategy<Value = Destination> {
        prop_oneof![names().prop_map(Destination::Queue), names().prop_map(Destination::Exchange)]
    }

    fn bindings() -> impl Strategy<Value = Binding> {
        (destinations(), names(), names(), names()).prop_map(
            |(destination, source, routing_key, arguments)| Binding {
                destination,
                source,
                routing_key,
                arguments,
            },
        )
    }

    fn changes() -> impl Strategy<Value = Vec<Change>> {
        let change = prop_oneof![
            8 => bindings().prop_map(Change::Insert),
            2 => bindings().prop_map(Change::Remove),
            1 => destinations().prop_map(Change::RemoveTo),
            1 => names().prop_map(Change::RemoveFrom),
            1 => (destinations(), destinations()).prop_map(|(from, to)| Change::Redirect(from, to)),
        ];
        prop::collection::vec(change, 0..100)
    }

    proptest! {
        #[test]
        #[cfg_attr(miri, ignore = "it takes Miri minutes")]
        fn indexed_bindings_equal_a_plain_set(changes in changes()) {
            let (mut bindings, mut plain) = (Bindings::default(), BTreeSet::new());
            for change in changes {
                match change {
                    Change::Insert(binding) => {
                        plain.insert(binding.clone());
                        bindings.insert(binding);
                    }
                    Change::Remove(binding) => {
                        prop_assert_eq!(bindings.remove(&binding), plain.remove(&binding));
                    }
                    Change::RemoveTo(to) => {
                        let (gone, left): (BTreeSet<_>, BTreeSet<_>) =
                            plain.into_iter().partition(|it| it.destination == to);
                        plain = left;
                        let sources: BTreeSet<_> = gone.into_iter().map(|it| it.source).collect();
                        prop_assert_eq!(bindings.remove_to(&to), Vec::from_iter(sources));
                    }
                    Change::RemoveFrom(source) => {
                        plain.retain(|it| it.source != source);
                        bindings.remove_from(&source);
                    }
                    Change::Redirect(from, to) => {
                        let redirected = plain.into_iter().map(|it| {
                            let is_it = it.destination == from;
                            let destination = if is_it { to.clone() } else { it.destination };
                            Binding { destination, ..it }
                        });
                        plain = redirected.collect();
                        bindings.redirect(&from, &to);
                    }
                }
                prop_assert!(bindings.iter().eq(&plain));
                prop_assert_eq!(bindings.len(), plain.len());
                let sources: BTreeSet<_> = plain.iter().map(|it| &it.source).collect();
                prop_assert!(bindings.by_source.keys().eq(sources));
                for (source, to) in &bindings.by_source {
                    let plain: BTreeSet<_> = plain.iter().filter(|it| it.source == *source).collect();
                    prop_assert!(to.iter().eq(plain.iter().map(|it| &it.destination).collect::<BTreeSet<_>>()));
                }
                prop_assert!(bindings.by_destination.values().all(|to| !to.is_empty()));
            }
        }
    }
}
