//! The command line options.

use puka::QueueType;
use std::fmt;
use std::time::Duration;

const HELP: &str = "\
Options, each with its default:
  --producers N        tasks that publish (1)
  --consumers N        tasks that consume (1)
  --size BYTES         bytes of each body (64; the latency is measured from 8 bytes on)
  --confirms N         unconfirmed publishes of each producer; 0: no confirms (1000)
  --prefetch N         unsettled deliveries of each consumer; 0: no limit (1000)
  --acks each|none|N   one for each delivery, none, or one for every N (each)
  --rate N             messages a second of each producer; 0: unlimited (0)
  --duration SECONDS   (10)
  --queue NAME         (puka-perf)
  --queue-type TYPE    classic, quorum or stream; by default an auto-delete queue
  --svg FILE           writes a chart of the latencies
AMQP_URL is the broker; without it, one runs in the same process.";

#[derive(Debug, Clone, Copy)]
pub(crate) enum Acks {
    Each,
    Every(usize),
    None,
}

#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) producers: usize,
    pub(crate) consumers: usize,
    pub(crate) size: usize,
    pub(crate) confirms: usize,
    pub(crate) prefetch: u16,
    pub(crate) acks: Acks,
    pub(crate) rate: u32,
    pub(crate) duration: Duration,
    pub(crate) queue: String,
    pub(crate) queue_type: Option<QueueType>,
    pub(crate) svg: Option<String>,
}

fn number<N: std::str::FromStr>(name: &str, text: &str) -> Result<N, String> {
    text.parse()
        .map_err(|_| format!("{name}: invalid number {text:?}\n{HELP}"))
}

impl Settings {
    /// Parses the command line. An error is the text to print.
    pub(crate) fn from_arguments(
        mut arguments: impl Iterator<Item = String>,
    ) -> Result<Self, String> {
        let mut it = Self {
            producers: 1,
            consumers: 1,
            size: 64,
            confirms: 1000,
            prefetch: 1000,
            acks: Acks::Each,
            rate: 0,
            duration: Duration::from_secs(10),
            queue: "puka-perf".to_owned(),
            queue_type: None,
            svg: None,
        };
        while let Some(name) = arguments.next() {
            let Some(value) = arguments.next() else {
                return Err(HELP.to_owned());
            };
            match name.as_str() {
                "--producers" => it.producers = number(&name, &value)?,
                "--consumers" => it.consumers = number(&name, &value)?,
                "--size" => it.size = number(&name, &value)?,
                "--confirms" => it.confirms = number(&name, &value)?,
                "--prefetch" => it.prefetch = number(&name, &value)?,
                "--rate" => it.rate = number(&name, &value)?,
                "--duration" => it.duration = Duration::from_secs(number(&name, &value)?),
                "--queue" => it.queue = value,
                "--svg" => it.svg = Some(value),
                "--acks" => {
                    it.acks = match value.as_str() {
                        "each" => Acks::Each,
                        "none" => Acks::None,
                        every => Acks::Every(number::<usize>(&name, every)?.max(1)),
                    }
                }
                "--queue-type" => {
                    it.queue_type = Some(match value.as_str() {
                        "classic" => QueueType::Classic,
                        "quorum" => QueueType::Quorum,
                        "stream" => QueueType::Stream,
                        other => {
                            return Err(format!(
                                "--queue-type: expected classic, quorum or stream, found \
                                 {other:?}\n{HELP}"
                            ));
                        }
                    });
                }
                other => return Err(format!("unknown option {other:?}\n{HELP}")),
            }
        }
        Ok(it)
    }

    /// Returns the time between two publishes of a producer, if there is a rate.
    pub(crate) fn pause(&self) -> Option<Duration> {
        (self.rate > 0).then(|| Duration::from_secs(1) / self.rate)
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            producers,
            consumers,
            size,
            confirms,
            prefetch,
            acks,
            ..
        } = self;
        write!(
            f,
            "{producers} producers, {consumers} consumers, {size} bytes, {confirms} confirms in \
             flight, prefetch {prefetch}, acks {acks:?}"
        )
    }
}
