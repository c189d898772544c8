//! Notices: what happens to the connection, as a stream for those who want to know.

use super::Client;
use crate::link::Link;
use crate::machine::{Connection, ListenerId, Notice};
use futures_lite::Stream;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// A stream of [`Notice`]s. It ends behind [`Notice::Closed`].
///
/// Nobody has to listen, and nobody who listens has to hurry: 256 notices wait, then the oldest are dropped, and
/// [`Notice::Lost`] says how many.
#[derive(Debug)]
#[must_use = "it does nothing unless it is listened to"]
pub struct Notices {
    link: Arc<Link>,
    listener: ListenerId,
    ended: bool,
}

impl Notices {
    /// The next notice; `None` when the connection is closed and that was told.
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
    /// Listens for what happens to the connection and is nobody's answer, from now on.
    ///
    /// Unlike other handles it does not keep the connection open: when they have all gone, it tells that the connection is
    /// closed, and ends.
    pub fn notices(&self) -> Notices {
        let link = self.handle().link().clone();
        let listener = link.with(Connection::listen);
        Notices { link, listener, ended: false }
    }
}
