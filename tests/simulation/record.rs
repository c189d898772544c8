//! The entities that an application has declared and not deleted, as far as it can know. They must
//! be restored.

use puka::protocol::MethodId;
use puka::protocol::method::{exchange, queue};
use puka::{Broken, Error, Peer};
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    There,
    Gone,
    /// It may exist or not.
    Uncertain,
}

/// Queues and exchanges by name, bindings as `queue|exchange`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record(BTreeMap<String, Known>);

impl Record {
    fn set(&mut self, name: &str, known: Known) {
        let entry = self.0.entry(name.to_owned()).or_insert(known);
        if *entry != Known::Uncertain {
            *entry = known;
        }
    }

    /// Records a completed request.
    pub(crate) fn done(&mut self, method: MethodId, name: &str) {
        match method {
            queue::Declare::ID | exchange::Declare::ID | queue::Bind::ID => {
                self.set(name, Known::There)
            }
            queue::Unbind::ID => self.set(name, Known::Gone),
            queue::Delete::ID | exchange::Delete::ID => {
                self.set(name, Known::Gone);
                self.set_bindings(name, Known::Gone);
            }
            _ => {}
        }
    }

    fn set_bindings(&mut self, name: &str, known: Known) {
        let bindings = self
            .0
            .keys()
            .filter(|key| key.contains('|') && key.split('|').any(|it| it == name));
        for binding in bindings.cloned().collect::<Vec<_>>() {
            self.set(&binding, known);
        }
    }

    /// Records a failed request, or one with an unknown outcome.
    pub(crate) fn failed(&mut self, method: MethodId, name: &str, error: &Error) {
        // Whether the broker has deleted it is unknown, and it must not be declared again. A delete
        // that was not sent fails with the loss itself.
        if method == queue::Delete::ID
            && matches!(error, Error::ConnectionBroken(Broken::OutcomeUnknown(_)))
        {
            self.set(name, Known::Gone);
            self.set_bindings(name, Known::Gone);
            return;
        }
        let refused = error
            .fault()
            .is_some_and(|fault| fault.found_by == Peer::Server && fault.method == method);
        if !refused || matches!(error, Error::NotFound(_)) {
            self.mark_uncertain(name);
        }
    }

    /// Marks an entity and its bindings as uncertain from here on.
    pub(crate) fn mark_uncertain(&mut self, name: &str) {
        self.0.insert(name.to_owned(), Known::Uncertain);
        self.set_bindings(name, Known::Uncertain);
    }

    /// Returns `true` if it is uncertain whether an entity exists, and whether it is restored.
    pub(crate) fn has_uncertain(&self) -> bool {
        self.0.values().any(|known| *known == Known::Uncertain)
    }

    /// Returns `true` if the entity must be restored.
    pub(crate) fn must_be_restored(&self, name: &str) -> bool {
        self.0.get(name) == Some(&Known::There)
    }

    /// Returns `true` if nothing prevents the entity from being restored.
    pub(crate) fn may_be_restored(&self, name: &str) -> bool {
        self.0.get(name).is_none_or(|known| *known == Known::There)
    }

    /// Returns the bindings of an exchange that may be restored.
    pub(crate) fn bindings(&self, exchange: &str) -> impl Iterator<Item = &str> {
        let of_it = move |name: &str| {
            name.split_once('|')
                .is_some_and(|(_, source)| source == exchange)
        };
        self.0
            .iter()
            .filter(move |(name, known)| of_it(name) && **known != Known::Gone)
            .map(|(name, _)| &**name)
    }

    /// Returns `true` if this application must not restore the entity.
    pub(crate) fn must_be_absent(&self, name: &str) -> bool {
        matches!(self.0.get(name), None | Some(Known::Gone))
    }
}
