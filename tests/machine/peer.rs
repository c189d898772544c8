//! A scripted server and its state machine. Bytes move between them when the test moves them.

use puka::machine::{
    Body, Connection, Consume, ConsumerId, ConsumerSettings, Delivered, Dialled, Dialling,
    Outgoing, PromiseId, Publish, Reply,
};
use puka::protocol::method::{Encode, basic, channel, confirm, connection, exchange, queue};
use puka::protocol::{
    ContentHeader, Decoder, FrameKind, Method, MethodId, Properties, ShortStr, Table, TableRef,
    frame,
};
use puka::{Broken, Error, Options};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A frame that the state machine wrote.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) kind: FrameKind,
    pub(crate) channel: u16,
    pub(crate) payload: Vec<u8>,
}

impl Sent {
    /// Returns the method of a method frame.
    pub(crate) fn method(&self) -> Method<'_> {
        assert_eq!(self.kind, FrameKind::Method, "{self:?}");
        Method::decode(&self.payload).unwrap()
    }

    /// Returns the channel and the method, such as `1 queue.declare`, or the kind of frame.
    pub(crate) fn name(&self) -> String {
        match self.kind {
            FrameKind::Method => format!("{} {}", self.channel, self.method().id()),
            FrameKind::Header => {
                format!(
                    "{} header {}",
                    self.channel,
                    ContentHeader::decode(&self.payload).unwrap().body_size
                )
            }
            FrameKind::Body => format!("{} body {}", self.channel, self.payload.len()),
            FrameKind::Heartbeat => "heartbeat".to_owned(),
            FrameKind::ProtocolHeader => "protocol header".to_owned(),
        }
    }

    /// Returns `true` for a frame with this method.
    pub(crate) fn is(&self, id: MethodId) -> bool {
        self.kind == FrameKind::Method && self.method().id() == id
    }
}

/// Both ends of a connection.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) machine: Connection,
    pub(crate) now: Instant,
    /// Decodes the server's bytes for the state machine.
    received: Decoder,
    /// Decodes the state machine's bytes for the server.
    sent: Decoder,
    /// Frames that the state machine has written and the test has not taken.
    pub(crate) inbox: VecDeque<Sent>,
    /// Filters run as soon as they are due, as with a driver.
    pub(crate) runs_filters: bool,
}

/// Returns a short string.
pub(crate) fn short(text: &str) -> ShortStr<'_> {
    ShortStr::new(text).unwrap()
}

/// Returns a `connection.tune`.
pub(crate) fn tune(channel_max: u16, frame_max: u32, heartbeat: u16) -> connection::Tune {
    connection::Tune {
        channel_max,
        frame_max,
        heartbeat,
    }
}

/// Returns the bytes of a method frame.
pub(crate) fn method(channel: u16, method: &impl Encode) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::method(&mut bytes, channel, u32::MAX, method).unwrap();
    bytes
}

/// Returns the bytes of a content header frame.
pub(crate) fn header(channel: u16, body_size: u64, properties: Properties<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::content_header(
        &mut bytes,
        channel,
        u32::MAX,
        &ContentHeader {
            body_size,
            properties,
        },
    )
    .unwrap();
    bytes
}

/// Returns the bytes of any frame.
pub(crate) fn raw(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(channel.to_be_bytes());
    bytes.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
    bytes.extend(payload);
    bytes.push(frame::FRAME_END);
    bytes
}

/// Returns the bytes of a `connection.start`.
pub(crate) fn start(properties: &Table, mechanisms: &[u8]) -> Vec<u8> {
    let start = connection::Start {
        version_major: 0,
        version_minor: 9,
        server_properties: properties.as_ref(),
        mechanisms,
        locales: b"en_US",
    };
    method(0, &start)
}

/// Returns RabbitMQ's server properties, shortened.
pub(crate) fn rabbitmq() -> Table {
    let mut properties = Table::new();
    properties.insert("product", "RabbitMQ").unwrap();
    properties.insert("version", "4.1.0").unwrap();
    properties.insert("cluster_name", "rabbit@node").unwrap();
    properties
}

