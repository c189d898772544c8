//! A connection and a simple broker, in virtual time. Bytes are lost, delayed and split as an input
//! decides.

use super::little::{LittleFrame, cut};
use super::observer::Observer;
use puka::machine::{Connection, Dialled, Outgoing};
use puka::protocol::method::{Encode, basic, channel, confirm, connection, exchange, queue, tx};
use puka::protocol::{Decoder, ShortStr, Table, TableRef, frame};
use puka::{Broken, Options};
use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// More steps of time than any case takes: a deadline that does not advance is a busy loop.
const STEPS: usize = 20_000;

/// A connection, and the broker at its other end.
#[derive(Debug)]
pub struct Peer {
    /// The connection.
    pub machine: Connection,
    /// The current time.
    pub now: Instant,
    received: Decoder,
    out: Outgoing,
    /// Checks everything that the client writes.
    pub observer: Observer,
    /// The frames that the client has written and the broker has not answered.
    pub unanswered: VecDeque<LittleFrame>,
    /// The bytes that the broker has written, and how many of them have arrived.
    incoming: Vec<u8>,
    delivered: usize,
    /// The bytes of an incomplete frame that have arrived.
    arrived: Vec<u8>,
    greeted: bool,
    /// The channels that the broker has closed, until it reaches the client's `close-ok`.
    pub closed: BTreeSet<u16>,
    /// The channels whose `close` the broker has answered, until the client opens them again. The
    /// broker sends nothing on them, although its answer may still be in flight.
    let_go: BTreeSet<u16>,
    /// The broker has sent something that no broker sends.
    pub dishonest: bool,
}

/// Returns the bytes of a method frame.
pub fn method(channel: u16, it: &impl Encode) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::method(&mut bytes, channel, u32::MAX, it).expect("frame_max is unlimited");
    bytes
}

/// Returns a short string of any bytes, truncated to the maximum length.
pub fn short(bytes: &[u8]) -> ShortStr<'_> {
    ShortStr::from_bytes(bytes.get(..255).unwrap_or(bytes)).expect("it was truncated to 255 bytes")
}

/// Returns the bytes of any frame.
pub fn raw(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(channel.to_be_bytes());
    bytes.extend(
        u32::try_from(payload.len())
            .expect("the payload is smaller than 4 GiB")
            .to_be_bytes(),
    );
    bytes.extend(payload);
    bytes.push(0xCE);
    bytes
}

/// Returns the `connection.start` of a RabbitMQ server.
pub fn start() -> Vec<u8> {
    let mut properties = Table::new();
    for (name, value) in [("product", "RabbitMQ"), ("version", "4.1.0")] {
        properties.insert(name, value).expect("the table is small");
    }
    start_of(properties.as_ref(), b"PLAIN AMQPLAIN")
}

/// Returns the `connection.start` of a server with these properties and mechanisms.
pub fn start_of(server_properties: TableRef<'_>, mechanisms: &[u8]) -> Vec<u8> {
    let start = connection::Start {
        version_major: 0,
        version_minor: 9,
        server_properties,
        mechanisms,
        locales: b"en_US",
    };
    method(0, &start)
}

impl Peer {
    /// Creates a connection over a given transport.
    pub fn new(options: Options) -> Self {
        let now = Instant::now();
        Self::of(now, Connection::new(now, options))
    }

    /// Creates a connection that is dialled, and dialled again after a loss.
    pub fn dialled(options: Options) -> Self {
        let now = Instant::now();
        Self::of(now, Connection::dialled(now, options))
    }

    fn of(now: Instant, machine: Connection) -> Self {
        Self {
            machine,
            now,
            received: Decoder::new(),
            out: Outgoing::default(),
            observer: Observer::default(),
            unanswered: VecDeque::new(),
            incoming: Vec::new(),
            delivered: 0,
            arrived: Vec::new(),
            greeted: false,
            closed: BTreeSet::new(),
            let_go: BTreeSet::new(),
            dishonest: false,
        }
    }

