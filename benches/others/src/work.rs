//! The measured work.

use crate::Outcome;
use std::fmt;

/// The maximum number of unconfirmed publishes, and of unsettled deliveries.
pub(crate) const WINDOW: u16 = 1000;

/// The exchange of the publishes. Nothing is bound to it, so the node does little more than read
/// them.
pub(crate) const EXCHANGE: &str = "amq.fanout";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Publishes without confirms. The end is a reply that the node sends after it has read
    /// everything.
    Publish,
    /// Publishes with confirms, and checks every outcome.
    Confirm,
    /// Consumes without acknowledgements.
    Consume,
    /// Acknowledges each delivery separately. The end is a reply that the node sends after it has
    /// read everything.
    Ack,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    pub(crate) kind: Kind,
    /// The number of bytes of a body.
    pub(crate) size: usize,
}

const KINDS: [Kind; 4] = [Kind::Publish, Kind::Confirm, Kind::Consume, Kind::Ack];

pub(crate) fn works() -> impl Iterator<Item = Work> {
    KINDS
        .into_iter()
        .flat_map(|kind| [16, 1024, 65_536].map(|size| Work { kind, size }))
}

impl Work {
    /// Returns how many messages a run takes: enough to keep a node busy for some tenths of a
    /// second.
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

/// The task of a program.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) url: String,
    pub(crate) work: Work,
    pub(crate) messages: u64,
    /// The queue to consume from, which contains this many messages.
    pub(crate) queue: String,
}

impl Order {
    /// Parses the arguments, which are the same for every program in any language: the last ones
    /// are the kind of work, the size, the number of messages, and the queue.
    pub(crate) fn from_arguments(url: String) -> Outcome<Self> {
        let arguments: Vec<_> = std::env::args().collect();
        let [.., kind, size, messages, queue] = arguments.as_slice() else {
            return Err("too few arguments".into());
        };
        let kind = KINDS
            .into_iter()
            .find(|known| known.to_string() == *kind)
            .ok_or("unknown work")?;
        let work = Work {
            kind,
            size: size.parse()?,
        };
        Ok(Self {
            url,
            work,
            messages: messages.parse()?,
            queue: queue.clone(),
        })
    }

    pub(crate) fn body(&self) -> Vec<u8> {
        vec![b'x'; self.work.size]
    }

    /// Checks the size of a delivery.
    ///
    /// # Panics
    /// If the delivery has another size.
    pub(crate) fn check(&self, body: &[u8]) {
        assert!(
            body.len() == self.work.size,
            "the delivery has a wrong size"
        );
    }
}