/// Returns the server properties of LavinMQ. It lists all capabilities of RabbitMQ.
pub(crate) fn lavinmq() -> Table {
    let mut capabilities = Table::new();
    for name in [
        "publisher_confirms",
        "exchange_exchange_bindings",
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        "consumer_priorities",
        "authentication_failure_close",
        "per_consumer_qos",
        "direct_reply_to",
    ] {
        capabilities.insert(name, true).unwrap();
    }
    let mut properties = Table::new();
    properties.insert("product", "LavinMQ").unwrap();
    properties.insert("platform", "Crystal 1.16.0").unwrap();
    properties.insert("version", "2.9.0").unwrap();
    properties.insert("capabilities", &capabilities).unwrap();
    properties
}

/// Returns a `connection.close`.
pub(crate) fn close(code: u16, text: &str) -> connection::Close<'_> {
    connection::Close {
        reply_code: code,
        reply_text: short(text),
        class_id: 0,
        method_id: 0,
    }
}

/// Returns a `channel.close`.
pub(crate) fn channel_close(code: u16, text: &str) -> channel::Close<'_> {
    channel::Close {
        reply_code: code,
        reply_text: short(text),
        class_id: 0,
        method_id: 0,
    }
}

/// Returns a declare of a queue without flags.
pub(crate) fn declare(name: &str) -> queue::Declare<'_> {
    queue::Declare {
        queue: short(name),
        passive: false,
        durable: false,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments: TableRef::EMPTY,
    }
}

/// Returns a consumer of a queue, with a tag of the client.
pub(crate) fn consume(queue: &str) -> Consume<'_> {
    Consume {
        queue: short(queue),
        tag: "",
        prefetch_count: 0,
        no_local: false,
        no_ack: false,
        exclusive: false,
        arguments: TableRef::EMPTY,
        resubscribe: None,
        on_drop: puka::OnDrop::default(),
    }
}

/// Returns the settings of a consumer of several queues with acks.
pub(crate) fn shared(prefetch_count: u16) -> ConsumerSettings {
    ConsumerSettings {
        prefetch_count,
        ..ConsumerSettings::default()
    }
}

/// Returns a publish to an exchange, with the routing key `key`.
pub(crate) fn publish<'a>(exchange: &'a str, body: impl Into<Body<'a>>) -> Publish<'a> {
    Publish {
        exchange: short(exchange),
        routing_key: short("key"),
        mandatory: false,
        immediate: false,
        properties: &Properties::NONE,
        headers: None,
        body: body.into(),
    }
}

/// Returns a `basic.ack`.
pub(crate) fn ack(delivery_tag: u64, multiple: bool) -> basic::Ack {
    basic::Ack {
        delivery_tag,
        multiple,
    }
}

impl Peer {
    /// Returns a state machine that has not written anything.
    pub(crate) fn new(options: Options) -> Self {
        let now = Instant::now();
        Self {
            machine: Connection::new(now, options),
            now,
            received: Decoder::new(),
            sent: Decoder::new(),
            inbox: VecDeque::new(),
            runs_filters: true,
        }
    }

    /// Returns an open connection that dials again after a loss.
    pub(crate) fn dialled(options: Options) -> Self {
        let mut peer = Self::undialled(options);
        peer.dial();
        peer.complete_handshake(tune(2047, 131_072, 60));
        peer
    }

    /// Returns a connection that waits to be dialled.
    pub(crate) fn undialled(options: Options) -> Self {
        let now = Instant::now();
        let machine = Connection::dialled(now, options);
        let (received, sent) = (Decoder::new(), Decoder::new());
        Self {
            machine,
            now,
            received,
            sent,
            inbox: VecDeque::new(),
            runs_filters: true,
        }
    }

    /// Advances time until a dial is due, and completes it. Returns the number of attempts.
    pub(crate) fn dial(&mut self) -> u32 {
        let dialling = self.until_dialling();
        self.received = Decoder::new();
        self.sent = Decoder::new();
        self.inbox.clear();
        self.machine
            .handle_dialled(self.now, Dialled::new(dialling.first, false));
        dialling.attempt
    }

