//! What is measured.

use crate::Outcome;
use std::fmt;

/// Publishes that wait for their confirm, and deliveries that wait for their ack, at a time.
pub(crate) const WINDOW: u16 = 1000;

/// Where publishes go: nothing is bound to it, so the node does little more than to read them.
pub(crate) const EXCHANGE: &str = "amq.fanout";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nobody looks at what becomes of a message. The end is an answer that the node gives when it has read all.
    Publish,
    /// Every outcome is looked at.
    Confirm,
    /// Without acknowledgements.
    Consume,
    /// Each delivery is acknowledged by itself. The end is an answer that the node gives when it has read all.
    Ack,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    pub(crate) kind: Kind,
    /// Octets of a body.
    pub(crate) size: usize,
}

const KINDS: [Kind; 4] = [Kind::Publish, Kind::Confirm, Kind::Consume, Kind::Ack];

pub(crate) fn works() -> impl Iterator<Item = Work> {
    KINDS.into_iter().flat_map(|kind| [16, 1024, 65_536].map(|size| Work { kind, size }))
}

impl Work {
    /// How many a run takes: what keeps a node busy for some tenths of a second.
    pub(crate) const fn messages(self) -> u64 {
        match (self.kind, self.size) {
            (Kind::Publish | Kind::Confirm, ..=1024) => 50_000,
            (Kind::Publish | Kind::Confirm, _) => 4000,
            (Kind::Consume | Kind::Ack, ..=1024) => 20_000,
            (Kind::Consume | Kind::Ack, _) => 2000,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Publish => "publish",
            Self::Confirm => "confirm",
            Self::Consume => "consume",
            Self::Ack => "ack",
        })
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.size)
    }
}

/// What a program is told to do.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) url: String,
    pub(crate) work: Work,
    pub(crate) messages: u64,
    /// What is consumed: it holds that many messages.
    pub(crate) queue: String,
}

impl Order {
    /// As every program is called, whatever it is written in: the last arguments are the kind of work, the size, the number
    /// of messages, and the queue.
    pub(crate) fn from_arguments(url: String) -> Outcome<Self> {
        let arguments: Vec<_> = std::env::args().collect();
        let [.., kind, size, messages, queue] = arguments.as_slice() else {
            return Err("too few arguments".into());
        };
        let kind = KINDS.into_iter().find(|known| known.to_string() == *kind).ok_or("no such work")?;
        let work = Work { kind, size: size.parse()? };
        Ok(Self { url, work, messages: messages.parse()?, queue: queue.clone() })
    }

    pub(crate) fn body(&self) -> Vec<u8> {
        vec![b'x'; self.work.size]
    }

    /// # Panics
    /// Unless a delivery is whole.
    pub(crate) fn check(&self, body: &[u8]) {
        assert!(body.len() == self.work.size, "a delivery that is not whole");
    }
}
