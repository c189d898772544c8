//! A broker that stores nothing: it confirms every publish, and delivers the same message
//! repeatedly.
//!
//! It parses no more of a frame than it needs, so that the client is what is measured. A queue's
//! name is the number of bytes of the bodies of its deliveries. Its confirms are `multiple`, one
//! for each read.

use puka::protocol::frame::{self, FRAME_END};
use puka::protocol::method::{Encode, basic, channel, confirm, connection, exchange, queue};
use puka::protocol::{ContentHeader, Method, Properties, ShortStr, TableRef};

/// The number of bytes that are delivered in one piece.
const PIECE: usize = 256 << 10;

const FRAME_MAX: u32 = 131_072;

/// The number of bytes of a frame before its payload.
const HEADER: usize = frame::HEADER;

#[derive(Debug, Default)]
struct Channel {
    confirms: bool,
    published: u64,
    confirmed: u64,
    prefetch_count: u64,
}

/// A consumer's deliveries, which are built once.
#[derive(Debug)]
struct Feed {
    channel: u16,
    /// Some deliveries, each of `size` bytes, with its tag at the same offset.
    piece: Vec<u8>,
    size: usize,
    tag_at: usize,
    sent: u64,
    settled: u64,
    window: u64,
}

impl Feed {
    fn new(channel: u16, tag: ShortStr<'_>, body: usize, window: u64, piece: usize) -> Self {
        let mut one = Vec::new();
        deliver(
            &mut one,
            channel,
            tag,
            &vec![b'x'; body],
            Properties::default(),
        );
        let count = (piece / one.len()).max(1);
        let tag_at = HEADER + 4 + 1 + tag.len();
        Self {
            channel,
            size: one.len(),
            piece: one.repeat(count),
            tag_at,
            sent: 0,
            settled: 0,
            window,
        }
    }

    /// Prepares the next deliveries, as far as the window allows, and returns how many bytes they
    /// have.
    fn next(&mut self) -> usize {
        let room = self.window - (self.sent - self.settled);
        let count = (self.piece.len() / self.size).min(usize::try_from(room).unwrap_or(usize::MAX));
        for place in 0..count {
            self.sent += 1;
            let at = place * self.size + self.tag_at;
            self.piece[at..at + 8].copy_from_slice(&self.sent.to_be_bytes());
        }
        count * self.size
    }
}

/// Writes a delivery.
pub fn deliver(
    out: &mut Vec<u8>,
    channel: u16,
    tag: ShortStr<'_>,
    body: &[u8],
    properties: Properties<'_>,
) {
    let method = basic::Deliver {
        consumer_tag: tag,
        delivery_tag: 0,
        redelivered: false,
        exchange: ShortStr::EMPTY,
        routing_key: ShortStr::literal("test"),
    };
    let header = ContentHeader {
        body_size: body.len() as u64,
        properties,
    };
    let _ = frame::method(out, channel, FRAME_MAX, &method);
    let _ = frame::content_header(out, channel, FRAME_MAX, &header);
    frame::body(out, channel, FRAME_MAX, body);
}

/// The broker's end of one connection.
#[derive(Debug, Default)]
pub struct Null {
    /// The first bytes of an incomplete frame other than a body frame.
    partial: Vec<u8>,
    /// The missing bytes of a body frame, and its channel.
    skip: usize,
    skip_on: u16,
    began: bool,
    channels: Vec<Channel>,
    /// The channels with publishes to confirm.
    confirming: Vec<u16>,
    feeds: Vec<Feed>,
    next_feed: usize,
    /// The missing bytes of a content body, for each channel.
    body_left: Vec<u64>,
    answers: Vec<u8>,
    /// The replies that are being written, if no deliveries are.
    answering: Vec<u8>,
    source: Option<usize>,
    given: usize,
    written: usize,
    closed: bool,
    /// The number of queues that it has named.
    named: u64,
    /// The heartbeat interval that it proposes, in seconds.
    heartbeat: u16,
}

impl Null {
    /// Creates a broker that proposes this heartbeat interval in seconds.
    #[must_use]
    pub fn with_heartbeat(heartbeat: u16) -> Self {
        Self {
            heartbeat,
            ..Self::default()
        }
    }

    /// Loses the connection and all its state.
    pub fn restart(&mut self) {
        *self = Self {
            heartbeat: self.heartbeat,
            named: self.named,
            ..Self::default()
        };
    }

