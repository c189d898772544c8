//! The stream of notices about the connection.

use super::Client;
use crate::link::Link;
use crate::machine::{Connection, ListenerId, Notice};
use futures_lite::Stream;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// A stream of [`Notice`]s. It ends after [`Notice::Closed`].
///
/// A stream buffers 256 notices. If there are more, the oldest are dropped, and [`Notice::Lost`]
/// reports their number.
#[derive(Debug)]
#[must_use = "streams do nothing unless polled"]
pub struct Notices {
    link: Arc<Link>,
    listener: ListenerId,
    ended: bool,
}

impl Notices {
    /// Returns the next notice, or `None` after [`Notice::Closed`].
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Notice> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Stream for Notices {
    type Item = Notice;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Notice>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let notice = self.link.poll_notice(self.listener, cx);
        if let Poll::Ready(Notice::Closed(_)) = &notice {
            self.ended = true;
        }
        notice.map(Some)
    }
}

impl Drop for Notices {
    fn drop(&mut self) {
        self.link.stop_listening(self.listener);
    }
}

impl Client {
    /// Returns a stream of the notices from now on: events of the connection that are not the reply
    /// to a request.
    ///
    /// The stream does not keep the connection open. When all clients, promises, consumers and
    /// deliveries are dropped, it returns [`Notice::Closed`] and ends.
    pub fn notices(&self) -> Notices {
        let link = self.handle().link().clone();
        let listener = link.with(Connection::listen);
        Notices {
            link,
            listener,
            ended: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Broken;
    use crate::options::Options;
    use std::time::Instant;

    #[test]
    fn dropped_notices_are_not_stored() {
        let machine = Connection::new(Instant::now(), Options::default());
        let client = Client::new(Link::new(machine));
        let (dropped, kept) = (client.notices(), client.notices());
        let (link, listener) = (dropped.link.clone(), dropped.listener);
        drop(dropped);
        link.with(|machine| {
            machine.handle_loss(Broken::Eof);
            assert!(machine.take_notice(listener).is_none());
            assert!(machine.take_notice(kept.listener).is_some());
        });
    }
}