    /// Transmits at most this many bytes. Returns `true` if there were any.
    pub fn write(&mut self, most: usize) -> bool {
        self.machine.poll_transmit(self.now, &mut self.out);
        let bytes = self.out.len().min(most);
        let mut left = bytes;
        let mut written = Vec::with_capacity(bytes);
        for piece in self.out.pieces() {
            let part = piece.len().min(left);
            written.extend_from_slice(&piece[..part]);
            left -= part;
        }
        assert_eq!(left, 0, "the length must match the pieces");
        self.out.advance(bytes);
        self.machine.handle_transmitted(self.now, bytes);
        let frames = self.observer.written(&written);
        self.unanswered.extend(frames);
        while self.machine.poll_event().is_some() {}
        bytes > 0
    }

    /// Transmits everything.
    pub fn drain(&mut self) {
        while self.write(usize::MAX) {}
    }

    /// Delivers at most this many of the broker's bytes to the client.
    pub fn arrive(&mut self, most: usize) {
        if self.dishonest {
            // The observer then judges the broker's bytes by everything that the client has
            // written.
            self.drain();
        }
        if !self.machine.wants_input() {
            return;
        }
        let bytes = &self.incoming[self.delivered..][..most.min(self.waiting())];
        let is_something = !bytes.is_empty();
        self.received.extend(bytes);
        self.arrived.extend(bytes);
        self.delivered += bytes.len();
        if self.waiting() == 0 {
            self.incoming.clear();
            self.delivered = 0;
        }
        while let Some((frame, length, _)) = cut(&self.arrived) {
            self.observer.received(&frame);
            self.arrived.drain(..length);
        }
        if is_something {
            self.machine.handle_input(self.now, &mut self.received);
        }
    }

    /// Queues bytes of the broker.
    pub fn say(&mut self, bytes: &[u8]) {
        self.incoming.extend(bytes);
    }

    /// Returns how many bytes of the broker have not arrived.
    pub fn waiting(&self) -> usize {
        self.incoming.len() - self.delivered
    }

    /// Queues bytes of the broker and delivers them.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.say(bytes);
        self.arrive(usize::MAX);
    }

    /// Answers the oldest unanswered frame. Returns `false` if there is none.
    pub fn reply(&mut self) -> bool {
        if !self.greeted && !self.machine.is_down() && !self.machine.is_closed() {
            self.greeted = true;
            self.say(&start());
            return true;
        }
        let Some(frame) = self.unanswered.pop_front() else {
            return false;
        };
        // A broker that waits for `close-ok` discards everything before it but a `close`, to which
        // it replies.
        if frame.kind == 1 && frame.id() == (20, 41) {
            self.closed.remove(&frame.channel);
        } else if !self.closed.contains(&frame.channel) || frame.kind == 1 && frame.id() == (20, 40)
        {
            self.say(&answer(&frame));
            if frame.kind == 1 {
                match frame.id() {
                    (20, 10) => drop(self.let_go.remove(&frame.channel)),
                    (20, 40) => drop(self.let_go.insert(frame.channel)),
                    _ => {}
                }
            }
        }
        true
    }

    /// Returns the channels on which the broker may send.
    pub fn channels(&self) -> Vec<u16> {
        self.observer
            .channels()
            .into_iter()
            .filter(|number| !self.let_go.contains(number))
            .collect()
    }

    /// Returns the consumers on those channels, each with its channel.
    pub fn consumers(&self) -> Vec<(u16, Vec<u8>)> {
        let consumers = self.observer.consumers().into_iter();
        consumers
            .filter(|(number, _)| !self.let_go.contains(number))
            .collect()
    }

    /// Transmits, answers and delivers everything until nothing is left.
    pub fn serve(&mut self) {
        for _ in 0..STEPS {
            self.drain();
            let replied = self.reply();
            let waits = self.waiting();
            self.arrive(usize::MAX);
            if !replied && self.waiting() == waits && self.unanswered.is_empty() {
                return;
            }
        }
        panic!("client and broker never become idle: {:?}", self.machine);
    }

    /// Advances the time and handles each deadline when it is reached. If `served`, an honest
    /// broker answers meanwhile.
    pub fn pass(&mut self, time: Duration, served: bool) {
        let end = self.now + time;
        for _ in 0..STEPS {
            if self.machine.poll_dial(self.now).is_some() {
                self.redial();
            }
            if served {
                self.serve();
            } else if !self.machine.is_down() {
                self.write(0);
            }
            let due = if self.machine.is_down() {
                self.machine.tend(self.now)
            } else {
                self.machine.poll_timeout()
            };
            match due {
                Some(at) if at <= self.now => self.machine.handle_timeout(self.now),
                Some(at) if at <= end => self.now = at,
                _ => {
                    self.now = end;
                    return;
                }
            }
        }
        panic!("the deadline does not advance: {:?}", self.machine);
    }

    /// Replaces the transport by a new one.
    pub fn redial(&mut self) {
        self.received = Decoder::new();
        self.out = Outgoing::default();
        self.observer = Observer::default();
        self.unanswered.clear();
        self.incoming.clear();
        self.delivered = 0;
        self.arrived.clear();
        self.closed.clear();
        self.let_go.clear();
        self.greeted = false;
        self.machine
            .handle_dialled(self.now, Dialled::new(0, false));
    }

    /// Loses the transport.
    pub fn lose(&mut self) {
        if !self.machine.is_down() {
            self.machine.handle_loss(Broken::Eof);
        }
    }
}