    /// Advances time until a dial is due. Returns what to dial.
    pub(crate) fn until_dialling(&mut self) -> Dialling {
        for _ in 0..1000 {
            if let Some(dialling) = self.machine.poll_dial(self.now) {
                return dialling;
            }
            let next = self.machine.tend(self.now).expect("a dial is due later");
            self.now = self.now.max(next);
            self.machine.handle_timeout(self.now);
        }
        panic!("no dial becomes due");
    }

    /// Loses the transport and dials another.
    pub(crate) fn reconnect(&mut self) {
        self.machine.handle_loss(Broken::Eof);
        self.dial();
        self.complete_handshake(tune(2047, 131_072, 60));
    }

    /// Returns an open connection with RabbitMQ's limits.
    pub(crate) fn open(options: Options) -> Self {
        Self::open_with(options, tune(2047, 131_072, 60))
    }

    /// Returns an open connection with these limits of the server.
    pub(crate) fn open_with(options: Options, tune: connection::Tune) -> Self {
        let mut peer = Self::new(options);
        peer.complete_handshake(tune);
        peer
    }

    /// Lets the server decode large frames before the handshake has negotiated any.
    pub(crate) fn decode_large_frames(&mut self) {
        self.sent.set_frame_max(1 << 24);
    }

    /// Completes the handshake with these limits of the server.
    pub(crate) fn complete_handshake(&mut self, tune: connection::Tune) {
        self.complete_handshake_with(&rabbitmq(), tune);
    }

    /// Completes the handshake with these properties and limits of the server.
    pub(crate) fn complete_handshake_with(&mut self, properties: &Table, tune: connection::Tune) {
        assert_eq!(self.names(), ["protocol header"]);
        self.feed(&start(properties, b"PLAIN AMQPLAIN"));
        assert_eq!(self.names(), ["0 connection.start-ok"]);
        self.method(0, &tune);
        self.sent.set_frame_max(1 << 24);
        assert_eq!(self.names(), ["0 connection.tune-ok", "0 connection.open"]);
        self.method(0, &connection::OpenOk {});
    }

    /// Lets the state machine write, and the transport accept all of it.
    pub(crate) fn pump(&mut self) {
        let mut out = Outgoing::default();
        while self.machine.poll_transmit(self.now, &mut out) {
            let bytes = out.len();
            let pieces: Vec<Vec<u8>> = out.pieces().map(<[u8]>::to_vec).collect();
            pieces.iter().for_each(|piece| self.sent.extend(piece));
            out.advance(bytes);
            self.machine.handle_transmitted(self.now, bytes);
        }
        while let Some(frame) = self
            .sent
            .next_frame()
            .expect("the state machine writes valid frames")
        {
            let (kind, channel) = (frame.kind(), frame.channel());
            self.inbox.push_back(Sent {
                kind,
                channel,
                payload: frame.payload().to_vec(),
            });
        }
        assert!(
            self.sent.pending().is_empty(),
            "the state machine writes whole frames"
        );
        while self.machine.poll_event().is_some() {}
    }

    /// Takes the frames that were written since the last call.
    pub(crate) fn take(&mut self) -> Vec<Sent> {
        self.pump();
        self.inbox.drain(..).collect()
    }

    /// Returns the names of the frames that were written since the last look.
    pub(crate) fn names(&mut self) -> Vec<String> {
        self.take().iter().map(Sent::name).collect()
    }