    /// Queues a heartbeat.
    pub fn beat(&mut self) {
        frame::heartbeat(&mut self.answers);
    }

    /// Returns `true` if the connection is closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Processes bytes of the client.
    pub fn take(&mut self, bytes: &[u8]) {
        let partial = std::mem::take(&mut self.partial);
        if partial.is_empty() {
            self.take_all(bytes);
        } else {
            self.take_all(&[&partial[..], bytes].concat());
        }
    }

    fn take_all(&mut self, mut bytes: &[u8]) {
        if self.skip > 0 {
            let count = self.skip.min(bytes.len());
            self.skip -= count;
            bytes = &bytes[count..];
            if self.skip == 0 {
                self.body_came(self.skip_on);
            }
        }
        if !self.began && bytes.len() >= 8 {
            self.began = true;
            bytes = &bytes[8..];
            let start = connection::Start {
                version_major: 0,
                version_minor: 9,
                server_properties: TableRef::EMPTY,
                mechanisms: b"PLAIN",
                locales: b"en_US",
            };
            self.answer(0, &start);
        }
        while self.began
            && let Some((head, rest)) = bytes.split_at_checked(HEADER)
        {
            let channel = u16::from_be_bytes([head[1], head[2]]);
            let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
            match (head[0], rest.split_at_checked(size + 1)) {
                (3, whole) => {
                    self.slot(channel);
                    self.body_left[usize::from(channel)] -= size as u64;
                    if let Some((_, rest)) = whole {
                        bytes = rest;
                        self.body_came(channel);
                        continue;
                    }
                    self.skip = size + 1 - rest.len();
                    self.skip_on = channel;
                    bytes = &[];
                }
                (_, None) => break,
                (kind, Some((payload, rest))) => {
                    assert!(payload[size] == FRAME_END, "expected frame end 0xCE");
                    self.frame(kind, channel, &payload[..size]);
                    bytes = rest;
                }
            }
        }
        self.partial.extend_from_slice(bytes);
        for number in std::mem::take(&mut self.confirming) {
            let channel = &mut self.channels[usize::from(number)];
            channel.confirmed = channel.published;
            let ack = basic::Ack {
                delivery_tag: channel.published,
                multiple: true,
            };
            self.answer(number, &ack);
        }
    }

    fn slot(&mut self, number: u16) -> &mut Channel {
        let place = usize::from(number);
        if self.channels.len() <= place {
            self.channels.resize_with(place + 1, Channel::default);
            self.body_left.resize(place + 1, 0);
        }
        &mut self.channels[place]
    }

    fn body_came(&mut self, number: u16) {
        if self.body_left[usize::from(number)] > 0 {
            return;
        }
        let channel = self.slot(number);
        channel.published += 1;
        if channel.confirms && channel.published == channel.confirmed + 1 {
            self.confirming.push(number);
        }
    }

    fn frame(&mut self, kind: u8, number: u16, payload: &[u8]) {
        match (kind, payload) {
            (1, [0, 60, 0, 40, ..]) => {}
            (1, [0, 60, 0, 80, tag @ .., multiple]) => {
                let tag = tag.first_chunk().map_or(0, |tag| u64::from_be_bytes(*tag));
                if let Some(feed) = self.feeds.iter_mut().find(|feed| feed.channel == number) {
                    feed.settled = if multiple & 1 == 1 {
                        tag
                    } else {
                        feed.settled + 1
                    };
                }
            }
            (1, payload) => self.method(number, payload),
            (2, payload) => {
                self.slot(number);
                let size = payload[4..]
                    .first_chunk()
                    .map_or(0, |size| u64::from_be_bytes(*size));
                self.body_left[usize::from(number)] = size;
                if size == 0 {
                    self.body_came(number);
                }
            }
            _ => {}
        }
    }

