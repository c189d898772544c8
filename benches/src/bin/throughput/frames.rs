//! The limit of the machine: a program that writes and reads prebuilt frames.

use crate::work::{WINDOW, Work};
use puka::protocol::frame::{self, HEADER};
use puka::protocol::method::{Encode, basic, channel, confirm, connection, queue};
use puka::protocol::{ContentHeader, Decoder, Properties, ShortStr, TableRef};
use puka_benches::{Clock, Sample};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// The number of bytes to write or read at a time.
const PIECE: usize = 256 << 10;

const FRAME_MAX: u32 = 131_072;

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    decoder: Decoder,
}

fn method(channel: u16, method: &impl Encode) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::method(&mut bytes, channel, FRAME_MAX, method).expect("the frame fits");
    bytes
}

impl Connection {
    /// Connects and opens channel 1.
    fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the broker listens");
        stream
            .set_nodelay(true)
            .expect("the socket supports TCP_NODELAY");
        let mut it = Self {
            stream,
            buffer: vec![0; PIECE],
            decoder: Decoder::new(),
        };
        let start_ok = connection::StartOk {
            client_properties: TableRef::EMPTY,
            mechanism: ShortStr::literal("PLAIN"),
            response: b"\0guest\0guest",
            locale: ShortStr::literal("en_US"),
        };
        it.write(b"AMQP\0\0\x09\x01");
        it.await_method();
        it.write(&method(0, &start_ok));
        it.await_method();
        it.write(&method(
            0,
            &connection::TuneOk {
                channel_max: 2047,
                frame_max: FRAME_MAX,
                heartbeat: 0,
            },
        ));
        it.ask(
            0,
            &connection::Open {
                virtual_host: ShortStr::literal("/"),
            },
        );
        it.ask(1, &channel::Open {});
        it
    }

    fn write(&mut self, bytes: &[u8]) {
        self.stream
            .write_all(bytes)
            .expect("the broker accepts the bytes");
    }

    fn read(&mut self) -> usize {
        self.stream
            .read(&mut self.buffer)
            .expect("the broker answers")
    }

    fn await_method(&mut self) {
        while self
            .decoder
            .next_frame()
            .expect("the frame is valid")
            .is_none()
        {
            let bytes = self
                .stream
                .read(self.decoder.space())
                .expect("the broker answers");
            self.decoder.filled(bytes);
        }
    }

    fn ask(&mut self, channel: u16, asked: &impl Encode) {
        self.write(&method(channel, asked));
        self.await_method();
    }
}

fn published(size: usize) -> Vec<u8> {
    let publish = basic::Publish {
        exchange: ShortStr::EMPTY,
        routing_key: ShortStr::literal("test"),
        mandatory: false,
        immediate: false,
    };
    let header = ContentHeader {
        body_size: size as u64,
        properties: Properties::default(),
    };
    let mut bytes = method(1, &publish);
    frame::content_header(&mut bytes, 1, FRAME_MAX, &header).expect("the frame fits");
    frame::body(&mut bytes, 1, FRAME_MAX, &vec![b'x'; size]);
    bytes
}

fn declare() -> queue::Declare<'static> {
    queue::Declare {
        queue: ShortStr::literal("test"),
        passive: false,
        durable: false,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments: TableRef::EMPTY,
    }
}

fn publish(mut it: Connection, size: usize, time: Duration) -> Sample {
    let one = published(size);
    let count = PIECE.div_ceil(one.len());
    let piece = one.repeat(count);
    let clock = Clock::start();
    let mut messages = 0;
    while clock.is_before(time) {
        it.write(&piece);
        messages += count as u64;
    }
    it.ask(1, &declare());
    clock.stop(messages)
}

fn confirmed(mut it: Connection, size: usize, time: Duration) -> Sample {
    let one = published(size);
    let most = PIECE.div_ceil(one.len()).min(WINDOW as usize);
    let piece = one.repeat(most);
    it.ask(1, &confirm::Select { nowait: false });
    let clock = Clock::start();
    let (mut sent, mut confirmed) = (0, 0);
    while clock.is_before(time) {
        while sent - confirmed < WINDOW {
            let count = (WINDOW - (sent - confirmed)).min(most as u64);
            it.write(&piece[..count as usize * one.len()]);
            sent += count;
        }
        // The last ack of the received bytes: type, channel, size, method, tag, bits, end.
        let bytes = it.read();
        let tag = it.buffer[..bytes]
            .rchunks_exact(21)
            .next()
            .map(|ack| &ack[HEADER + 4..HEADER + 12]);
        confirmed = tag
            .and_then(|tag| tag.try_into().ok())
            .map_or(confirmed, u64::from_be_bytes);
    }
    while confirmed < sent {
        let bytes = it.read();
        let tag = it.buffer[..bytes]
            .rchunks_exact(21)
            .next()
            .map(|ack| &ack[HEADER + 4..HEADER + 12]);
        confirmed = tag
            .and_then(|tag| tag.try_into().ok())
            .map_or(confirmed, u64::from_be_bytes);
    }
    clock.stop(sent)
}

fn consume(mut it: Connection, size: usize, acks: bool, time: Duration) -> Sample {
    let tag = ShortStr::literal("puka.1");
    if acks {
        it.ask(
            1,
            &basic::Qos {
                prefetch_size: 0,
                prefetch_count: WINDOW as u16,
                global: false,
            },
        );
    }
    let queue = size.to_string();
    let consume = basic::Consume {
        queue: ShortStr::new(&queue).expect("the name is short"),
        consumer_tag: tag,
        no_local: false,
        no_ack: !acks,
        exclusive: false,
        nowait: false,
        arguments: TableRef::EMPTY,
    };
    let mut one = Vec::new();
    puka_benches::deliver(&mut one, 1, tag, &vec![b'x'; size], Properties::default());
    let clock = Clock::start();
    it.ask(1, &consume);
    let mut bytes = it.decoder.pending().len();
    let mut acked = 0;
    let mut ack = method(
        1,
        &basic::Ack {
            delivery_tag: 0,
            multiple: true,
        },
    );
    while clock.is_before(time) {
        bytes += it.read();
        let last = (bytes / one.len()) as u64;
        if acks && last > acked {
            ack[HEADER + 4..HEADER + 12].copy_from_slice(&last.to_be_bytes());
            it.write(&ack);
            acked = last;
        }
    }
    clock.stop((bytes / one.len()) as u64)
}

fn request(mut it: Connection, time: Duration) -> Sample {
    let asked = method(1, &declare());
    let clock = Clock::start();
    let mut messages = 0;
    while clock.is_before(time) {
        it.write(&asked);
        it.read();
        messages += 1;
    }
    clock.stop(messages)
}

pub(crate) fn run(address: SocketAddr, work: Work, time: Duration) -> Sample {
    let it = Connection::open(address);
    match work {
        Work::Publish(size) => publish(it, size, time),
        Work::Confirm(size) => confirmed(it, size, time),
        Work::Consume(size) => consume(it, size, false, time),
        Work::Ack(size) => consume(it, size, true, time),
        Work::Request => request(it, time),
    }
}