    /// Feeds bytes of the server.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.received.extend(bytes);
        self.machine.handle_input(self.now, &mut self.received);
        if self.runs_filters {
            while let Some(step) = self.machine.poll_filter() {
                self.machine.handle_filter(step.run());
            }
        }
    }

    /// Feeds a method of the server.
    pub(crate) fn method(&mut self, channel: u16, it: &impl Encode) {
        self.feed(&method(channel, it));
    }

    /// Feeds a message of the server.
    pub(crate) fn content(&mut self, channel: u16, it: &impl Encode, body: &[u8]) {
        let mut bytes = method(channel, it);
        bytes.extend(header(channel, body.len() as u64, Properties::default()));
        frame::body(&mut bytes, channel, 131_072, body);
        self.feed(&bytes);
    }

    /// Feeds a delivery of the server.
    pub(crate) fn deliver(&mut self, channel: u16, consumer_tag: &str, tag: u64, body: &[u8]) {
        let deliver = deliver(consumer_tag, tag);
        self.content(channel, &deliver, body);
    }

    /// Advances time, and handles every deadline when it is due.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.pump();
            match self.machine.poll_timeout() {
                // A dial is due, which the test must complete.
                Some(at) if at <= self.now && self.machine.is_down() => break,
                Some(at) if at <= self.now => self.machine.handle_timeout(self.now),
                Some(at) if at <= end => self.now = at,
                _ => break,
            }
        }
        self.now = end;
        self.pump();
    }

    /// Replies to the state machine's output until it writes nothing more, like a broker that has
    /// every queue. Publishes and gets get no reply. Returns everything that was written.
    pub(crate) fn serve(&mut self) -> Vec<Sent> {
        self.serve_with(reply_to)
    }

    /// Feeds the replies that a function makes for the state machine's output, until it writes
    /// nothing more. Returns everything that was written.
    pub(crate) fn serve_with(&mut self, reply: impl Fn(&Sent) -> Option<Vec<u8>>) -> Vec<Sent> {
        let mut all = Vec::new();
        loop {
            let sent = self.take();
            if sent.is_empty() {
                return all;
            }
            for one in &sent {
                if let Some(reply) = reply(one) {
                    self.feed(&reply);
                }
            }
            all.extend(sent);
        }
    }

    /// Serves like [`serve`](Self::serve), with this name for every server-named queue.
    pub(crate) fn serve_naming(&mut self, name: &str) -> Vec<Sent> {
        self.serve_with(|sent| {
            let is_method = sent.kind == FrameKind::Method;
            match is_method.then(|| sent.method()) {
                Some(Method::Queue(queue::Method::Declare(it))) if it.queue.is_empty() => {
                    let (queue, message_count, consumer_count) = (short(name), 0, 0);
                    let ok = queue::DeclareOk {
                        queue,
                        message_count,
                        consumer_count,
                    };
                    Some(method(sent.channel, &ok))
                }
                _ => reply_to(sent),
            }
        })
    }

    /// Starts a consumer. Returns it with its channel and its tag.
    pub(crate) fn consumer(&mut self, it: &Consume<'_>) -> (ConsumerId, u16, String) {
        let promise = self.machine.consume(it).unwrap();
        let sent = self.serve();
        let started = sent
            .iter()
            .find(|sent| sent.is(basic::Consume::ID))
            .unwrap();
        match self.machine.fetch(promise) {
            Some(Ok(Reply::Consumer(id))) => (id, started.channel, tag_of(started)),
            other => panic!("{other:?}"),
        }
    }

    /// Gets a message of the queue `q`, with this tag and body.
    pub(crate) fn get_message(&mut self, tag: u64, body: &[u8]) -> Delivered {
        let promise = self.get();
        let channel = self.serve().last().unwrap().channel;
        self.content(channel, &get_ok(tag), body);
        match self.machine.fetch(promise) {
            Some(Ok(Reply::Delivery(Some(got)))) => got.delivered,
            other => panic!("{other:?}"),
        }
    }

    /// Requests a message of the queue `q`.
    pub(crate) fn get(&mut self) -> PromiseId {
        self.machine
            .request(basic::Get {
                queue: short("q"),
                no_ack: false,
            })
            .unwrap()
    }

    /// Takes all buffered deliveries of a consumer.
    pub(crate) fn take_deliveries(&mut self, consumer: ConsumerId) -> Vec<Delivered> {
        let mut taken = VecDeque::new();
        // Those of a stream are taken one at a time.
        loop {
            let before = taken.len();
            self.machine
                .take_deliveries(consumer, usize::MAX, &mut taken);
            if taken.len() == before {
                return taken.into();
            }
        }
    }

    /// Returns `true` if a consumer has ended and was not dropped.
    pub(crate) fn has_ended(&self, consumer: ConsumerId) -> bool {
        let consumer = self.machine.consumer(consumer);
        consumer.is_some_and(|consumer| consumer.ended().is_some())
    }

    /// Returns the error of a promise.
    pub(crate) fn error(&mut self, promise: PromiseId) -> Error {
        match self.machine.fetch(promise) {
            Some(Err(error)) => error,
            other => panic!("{other:?}"),
        }
    }

    /// Returns `true` if a promise is pending. Panics if it has a result.
    pub(crate) fn is_pending(&mut self, promise: PromiseId) -> bool {
        match self.machine.fetch(promise) {
            None => true,
            Some(other) => panic!("{other:?}"),
        }
    }

    /// Checks that a promise is complete, with the result `()`.
    pub(crate) fn expect_done(&mut self, promise: PromiseId) {
        match self.machine.fetch(promise) {
            Some(Ok(Reply::Done)) => {}
            other => panic!("{other:?}"),
        }
    }

    /// Returns why the connection is closed.
    pub(crate) fn close_reason(&self) -> &Error {
        self.machine.why_closed().expect("it is closed")
    }
}

