//! What a user may ask of a connection, as data.

use crate::protocol::{Properties, ShortStr, TableRef};
use bytes::Bytes;

/// The smallest body in bytes that is written from its own memory instead of being copied: about
/// where a copy costs more than another piece in a vectored write.
pub(crate) const COPIED_BODY: usize = 4 << 10;

/// The body of a message to publish: octets to copy, or to share when they are many.
#[derive(Clone, Debug)]
pub enum Body<'a> {
    /// Copied before the call returns.
    Borrowed(&'a [u8]),
    /// Shared until it is written, if it is large.
    Shared(Bytes),
    /// As [`Shared`](Self::Shared), made of a vector or a string. Dropping it runs no code of the
    /// user.
    Owned(Bytes),
    /// As [`Shared`](Self::Shared), of somebody who keeps it.
    Lent(&'a Bytes),
}

impl Body<'_> {
    /// The octets.
    #[must_use]
    pub fn as_octets(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Shared(bytes) | Self::Owned(bytes) => bytes,
            Self::Lent(bytes) => bytes,
        }
    }

    /// The same body, as long as this one is kept.
    #[inline]
    pub(crate) fn lend(&self) -> Body<'_> {
        match self {
            Self::Borrowed(bytes) => Body::Borrowed(bytes),
            Self::Shared(bytes) | Self::Owned(bytes) => Body::Lent(bytes),
            Self::Lent(bytes) => Body::Lent(bytes),
        }
    }

    /// What can be shared, if it can.
    #[inline]
    pub(crate) fn as_bytes(&self) -> Option<&Bytes> {
        match self {
            Self::Borrowed(_) => None,
            Self::Shared(bytes) | Self::Owned(bytes) => Some(bytes),
            Self::Lent(bytes) => Some(bytes),
        }
    }

    /// Returns the bytes that the state machine stores: a copy of a small body, as when it is
    /// written, else a share.
    pub(crate) fn to_bytes(&self) -> Bytes {
        let shared = self.as_bytes().filter(|bytes| bytes.len() >= COPIED_BODY);
        shared.map_or_else(|| Bytes::copy_from_slice(self.as_octets()), Bytes::clone)
    }

    /// Returns the body that the state machine would share, if dropping it may run the user's code:
    /// [`Bytes`] may have any owner.
    #[inline]
    pub(crate) fn users_own(&self) -> Option<&Bytes> {
        let users = match self {
            Self::Borrowed(_) | Self::Owned(_) => return None,
            Self::Shared(bytes) => bytes,
            Self::Lent(bytes) => *bytes,
        };
        (users.len() >= COPIED_BODY).then_some(users)
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
    /// The exchange; empty for the default one.
    pub exchange: ShortStr<'a>,
    /// The routing key.
    pub routing_key: ShortStr<'a>,
    /// Comes back when no queue is bound for it.
    pub mandatory: bool,
    /// Comes back when no consumer is ready for it.
    pub immediate: bool,
    /// The properties, but for the headers.
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
    /// Messages that may be unsettled; 0 for no limit.
    pub prefetch_count: u16,
    /// Not the messages of this connection. RabbitMQ ignores it.
    pub no_local: bool,
    /// Messages count as settled when they are sent.
    pub no_ack: bool,
    /// The only consumer of the queue.
    pub exclusive: bool,
    /// `x-priority` and the like.
    pub arguments: TableRef<'a>,
}

/// How a delivery is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settle {
    /// It is done.
    Ack {
        /// Those before it on its channel, too.
        multiple: bool,
    },
    /// It is not.
    Nack {
        /// Those before it on its channel, too.
        multiple: bool,
        /// Back to the queue, or else dropped or dead-lettered.
        requeue: bool,
    },
    /// It is not, in the words of AMQP without extensions.
    Reject {
        /// Back to the queue, or else dropped or dead-lettered.
        requeue: bool,
    },
}
