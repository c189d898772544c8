//! The steps of a replay.

use crate::machine::recovery::bindings::{Binding, Name};
use crate::options::Entity;
use std::borrow::Cow;

/// The groups of steps, which are replayed one after another. Each group may need the ones before
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StepGroup {
    /// Exchanges and the bindings between them.
    Exchanges,
    /// Queues that the broker names. They come before other queues, whose arguments may contain
    /// their new names.
    ServerNamedQueues,
    OtherQueues,
    QueueBindings,
}

impl StepGroup {
    /// Returns the group that follows, or `None` after the last.
    pub(crate) fn next(self) -> Option<Self> {
        match self {
            Self::Exchanges => Some(Self::ServerNamedQueues),
            Self::ServerNamedQueues => Some(Self::OtherQueues),
            Self::OtherQueues => Some(Self::QueueBindings),
            Self::QueueBindings => None,
        }
    }
}

/// A step of the replay: an entity to declare. The order of the variants is that of the
/// dependencies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ReplayStep {
    Exchange(Name),
    Queue(Name),
    Binding(Binding),
}

/// Returns a name as text. An invalid UTF-8 sequence is replaced.
fn text(name: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(name)
}

impl ReplayStep {
    /// Returns the entities that must exist for this step: those that a binding connects.
    pub(crate) fn needs(&self) -> Vec<Self> {
        let Self::Binding(binding) = self else {
            return Vec::new();
        };
        let to = if binding.is_to_exchange() {
            Self::Exchange
        } else {
            Self::Queue
        };
        vec![
            Self::Exchange(binding.source().into()),
            to(binding.destination().into()),
        ]
    }

    /// Calls `ask` with the entity that this step declares, as a user's filter receives it.
    pub(crate) fn with_entity<R>(&self, ask: impl FnOnce(&Entity<'_>) -> R) -> R {
        match self {
            Self::Exchange(name) => ask(&Entity::Exchange(&text(name))),
            Self::Queue(name) => ask(&Entity::Queue(&text(name))),
            Self::Binding(binding) => {
                let (to, source) = (binding.destination(), binding.source());
                let (to, source) = (to.to_str_lossy(), source.to_str_lossy());
                let routing_key = binding.routing_key().to_str_lossy();
                ask(&if binding.is_to_exchange() {
                    Entity::ExchangeBinding {
                        destination: &to,
                        source: &source,
                        routing_key: &routing_key,
                    }
                } else {
                    Entity::QueueBinding {
                        queue: &to,
                        exchange: &source,
                        routing_key: &routing_key,
                    }
                })
            }
        }
    }

    /// Describes the entity for the report.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Exchange(name) => format!("exchange {:?}", text(name)),
            Self::Queue(name) => format!("queue {:?}", text(name)),
            Self::Binding(binding) => {
                let to = if binding.is_to_exchange() {
                    "exchange"
                } else {
                    "queue"
                };
                let (destination, source) = (binding.destination(), binding.source());
                let routing_key = binding.routing_key();
                format!("{to} {destination:?} bound to {source:?} by {routing_key:?}")
            }
        }
    }
}
