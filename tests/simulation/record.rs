//! What an application has declared and not deleted, as far as it can know: what has to come back.

use puka::protocol::MethodId;
use puka::protocol::method::{exchange, queue};
use puka::{Error, Peer};
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    There,
    Gone,
    /// Who knows.
    Unsure,
}

/// Queues and exchanges by name, bindings as `queue|exchange`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record(BTreeMap<String, Known>);

impl Record {
    fn set(&mut self, name: &str, known: Known) {
        let entry = self.0.entry(name.to_owned()).or_insert(known);
        if *entry != Known::Unsure {
            *entry = known;
        }
    }

    /// What was asked for is done.
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

    /// What was asked for is not done, or nobody knows.
    pub(crate) fn failed(&mut self, method: MethodId, name: &str, error: &Error) {
        // It was to go, and whether it has gone or not, it is not declared again.
        if method == queue::Delete::ID && matches!(error, Error::ConnectionBroken(_)) {
            self.set(name, Known::Gone);
            self.set_bindings(name, Known::Gone);
            return;
        }
        let refused = error
            .fault()
            .is_some_and(|fault| fault.found_by == Peer::Server && fault.method == method);
        if !refused || matches!(error, Error::NotFound(_)) {
            self.spoil(name);
        }
    }

    /// From here on nobody knows about that, or what is bound to it.
    pub(crate) fn spoil(&mut self, name: &str) {
        self.0.insert(name.to_owned(), Known::Unsure);
        self.set_bindings(name, Known::Unsure);
    }

    /// Whether that has to come back.
    pub(crate) fn is_there(&self, name: &str) -> bool {
        self.0.get(name) == Some(&Known::There)
    }

    /// Whether nothing has become of it that would keep it from coming back.
    pub(crate) fn is_unspoilt(&self, name: &str) -> bool {
        self.0.get(name).is_none_or(|known| *known == Known::There)
    }

    /// The bindings of an exchange that may come back.
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

    /// Whether that must not come back from here.
    pub(crate) fn is_not_there(&self, name: &str) -> bool {
        matches!(self.0.get(name), None | Some(Known::Gone))
    }
}
