//! Messages assembled from any frames in any order, against a simple model.

use super::input::Input;
use super::peer::{Peer, method, raw, short};
use puka::machine::{Consume, Reply};
use puka::protocol::method::basic;
use puka::protocol::{ContentHeader, Properties, TableRef};
use puka::{Error, Options};
use std::collections::VecDeque;

const LARGEST: u64 = 20_000;

/// The largest body of a frame that is to fit.
const MOST: usize = 60_000;

/// The source of bodies. Each is a slice from another offset.
static BYTES: [u8; MOST + 256] = {
    let mut bytes = [0; MOST + 256];
    let mut place = 0;
    while place < bytes.len() {
        bytes[place] = (place * 7) as u8;
        place += 1;
    }
    bytes
};

/// The expected next frame.
#[derive(Debug)]
enum Model {
    Method,
    Header {
        tag: u64,
    },
    Body {
        tag: u64,
        size: u64,
        body: Vec<u8>,
        got: u64,
        empty: u32,
    },
    Broken,
}

/// A complete message: its tag, its size, and its body unless that exceeds the limit.
type Whole = (u64, u64, Option<Vec<u8>>);

impl Model {
    fn method(&mut self, tag: u64) {
        *self = if matches!(self, Self::Method) {
            Self::Header { tag }
        } else {
            Self::Broken
        };
    }

    fn header(&mut self, size: u64, whole: &mut VecDeque<Whole>) {
        let Self::Header { tag } = *self else {
            *self = Self::Broken;
            return;
        };
        *self = Self::Body {
            tag,
            size,
            body: Vec::new(),
            got: 0,
            empty: 0,
        };
        self.finish(whole);
    }

    fn body(&mut self, bytes: &[u8], whole: &mut VecDeque<Whole>) {
        let Self::Body {
            size,
            body,
            got,
            empty,
            ..
        } = self
        else {
            *self = Self::Broken;
            return;
        };
        *empty = if bytes.is_empty() { *empty + 1 } else { 0 };
        *got += bytes.len() as u64;
        if *got > *size || *empty > 1024 {
            *self = Self::Broken;
            return;
        }
        if *size <= LARGEST {
            body.extend(bytes);
        }
        self.finish(whole);
    }

    fn finish(&mut self, whole: &mut VecDeque<Whole>) {
        if let Self::Body {
            tag,
            size,
            body,
            got,
            ..
        } = self
            && got == size
        {
            let kept = (*size <= LARGEST).then(|| std::mem::take(body));
            whole.push_back((*tag, *size, kept));
            *self = Self::Method;
        }
    }

    fn left(&self) -> u64 {
        match self {
            Self::Body { size, got, .. } => size - got,
            _ => 0,
        }
    }
}

fn size(input: &mut Input<'_>) -> u64 {
    match input.below(6) {
        0 => 0,
        1 => u64::from(input.byte()),
        2 => 16_380 + u64::from(input.byte() % 8),
        3 => LARGEST - 3 + u64::from(input.byte() % 6),
        4 => u64::from(input.short()),
        _ => input.longlong(),
    }
}

/// The messages match a simple model for any split of the input, and the first unexpected frame
/// closes the connection.
pub fn content(data: &[u8]) {
    let mut input = Input::new(data);
    let mut peer = Peer::new(Options::default().recovery(None).max_message_size(LARGEST));
    peer.serve();
    let consume = Consume {
        queue: short(b"q"),
        tag: "",
        prefetch_count: 0,
        no_local: false,
        no_ack: true,
        exclusive: false,
        arguments: TableRef::EMPTY,
        resubscribe: None,
        on_drop: puka::OnDrop::default(),
    };
    let promise = peer.machine.consume(&consume).expect("there is capacity");
    peer.serve();
    let Some(Ok(Reply::Consumer(id))) = peer.machine.fetch(promise) else {
        panic!("the consumer has not started")
    };
    let channel = peer.observer.channels()[0];
    let consumer_tag = peer
        .machine
        .consumer(id)
        .expect("the consumer is there")
        .tag()
        .as_bytes()
        .to_vec();

    let (mut model, mut whole, mut tag) = (Model::Method, VecDeque::new(), 0);
    let mut bytes = Vec::new();
    while !input.is_empty() && !matches!(model, Model::Broken) {
        match input.below(8) {
            0 | 1 => {
                tag += 1;
                model.method(tag);
                let it = basic::Deliver {
                    consumer_tag: short(&consumer_tag),
                    delivery_tag: tag,
                    redelivered: false,
                    exchange: short(input.bytes(3)),
                    routing_key: short(b"key"),
                };
                bytes = method(channel, &it);
            }
            2 | 3 => {
                let body_size = size(&mut input);
                let header = ContentHeader {
                    body_size,
                    properties: Properties::default(),
                };
                model.header(body_size, &mut whole);
                bytes.clear();
                puka::protocol::frame::content_header(&mut bytes, channel, u32::MAX, &header)
                    .expect("frame_max is unlimited");
            }
            4 => bytes = raw(8, 0, b""),
            5 if input.below(16) == 0 => {
                // Many empty frames.
                let times = [10, 1023, 1025][input.below(3)];
                bytes = raw(3, channel, b"").repeat(times);
                for _ in 0..times {
                    model.body(b"", &mut whole);
                }
            }
            choice => {
                let most = if choice == 6 {
                    model.left().min(MOST as u64) as usize
                } else {
                    input.byte().into()
                };
                let body = &BYTES[tag as usize % 256..][..most];
                model.body(body, &mut whole);
                bytes = raw(3, channel, body);
            }
        }
        peer.say(&bytes);
        let piece = input.below(256);
        // Sometimes a method, its header and its body arrive together.
        let goes_on = !input.is_empty() && !matches!(model, Model::Broken);
        if piece >= 192 && goes_on && peer.waiting() < 1 << 16 {
            continue;
        }
        let piece = 1 + 37 * piece;
        while peer.waiting() > 0 && peer.machine.why_closed().is_none() {
            peer.arrive(piece);
        }
        let mut taken = VecDeque::new();
        peer.machine.take_deliveries(id, usize::MAX, &mut taken);
        for delivered in taken {
            let (tag, size, body) = whole.pop_front().expect("every message is in the model");
            assert_eq!(delivered.tag, tag);
            assert_eq!(
                delivered.message.too_large_body(),
                (size > LARGEST).then_some(size)
            );
            assert_eq!(delivered.message.body(), body.unwrap_or_default());
        }
        assert!(
            whole.is_empty() || matches!(model, Model::Broken),
            "messages are missing: {whole:?}"
        );
    }
    let why = peer.machine.why_closed();
    match model {
        Model::Broken => {
            assert!(
                matches!(why, Some(Error::UnexpectedFrame(_) | Error::FrameError(_))),
                "{why:?}"
            );
        }
        _ => assert!(why.is_none(), "{why:?}"),
    }
}
