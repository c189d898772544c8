//! The handle that keeps a connection open. Every client, promise, consumer and delivery has one.

use crate::link::Link;
use std::fmt;
use std::sync::Arc;

/// A shared handle. The connection is closed gracefully when the last one is dropped.
#[derive(Clone)]
pub(crate) struct Handle(Arc<CloseOnDrop>);

/// Closes the connection gracefully when it is dropped.
struct CloseOnDrop(Arc<Link>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.with(|machine| {
            let closing = machine.close();
            machine.abandon(closing);
        });
    }
}

impl Handle {
    pub(crate) fn new(link: Arc<Link>) -> Self {
        Self(Arc::new(CloseOnDrop(link)))
    }

    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.0.0
    }
}

#[cfg(feature = "evented")]
mod weak {
    use super::{CloseOnDrop, Handle};
    use std::sync::{Arc, Weak};

    /// A handle that does not keep the connection open.
    pub(crate) struct WeakHandle(Weak<CloseOnDrop>);

    impl Handle {
        pub(crate) fn downgrade(&self) -> WeakHandle {
            WeakHandle(Arc::downgrade(&self.0))
        }
    }

    impl WeakHandle {
        /// Returns a handle, if any is left.
        pub(crate) fn upgrade(&self) -> Option<Handle> {
            self.0.upgrade().map(Handle)
        }
    }
}

#[cfg(feature = "evented")]
pub(crate) use weak::WeakHandle;

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handle")
    }
}
