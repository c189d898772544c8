//! Received frames, and methods with their content.

use bytes::Bytes;
use puka::protocol::method::basic;
use puka::protocol::{ContentHeader, FrameKind, Method, Properties, TableRef};

/// A received frame.
#[derive(Clone)]
pub(crate) struct Received {
    pub(crate) kind: FrameKind,
    pub(crate) channel: u16,
    pub(crate) payload: Bytes,
}

impl Received {
    pub(crate) fn method(&self) -> Method<'_> {
        assert_eq!(
            self.kind,
            FrameKind::Method,
            "channel {}: {:?}",
            self.channel,
            self.payload
        );
        Method::decode(&self.payload).unwrap()
    }
}

impl std::fmt::Debug for Received {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.kind {
            FrameKind::Method => write!(f, "{}: {:?}", self.channel, self.method()),
            kind => write!(f, "{}: {kind:?} {:?}", self.channel, self.payload),
        }
    }
}

/// A method with its content.
pub(crate) struct Message {
    pub(crate) method: Received,
    pub(crate) header: Bytes,
    pub(crate) body: Vec<u8>,
    /// The size of the payload of each body frame, in bytes.
    pub(crate) frames: Vec<usize>,
}

impl Message {
    pub(crate) fn properties(&self) -> Properties<'_> {
        ContentHeader::decode(&self.header).unwrap().properties
    }

    pub(crate) fn headers(&self) -> TableRef<'_> {
        self.properties().headers.unwrap().table().unwrap()
    }

    pub(crate) fn deliver(&self) -> basic::Deliver<'_> {
        match self.method.method() {
            Method::Basic(basic::Method::Deliver(method)) => method,
            other => panic!("expected basic.deliver, got {other:?}"),
        }
    }

    pub(crate) fn get_ok(&self) -> basic::GetOk<'_> {
        match self.method.method() {
            Method::Basic(basic::Method::GetOk(method)) => method,
            other => panic!("expected basic.get-ok, got {other:?}"),
        }
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}
