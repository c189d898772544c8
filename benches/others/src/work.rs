//! What is measured.

use crate::Outcome;
use std::fmt;
use std::time::Duration;

/// Publishes without a confirm, and deliveries without an ack, at a time.
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

const fn work(kind: Kind, size: usize) -> Work {
    Work { kind, size }
}

pub(crate) const WORKS: [Work; 12] = [
    work(Kind::Publish, 16),
    work(Kind::Publish, 1024),
    work(Kind::Publish, 65_536),
    work(Kind::Confirm, 16),
    work(Kind::Confirm, 1024),
    work(Kind::Confirm, 65_536),
    work(Kind::Consume, 16),
    work(Kind::Consume, 1024),
    work(Kind::Consume, 65_536),
    work(Kind::Ack, 16),
    work(Kind::Ack, 1024),
    work(Kind::Ack, 65_536),
];

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
        let kinds = [Kind::Publish, Kind::Confirm, Kind::Consume, Kind::Ack];
        let kind = kinds.into_iter().find(|known| known.to_string() == *kind).ok_or("no such work")?;
        let work = work(kind, size.parse()?);
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

#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) messages: u64,
    pub(crate) time: Duration,
    pub(crate) cpu: Duration,
}

impl Sample {
    pub(crate) fn rate(&self) -> f64 {
        self.messages as f64 / self.time.as_secs_f64()
    }

    /// Seconds of the processor a message.
    pub(crate) fn cost(&self) -> f64 {
        self.cpu.as_secs_f64() / self.messages as f64
    }
}
