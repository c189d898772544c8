//! What a transport has started: consumers, and declared entities.

use puka::protocol::method::{basic, channel, exchange, queue};
use puka::protocol::{Method, MethodId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The consumers that a transport has started and the entities that it has declared, as far as the
/// observed bytes show them.
#[derive(Debug, Default)]
pub(crate) struct StartObserver {
    /// The tags whose `consume-ok` is pending, by channel.
    starting: BTreeMap<u16, VecDeque<String>>,
    /// The last refusal of each consumer that has not started since.
    refusals: BTreeMap<String, String>,
    /// The tags of all consumers that have started.
    started: BTreeSet<String>,
    /// The exchanges and bindings whose declaration is pending, by channel, in their order.
    declaring: BTreeMap<u16, VecDeque<String>>,
    /// The entities that were declared. A binding's name is `queue|exchange`.
    declared: BTreeSet<String>,
}

impl StartObserver {
    /// Records a request of the client.
    pub(crate) fn observe_request(&mut self, channel: u16, method: &Method<'_>) {
        match method {
            Method::Basic(basic::Method::Consume(it)) => {
                let tag = it.consumer_tag.to_str_lossy().into_owned();
                self.starting.entry(channel).or_default().push_back(tag);
            }
            Method::Exchange(exchange::Method::Declare(it)) => {
                let name = it.exchange.to_str_lossy().into_owned();
                self.declaring.entry(channel).or_default().push_back(name);
            }
            Method::Queue(queue::Method::Bind(it)) => {
                let name = format!("{}|{}", it.queue.to_str_lossy(), it.exchange.to_str_lossy());
                self.declaring.entry(channel).or_default().push_back(name);
            }
            _ => {}
        }
    }

    /// Records a method of the broker.
    pub(crate) fn observe_reply(&mut self, channel: u16, method: &Method<'_>) {
        match method {
            Method::Basic(basic::Method::ConsumeOk(it)) => {
                if let Some(starting) = self.starting.get_mut(&channel) {
                    starting.pop_front();
                }
                let tag = it.consumer_tag.to_str_lossy().into_owned();
                self.refusals.remove(&tag);
                self.started.insert(tag);
            }
            Method::Queue(queue::Method::DeclareOk(it)) => {
                self.declared.insert(it.queue.to_str_lossy().into_owned());
            }
            Method::Exchange(exchange::Method::DeclareOk(_))
            | Method::Queue(queue::Method::BindOk(_)) => {
                let declaring = self.declaring.get_mut(&channel);
                self.declared
                    .extend(declaring.and_then(VecDeque::pop_front));
            }
            Method::Channel(channel::Method::Close(close)) => {
                self.declaring.remove(&channel);
                let starting = self.starting.remove(&channel);
                let method = MethodId {
                    class: close.class_id,
                    method: close.method_id,
                };
                if method == basic::Consume::ID
                    && let Some(tag) = starting.and_then(|mut it| it.pop_front())
                {
                    let text = close.reply_text.to_str_lossy().into_owned();
                    self.refusals.insert(tag, text);
                }
            }
            _ => {}
        }
    }

    /// Returns the last refusal of a consumer, unless it has started since.
    pub(crate) fn refusal_of(&self, tag: &str) -> Option<&str> {
        self.refusals.get(tag).map(|text| &**text)
    }

    /// Returns `true` if a consumer has started on this transport.
    pub(crate) fn has_started(&self, tag: &str) -> bool {
        self.started.contains(tag)
    }

    /// Returns `true` if an entity was declared on this transport.
    pub(crate) fn has_declared(&self, name: &str) -> bool {
        self.declared.contains(name)
    }
}