/// Returns the answer of a broker on which every entity exists.
pub fn answer(asked: &LittleFrame) -> Vec<u8> {
    if asked.kind != 1 {
        return Vec::new();
    }
    let number = asked.channel;
    let (id, fields) = asked.method();
    let text = |place: usize| short(fields[place].bytes());
    match id {
        (10, 11) => method(
            0,
            &connection::Tune {
                channel_max: 2047,
                frame_max: 131_072,
                heartbeat: 60,
            },
        ),
        (10, 40) => method(0, &connection::OpenOk {}),
        (10, 50) => method(0, &connection::CloseOk {}),
        (10, 70) => method(0, &connection::UpdateSecretOk {}),
        (20, 10) => method(number, &channel::OpenOk {}),
        (20, 40) => method(number, &channel::CloseOk {}),
        (40, 10) => method(number, &exchange::DeclareOk {}),
        (40, 20) => method(number, &exchange::DeleteOk {}),
        (40, 30) => method(number, &exchange::BindOk {}),
        (40, 40) => method(number, &exchange::UnbindOk {}),
        (50, 10) => {
            let name = if text(1).is_empty() {
                short(b"amq.gen-1")
            } else {
                text(1)
            };
            method(
                number,
                &queue::DeclareOk {
                    queue: name,
                    message_count: 0,
                    consumer_count: 0,
                },
            )
        }
        (50, 20) => method(number, &queue::BindOk {}),
        (50, 30) => method(number, &queue::PurgeOk { message_count: 0 }),
        (50, 40) => method(number, &queue::DeleteOk { message_count: 0 }),
        (50, 50) => method(number, &queue::UnbindOk {}),
        (60, 10) => method(number, &basic::QosOk {}),
        (60, 20) => method(
            number,
            &basic::ConsumeOk {
                consumer_tag: text(2),
            },
        ),
        (60, 30) => method(
            number,
            &basic::CancelOk {
                consumer_tag: text(0),
            },
        ),
        (60, 70) => method(number, &basic::GetEmpty {}),
        (60, 110) => method(number, &basic::RecoverOk {}),
        (85, 10) => method(number, &confirm::SelectOk {}),
        (90, 10) => method(number, &tx::SelectOk {}),
        (90, 20) => method(number, &tx::CommitOk {}),
        (90, 30) => method(number, &tx::RollbackOk {}),
        _ => Vec::new(),
    }
}
