//! The entities that an application has declared and not deleted, as far as it can know. The client
//! must restore these on each connection, and no others.

use puka::protocol::MethodId;
use puka::protocol::method::{exchange, queue};
use puka::{Broken, Error, Peer};
use std::collections::BTreeMap;

/// What an application knows about an entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Declared,
    Deleted,
    /// It is unknown whether the broker has executed the last request about the entity.
    Uncertain,
}

/// What an application knows about each queue, exchange and binding. The key is the name; that of a
/// binding is `queue|exchange`.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeclaredEntities(BTreeMap<String, Known>);

impl DeclaredEntities {
    /// Sets what is known about an entity, unless it is uncertain: no later request makes certain
    /// which earlier ones were executed.
    fn set(&mut self, name: &str, known: Known) {
        let entry = self.0.entry(name.to_owned()).or_insert(known);
        if *entry != Known::Uncertain {
            *entry = known;
        }
    }

    /// Records a completed request.
    pub(crate) fn record_success(&mut self, method: MethodId, name: &str) {
        match method {
            queue::Declare::ID | exchange::Declare::ID | queue::Bind::ID => {
                self.set(name, Known::Declared)
            }
            queue::Unbind::ID => self.set(name, Known::Deleted),
            queue::Delete::ID | exchange::Delete::ID => {
                self.set(name, Known::Deleted);
                self.set_bindings(name, Known::Deleted);
            }
            _ => {}
        }
    }

    /// Sets what is known about the bindings of a queue or of an exchange.
    fn set_bindings(&mut self, name: &str, known: Known) {
        let bindings = self
            .0
            .keys()
            .filter(|key| key.contains('|') && key.split('|').any(|it| it == name));
        for binding in bindings.cloned().collect::<Vec<_>>() {
            self.set(&binding, known);
        }
    }

    /// Records a request that failed, or whose outcome is unknown.
    pub(crate) fn record_failure(&mut self, method: MethodId, name: &str, error: &Error) {
        // The client must not declare a queue again that the broker may have deleted. A delete that
        // was not sent fails with another error: the loss itself.
        if method == queue::Delete::ID
            && matches!(error, Error::ConnectionBroken(Broken::OutcomeUnknown(_)))
        {
            self.set(name, Known::Deleted);
            self.set_bindings(name, Known::Deleted);
            return;
        }
        let refused = error
            .fault()
            .is_some_and(|fault| fault.found_by == Peer::Server && fault.method == method);
        if !refused || matches!(error, Error::NotFound(_)) {
            self.mark_uncertain(name);
        }
    }

    /// Marks an entity and its bindings as uncertain, for good.
    pub(crate) fn mark_uncertain(&mut self, name: &str) {
        self.0.insert(name.to_owned(), Known::Uncertain);
        self.set_bindings(name, Known::Uncertain);
    }

    /// Returns `true` if any entity is uncertain.
    pub(crate) fn has_uncertain(&self) -> bool {
        self.0.values().any(|known| *known == Known::Uncertain)
    }

    /// Returns the entities that the client must restore.
    pub(crate) fn all_to_restore(&self) -> impl Iterator<Item = &str> {
        let all = self.0.iter();
        all.filter(|(_, known)| **known == Known::Declared)
            .map(|(name, _)| &**name)
    }

    /// Returns `true` if the client must restore the entity.
    pub(crate) fn must_be_restored(&self, name: &str) -> bool {
        self.0.get(name) == Some(&Known::Declared)
    }

    /// Returns `true` if the entity was not deleted, and is not uncertain. Recovery must restore
    /// such a server-named queue, whose first name the application need not have declared.
    pub(crate) fn is_undeleted(&self, name: &str) -> bool {
        self.0
            .get(name)
            .is_none_or(|known| *known == Known::Declared)
    }

    /// Returns the bindings of an exchange that may be restored.
    pub(crate) fn bindings(&self, exchange: &str) -> impl Iterator<Item = &str> {
        let is_from_exchange = move |name: &str| {
            name.split_once('|')
                .is_some_and(|(_, source)| source == exchange)
        };
        self.0
            .iter()
            .filter(move |(name, known)| is_from_exchange(name) && **known != Known::Deleted)
            .map(|(name, _)| &**name)
    }

    /// Returns `true` if the client must not restore the entity.
    pub(crate) fn must_be_absent(&self, name: &str) -> bool {
        matches!(self.0.get(name), None | Some(Known::Deleted))
    }
}
