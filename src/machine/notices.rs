//! Notices: events of the connection that are the result of no request.

use crate::error::{Error, FailedAttempts};
use crate::machine::consume::ended::Ended;
use crate::machine::ids::ListenerId;
use crate::machine::recovery::report::Recovered;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// An event of the connection that belongs to no request.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Notice {
    /// The broker is low on memory or disk and accepts no publishes (RabbitMQ's
    /// `connection.blocked`). The field is its reason.
    Blocked(Box<str>),
    /// The broker accepts publishes again.
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
    /// The broker ended the consumer with this tag, usually because its queue was deleted.
    ConsumerCancelled(Box<str>),
    /// The broker ended a consumer, and the client restarts it
    /// ([`Resubscribe`](crate::Resubscribe)). [`ConsumerRestored`](Self::ConsumerRestored) follows
    /// when it has started. If it cannot be restarted, it ends.
    ConsumerInterrupted {
        /// The tag of the consumer, as [`Consumer::tag`](crate::Consumer::tag) returns it.
        tag: Box<str>,
        /// Why the broker ended it.
        why: Ended,
    },
    /// A consumer of several queues has lost one of them and continues with the others. Either the
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
    /// The next attempt to connect begins after a delay.
    Retrying {
        /// The number of the attempt, counted from when the connection was last open. An attempt
        /// tries all endpoints and addresses. If one fails in the handshake and the next follows at
        /// once, the same number is reported again.
        attempt: u32,
        /// The error of the last attempt, or the cause of the loss. It is
        /// [`Error::CannotConnect`] if several endpoints or addresses have failed.
        cause: Error,
        /// What has failed in the last attempt so far: each endpoint with its address and error.
        /// After the loss of an open connection, its endpoint and address.
        failed: FailedAttempts,
        /// The delay.
        delay: Duration,
    },
    /// The connection is recovered. The report lists what was restored and what was not.
    Recovered(Box<Recovered>),
    /// A consumer has started again that was [interrupted](Self::ConsumerInterrupted), or that was
    /// listed in [`Recovered::failed`] because the broker refused it temporarily. The field is its
    /// tag, as [`Consumer::tag`](crate::Consumer::tag) returns it.
    ConsumerRestored(Box<str>),
    /// An entity is restored that was listed in [`Recovered::failed`], because the broker refused
    /// it temporarily or closed the connection over it. The field describes it as that list does.
    EntityRestored(Box<str>),
    /// More was declared than [`Recovery::max_records`](crate::Recovery::max_records) allows to be
    /// recorded, so not everything will be declared again. Reported once.
    NotRecorded,
    /// The connection is closed; [`Error::Closed`] if this side closed it. It is the last notice.
    Closed(Error),
    /// The listener was slow, and this many notices before the next one were dropped.
    Lost(u64),
}

/// The largest number of queued notices of a listener. At this number, the oldest is dropped.
const MAX_QUEUED: usize = 256;

/// A listener and its queued notices.
#[derive(Debug, Default)]
struct Listener {
    notices: VecDeque<Notice>,
    /// The number of dropped notices that is not reported yet.
    lost: u64,
    /// An event has told the program to take notices, and it has taken none since.
    announced: bool,
}

impl Listener {
    /// Queues a notice. Returns `true` if the listener has to be announced.
    fn push(&mut self, notice: &Notice) -> bool {
        if self.notices.len() == MAX_QUEUED {
            self.notices.pop_front();
            self.lost += 1;
        }
        self.notices.push_back(notice.clone());
        !std::mem::replace(&mut self.announced, true)
    }
}

/// The listeners and their queued notices.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    listeners: BTreeMap<ListenerId, Listener>,
    /// The number of listeners that were ever added.
    issued: u64,
    /// Listeners with notices, for which an event is to be reported.
    announcements: VecDeque<ListenerId>,
}

impl Notices {
    /// Adds a listener.
    pub(crate) fn listen(&mut self) -> ListenerId {
        self.issued += 1;
        let id = ListenerId(self.issued);
        self.listeners.insert(id, Listener::default());
        id
    }

    /// Removes a listener.
    pub(crate) fn remove(&mut self, id: ListenerId) {
        self.listeners.remove(&id);
    }

    /// Queues a notice for every listener.
    pub(crate) fn notify(&mut self, notice: &Notice) {
        for (id, listener) in &mut self.listeners {
            if listener.push(notice) {
                self.announcements.push_back(*id);
            }
        }
    }

    /// Queues a notice for one listener.
    pub(crate) fn notify_one(&mut self, id: ListenerId, notice: &Notice) {
        if self
            .listeners
            .get_mut(&id)
            .is_some_and(|listener| listener.push(notice))
        {
            self.announcements.push_back(id);
        }
    }

    /// Takes the next notice of a listener. The number of lost ones comes first.
    pub(crate) fn take(&mut self, id: ListenerId) -> Option<Notice> {
        let listener = self.listeners.get_mut(&id)?;
        listener.announced = false;
        if listener.lost > 0 {
            return Some(Notice::Lost(std::mem::take(&mut listener.lost)));
        }
        listener.notices.pop_front()
    }

    /// Returns `true` if [`poll_announcement`](Self::poll_announcement) will return a listener.
    pub(crate) fn has_announcement(&self) -> bool {
        !self.announcements.is_empty()
    }

    /// Returns the next listener with a notice.
    pub(crate) fn poll_announcement(&mut self) -> Option<ListenerId> {
        self.announcements.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listener_receives_only_later_notices() {
        let mut notices = Notices::default();
        notices.notify(&Notice::Unblocked);
        let listener = notices.listen();
        assert!(notices.take(listener).is_none());
        notices.notify(&Notice::Blocked("low on memory".into()));
        notices.notify(&Notice::Unblocked);
        assert_eq!(notices.poll_announcement(), Some(listener));
        assert_eq!(notices.poll_announcement(), None);
        let notice = notices.take(listener);
        assert!(matches!(notice, Some(Notice::Blocked(reason)) if &*reason == "low on memory"));
        assert!(matches!(notices.take(listener), Some(Notice::Unblocked)));
        assert!(notices.take(listener).is_none());
    }

    #[test]
    #[cfg_attr(miri, ignore = "it takes Miri minutes")]
    fn a22_slow_listener_loses_the_oldest_notices() {
        let mut notices = Notices::default();
        let (slow, gone) = (notices.listen(), notices.listen());
        notices.remove(gone);
        for number in 0..1000 {
            notices.notify(&Notice::Blocked(number.to_string().into()));
        }
        assert!(matches!(notices.take(slow), Some(Notice::Lost(744))));
        assert!(matches!(notices.take(slow), Some(Notice::Blocked(reason)) if &*reason == "744"));
        assert_eq!(
            std::iter::from_fn(|| notices.take(slow)).count(),
            MAX_QUEUED - 1
        );
        assert!(notices.take(gone).is_none());
    }
}