/// Returns a `basic.deliver`.
pub(crate) fn deliver(consumer_tag: &str, tag: u64) -> basic::Deliver<'_> {
    basic::Deliver {
        consumer_tag: short(consumer_tag),
        delivery_tag: tag,
        redelivered: false,
        exchange: short(""),
        routing_key: short("key"),
    }
}

/// Returns a `basic.get-ok`.
pub(crate) fn get_ok(tag: u64) -> basic::GetOk<'static> {
    basic::GetOk {
        delivery_tag: tag,
        redelivered: false,
        exchange: ShortStr::EMPTY,
        routing_key: ShortStr::EMPTY,
        message_count: 0,
    }
}

/// Returns the tag of a consume or a cancel.
pub(crate) fn tag_of(sent: &Sent) -> String {
    match sent.method() {
        Method::Basic(basic::Method::Consume(it)) => it.consumer_tag.to_string(),
        Method::Basic(basic::Method::Cancel(it)) => it.consumer_tag.to_string(),
        other => panic!("{other:?}"),
    }
}

/// Returns the reply to a method that has one.
pub(crate) fn reply_to(sent: &Sent) -> Option<Vec<u8>> {
    let channel = sent.channel;
    if sent.kind != FrameKind::Method {
        return None;
    }
    Some(match sent.method() {
        Method::Channel(channel::Method::Open(_)) => method(channel, &channel::OpenOk {}),
        Method::Channel(channel::Method::Close(_)) => method(channel, &channel::CloseOk {}),
        Method::Confirm(confirm::Method::Select(_)) => method(channel, &confirm::SelectOk {}),
        Method::Basic(basic::Method::Qos(_)) => method(channel, &basic::QosOk {}),
        Method::Basic(basic::Method::Consume(it)) => method(
            channel,
            &basic::ConsumeOk {
                consumer_tag: it.consumer_tag,
            },
        ),
        Method::Basic(basic::Method::Cancel(it)) => method(
            channel,
            &basic::CancelOk {
                consumer_tag: it.consumer_tag,
            },
        ),
        Method::Queue(queue::Method::Declare(it)) => method(
            channel,
            &queue::DeclareOk {
                queue: it.queue,
                message_count: 0,
                consumer_count: 0,
            },
        ),
        Method::Queue(queue::Method::Bind(_)) => method(channel, &queue::BindOk {}),
        Method::Queue(queue::Method::Unbind(_)) => method(channel, &queue::UnbindOk {}),
        Method::Queue(queue::Method::Delete(_)) => {
            method(channel, &queue::DeleteOk { message_count: 0 })
        }
        Method::Exchange(exchange::Method::Declare(_)) => method(channel, &exchange::DeclareOk {}),
        Method::Exchange(exchange::Method::Delete(_)) => method(channel, &exchange::DeleteOk {}),
        Method::Exchange(exchange::Method::Bind(_)) => method(channel, &exchange::BindOk {}),
        Method::Exchange(exchange::Method::Unbind(_)) => method(channel, &exchange::UnbindOk {}),
        Method::Connection(connection::Method::Close(_)) => method(0, &connection::CloseOk {}),
        _ => return None,
    })
}
