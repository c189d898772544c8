//! Notices: what happens to the connection and is nobody's answer, for those who listen.

use crate::error::Error;
use crate::machine::consume::consumers::Ended;
use crate::machine::ids::ListenerId;
use crate::machine::recovery::report::Recovered;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Something that happened to the connection and belongs to no request.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Notice {
    /// The broker is low on memory or disk, as its words say, and holds back publishes (RabbitMQ's
    /// `connection.blocked`).
    Blocked(Box<str>),
    /// The broker takes publishes again.
    Unblocked,
    /// Reading has been paused for half a second, because this many deliveries are buffered and not
    /// taken. Replies and confirms may be unread behind them. See
    /// [`Options::max_buffered_deliveries`](crate::Options::max_buffered_deliveries) for the rules
    /// and [`ReadingPaused`](crate::ReadingPaused) for an example.
    ReadingPaused {
        /// The buffered deliveries of all consumers.
        deliveries: usize,
        /// The bytes of those deliveries.
        bytes: usize,
    },
    /// The broker ended the consumer of that tag, most often because its queue was deleted.
    ConsumerCancelled(Box<str>),
    /// A consumer of several queues has lost one of them and goes on with the others. Either the
    /// broker ended that part of the consumer, or the queue was missing when the connection was
    /// recovered. [`Consumer::ended_queues`](crate::Consumer::ended_queues) returns all such
    /// queues.
    QueueEnded {
        /// The tag of the consumer, as [`Consumer::tag`](crate::Consumer::tag) returns it.
        tag: Box<str>,
        /// The name of the queue when the consumer was started.
        queue: Box<str>,
        /// The reason.
        why: Ended,
    },
    /// The broker closed a channel. Pending requests on it fail with the same error. For publishes
    /// without a confirm, this notice is the only report that the broker did not take some of them.
    /// No such notice follows once the connection is closed.
    ChannelClosed(Error),
    /// The connection is lost, and will be dialled again.
    Disconnected(Error),
    /// Another try begins after a while.
    Retrying {
        /// The number of the attempt, counted from when the connection was last open. An attempt
        /// tries all endpoints. If one fails in the handshake and the next follows at once, the
        /// same number is reported again.
        attempt: u32,
        /// Why the one before failed, or why the connection was lost.
        cause: Error,
        /// How long it is waited.
        delay: Duration,
    },
    /// The connection is back, and with it what is told here.
    Recovered(Box<Recovered>),
    /// A consumer has started again that was reported in [`Recovered::failed`], because the broker
    /// refused it for now. The field is its tag, as [`Consumer::tag`](crate::Consumer::tag) returns
    /// it.
    ConsumerRestored(Box<str>),
    /// More was declared than [`Recovery::max_records`](crate::Recovery::max_records) allows to be
    /// remembered, so not everything will be declared again. Told once.
    NotRecorded,
    /// The connection is closed; [`Error::Closed`] when it was from this side. It is the last
    /// notice.
    Closed(Error),
    /// The listener was slow, and so many notices that were older than the next were dropped.
    Lost(u64),
}

/// Notices that wait for one listener, before the oldest are dropped.
const MOST: usize = 256;

#[derive(Debug, Default)]
struct Listener {
    notices: VecDeque<Notice>,
    lost: u64,
    announced: bool,
}

impl Listener {
    /// Keeps a notice. True when it is to be announced.
    fn push(&mut self, notice: &Notice) -> bool {
        if self.notices.len() == MOST {
            self.notices.pop_front();
            self.lost += 1;
        }
        self.notices.push_back(notice.clone());
        !std::mem::replace(&mut self.announced, true)
    }
}

/// Who listens, and what each has not heard yet.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    listeners: BTreeMap<ListenerId, Listener>,
    issued: u64,
    announcements: VecDeque<ListenerId>,
}

impl Notices {
    pub(crate) fn listen(&mut self) -> ListenerId {
        self.issued += 1;
        let id = ListenerId(self.issued);
        self.listeners.insert(id, Listener::default());
        id
    }

    pub(crate) fn remove(&mut self, id: ListenerId) {
        self.listeners.remove(&id);
    }

    /// Tells all who listen.
    pub(crate) fn notify(&mut self, notice: &Notice) {
        for (id, listener) in &mut self.listeners {
            if listener.push(notice) {
                self.announcements.push_back(*id);
            }
        }
    }

    /// Tells one alone.
    pub(crate) fn notify_one(&mut self, id: ListenerId, notice: &Notice) {
        if self
            .listeners
            .get_mut(&id)
            .is_some_and(|listener| listener.push(notice))
        {
            self.announcements.push_back(id);
        }
    }

    /// The next notice for a listener.
    pub(crate) fn take(&mut self, id: ListenerId) -> Option<Notice> {
        let listener = self.listeners.get_mut(&id)?;
        listener.announced = false;
        if listener.lost > 0 {
            return Some(Notice::Lost(std::mem::take(&mut listener.lost)));
        }
        listener.notices.pop_front()
    }

    /// Whether [`poll_announcement`](Self::poll_announcement) has one.
    pub(crate) fn has_announcement(&self) -> bool {
        !self.announcements.is_empty()
    }

    /// The next listener that has something to hear.
    pub(crate) fn poll_announcement(&mut self) -> Option<ListenerId> {
        self.announcements.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_hears_what_happens_from_then_on() {
        let mut notices = Notices::default();
        notices.notify(&Notice::Unblocked);
        let listener = notices.listen();
        assert!(notices.take(listener).is_none());
        notices.notify(&Notice::Blocked("low on memory".into()));
        notices.notify(&Notice::Unblocked);
        assert_eq!(notices.poll_announcement(), Some(listener));
        assert_eq!(notices.poll_announcement(), None);
        assert!(
            matches!(notices.take(listener), Some(Notice::Blocked(reason)) if &*reason == "low on memory")
        );
        assert!(matches!(notices.take(listener), Some(Notice::Unblocked)));
        assert!(notices.take(listener).is_none());
    }

    #[test]
    #[cfg_attr(miri, ignore = "it takes Miri minutes")]
    fn a22_a_listener_that_does_not_listen_loses_the_oldest_and_is_told() {
        let mut notices = Notices::default();
        let (slow, gone) = (notices.listen(), notices.listen());
        notices.remove(gone);
        for number in 0..1000 {
            notices.notify(&Notice::Blocked(number.to_string().into()));
        }
        assert!(matches!(notices.take(slow), Some(Notice::Lost(744))));
        assert!(matches!(notices.take(slow), Some(Notice::Blocked(reason)) if &*reason == "744"));
        assert_eq!(std::iter::from_fn(|| notices.take(slow)).count(), MOST - 1);
        assert!(notices.take(gone).is_none());
    }
}
