//! The arguments of the calls of a program.

use crate::options::{OnDrop, Resubscribe};
use crate::protocol::{Properties, ShortStr, TableRef};
use bytes::Bytes;

/// The smallest body in bytes that is written from its own memory instead of being copied. A
/// smaller one is cheaper to copy than to write as another piece of a vectored write.
pub(crate) const COPIED_BODY: usize = 4 << 10;

/// The body of a message to publish. Small ones are copied, large ones are shared.
#[derive(Clone, Debug)]
pub enum Body<'a> {
    /// Copied before the call returns.
    Borrowed(&'a [u8]),
    /// Shared until it is written, if it is large.
    Shared(Bytes),
    /// As [`Shared`](Self::Shared), made from a vector or a string. Dropping it runs no code of the
    /// user.
    Owned(Bytes),
    /// As [`Shared`](Self::Shared), borrowed.
    Lent(&'a Bytes),
}

impl Body<'_> {
    /// Returns the bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Shared(bytes) | Self::Owned(bytes) => bytes,
            Self::Lent(bytes) => bytes,
        }
    }

    /// Returns the same body, borrowed from this one.
    #[inline]
    pub(crate) fn as_borrowed(&self) -> Body<'_> {
        match self {
            Self::Borrowed(bytes) => Body::Borrowed(bytes),
            Self::Shared(bytes) | Self::Owned(bytes) => Body::Lent(bytes),
            Self::Lent(bytes) => Body::Lent(bytes),
        }
    }

    /// Returns the bytes to share, or `None` for a borrowed body.
    #[inline]
    pub(crate) fn as_shared(&self) -> Option<&Bytes> {
        match self {
            Self::Borrowed(_) => None,
            Self::Shared(bytes) | Self::Owned(bytes) => Some(bytes),
            Self::Lent(bytes) => Some(bytes),
        }
    }

    /// Returns the bytes that the state machine stores: a copy of a small body, as when it is
    /// written, else a share.
    pub(crate) fn to_bytes(&self) -> Bytes {
        let shared = self.as_shared().filter(|bytes| bytes.len() >= COPIED_BODY);
        shared.map_or_else(|| Bytes::copy_from_slice(self.as_bytes()), Bytes::clone)
    }

    /// Returns the body that the state machine would share, if dropping it may run the user's code:
    /// [`Bytes`] may have any owner.
    #[inline]
    pub(crate) fn user_owned(&self) -> Option<&Bytes> {
        let bytes = match self {
            Self::Borrowed(_) | Self::Owned(_) => return None,
            Self::Shared(bytes) => bytes,
            Self::Lent(bytes) => *bytes,
        };
        (bytes.len() >= COPIED_BODY).then_some(bytes)
    }
}

macro_rules! body_from {
    ($($ty:ty => $variant:ident $convert:expr;)*) => {
        $(impl<'a> From<$ty> for Body<'a> {
            fn from(bytes: $ty) -> Self {
                Self::$variant($convert(bytes))
            }
        })*
    };
}

body_from! {
    &'a [u8] => Borrowed std::convert::identity;
    &'a Vec<u8> => Borrowed Vec::as_slice;
    &'a str => Borrowed str::as_bytes;
    &'a String => Borrowed String::as_bytes;
    Vec<u8> => Owned Bytes::from;
    String => Owned Bytes::from;
    Bytes => Shared std::convert::identity;
    &'a Bytes => Lent std::convert::identity;
}

impl<'a, const N: usize> From<&'a [u8; N]> for Body<'a> {
    fn from(bytes: &'a [u8; N]) -> Self {
        Self::Borrowed(bytes)
    }
}

/// A message to publish.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a request is all its fields")]
pub struct Publish<'a> {
    /// The exchange, or an empty name for the default one.
    pub exchange: ShortStr<'a>,
    /// The routing key.
    pub routing_key: ShortStr<'a>,
    /// The broker returns the message if it cannot be routed to a queue.
    pub mandatory: bool,
    /// The broker returns the message if no consumer can receive it at once.
    pub immediate: bool,
    /// The properties without the headers.
    pub properties: &'a Properties<'a>,
    /// The headers.
    pub headers: Option<TableRef<'a>>,
    /// The body.
    pub body: Body<'a>,
}

/// A consumer to start.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a request is all its fields")]
pub struct Consume<'a> {
    /// The queue.
    pub queue: ShortStr<'a>,
    /// The user's part of the consumer tag.
    pub tag: &'a str,
    /// The maximum number of unsettled messages; 0 for no limit.
    pub prefetch_count: u16,
    /// Messages that this connection has published are not delivered. RabbitMQ ignores it.
    pub no_local: bool,
    /// The broker counts messages as settled when it sends them.
    pub no_ack: bool,
    /// No other consumer of the queue is allowed.
    pub exclusive: bool,
    /// Arguments such as `x-priority`.
    pub arguments: TableRef<'a>,
    /// Whether it is restarted when the broker ends it; `None` for
    /// [`Recovery::resubscribe`](crate::Recovery::resubscribe), and never without recovery.
    pub resubscribe: Option<Resubscribe>,
    /// What happens to deliveries that the program drops without settling them.
    pub on_drop: OnDrop,
}

impl Consume<'_> {
    /// Returns the settings that several queues of one consumer would share.
    pub(crate) fn settings(&self) -> ConsumerSettings {
        ConsumerSettings {
            prefetch_count: self.prefetch_count,
            no_ack: self.no_ack,
            resubscribe: self.resubscribe,
            on_drop: self.on_drop,
        }
    }
}

/// The settings that the queues of a consumer share. They replace those of each [`Consume`].
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "a request is all its fields")]
pub struct ConsumerSettings {
    /// The maximum number of unsettled messages of all queues; 0 for no limit.
    pub prefetch_count: u16,
    /// The broker counts messages as settled when it sends them.
    pub no_ack: bool,
    /// Whether it is restarted when the broker ends it, as for [`Consume::resubscribe`].
    pub resubscribe: Option<Resubscribe>,
    /// What happens to deliveries that the program drops without settling them.
    pub on_drop: OnDrop,
}

/// How a delivery is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settle {
    /// The message is processed.
    Ack {
        /// Settles earlier deliveries on its channel, too.
        multiple: bool,
    },
    /// The message is not processed (`basic.nack`, an extension of RabbitMQ).
    Nack {
        /// Settles earlier deliveries on its channel, too.
        multiple: bool,
        /// Requeues the message. If `false`, it is dropped or dead-lettered.
        requeue: bool,
    },
    /// The message is not processed (`basic.reject`, AMQP without extensions).
    Reject {
        /// Requeues the message. If `false`, it is dropped or dead-lettered.
        requeue: bool,
    },
}

impl Settle {
    /// Returns `true` if earlier deliveries are settled, too.
    #[inline]
    pub(crate) fn is_multiple(self) -> bool {
        match self {
            Self::Ack { multiple } | Self::Nack { multiple, .. } => multiple,
            Self::Reject { .. } => false,
        }
    }
}