    fn method(&mut self, number: u16, payload: &[u8]) {
        // Methods of the client that cannot be decoded are ignored.
        let Ok(method) = Method::decode(payload) else {
            return;
        };
        match method {
            Method::Connection(connection::Method::StartOk(_)) => {
                let tune = connection::Tune {
                    channel_max: 0,
                    frame_max: FRAME_MAX,
                    heartbeat: self.heartbeat,
                };
                self.answer(0, &tune);
            }
            Method::Connection(connection::Method::Open(_)) => {
                self.answer(0, &connection::OpenOk {})
            }
            Method::Connection(connection::Method::Close(_)) => {
                self.answer(0, &connection::CloseOk {});
                self.closed = true;
            }
            Method::Channel(channel::Method::Open(_)) => {
                *self.slot(number) = Channel::default();
                self.answer(number, &channel::OpenOk {});
            }
            Method::Channel(channel::Method::Close(_)) => self.answer(number, &channel::CloseOk {}),
            Method::Confirm(confirm::Method::Select(_)) => {
                self.slot(number).confirms = true;
                self.answer(number, &confirm::SelectOk {});
            }
            Method::Queue(queue::Method::Declare(declare)) => {
                self.declare(number, declare.queue);
            }
            Method::Queue(queue::Method::Bind(_)) => self.answer(number, &queue::BindOk {}),
            Method::Exchange(exchange::Method::Declare(_)) => {
                self.answer(number, &exchange::DeclareOk {});
            }
            Method::Basic(basic::Method::Qos(qos)) => {
                self.slot(number).prefetch_count = qos.prefetch_count.into();
                self.answer(number, &basic::QosOk {});
            }
            Method::Basic(basic::Method::Consume(consume)) => self.consume(number, consume),
            Method::Basic(basic::Method::Cancel(cancel)) => {
                if let Some(feed) = self.feeds.iter_mut().find(|feed| feed.channel == number) {
                    feed.window = feed.sent - feed.settled;
                }
                self.answer(
                    number,
                    &basic::CancelOk {
                        consumer_tag: cancel.consumer_tag,
                    },
                );
            }
            _ => {}
        }
    }

    fn declare(&mut self, number: u16, queue: ShortStr<'_>) {
        let mut named = String::new();
        if queue.is_empty() {
            named = format!("amq.gen-{}", self.named);
            self.named += 1;
        }
        // The name is short enough.
        let named = ShortStr::new(&named).unwrap_or_default();
        let queue = if queue.is_empty() { named } else { queue };
        self.answer(
            number,
            &queue::DeclareOk {
                queue,
                message_count: 0,
                consumer_count: 0,
            },
        );
    }

    fn consume(&mut self, number: u16, consume: basic::Consume<'_>) {
        self.answer(
            number,
            &basic::ConsumeOk {
                consumer_tag: consume.consumer_tag,
            },
        );
        let name = consume.queue.as_str().unwrap_or_default();
        // "16", or "16 2000" if there are going to be this many consumers, which share a piece.
        let mut numbers = name.split(' ').map(|number| number.parse::<usize>());
        let (Some(Ok(body)), among) = (numbers.next(), numbers.next()) else {
            return;
        };
        let among = among.and_then(Result::ok).unwrap_or(1);
        let window = match self.slot(number).prefetch_count {
            0 => u64::MAX / 2,
            _ if consume.no_ack => u64::MAX / 2,
            count => count,
        };
        self.feeds.push(Feed::new(
            number,
            consume.consumer_tag,
            body,
            window,
            PIECE / among,
        ));
    }

    fn answer(&mut self, number: u16, method: &impl Encode) {
        let _ = frame::method(&mut self.answers, number, FRAME_MAX, method);
    }

    /// Returns the bytes to write next: replies first, then deliveries.
    pub fn pending(&mut self) -> &[u8] {
        if self.written == self.ready().len() {
            self.written = 0;
            self.given = 0;
            self.source = None;
            if self.answers.is_empty() {
                for _ in 0..self.feeds.len() {
                    self.next_feed = (self.next_feed + 1) % self.feeds.len();
                    self.given = self.feeds[self.next_feed].next();
                    if self.given > 0 {
                        self.source = Some(self.next_feed);
                        break;
                    }
                }
            } else {
                std::mem::swap(&mut self.answers, &mut self.answering);
                self.answers.clear();
                self.given = self.answering.len();
            }
        }
        let written = self.written;
        &self.ready()[written..]
    }

    fn ready(&self) -> &[u8] {
        let bytes = self
            .source
            .map_or(&self.answering, |feed| &self.feeds[feed].piece);
        &bytes[..self.given]
    }

    /// Reports that this many of the pending bytes were written.
    pub fn wrote(&mut self, bytes: usize) {
        self.written += bytes;
    }
}
