//! A strict broker's check of everything a client writes, with the independent parser: no frame on
//! a channel that is not open, contents complete and contiguous, no settling of what was not
//! delivered on the channel, nothing after the last frame of a close.

use super::little::{Field, LittleFrame, next_frame};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Default)]
struct Channel {
    /// The server has sent `open-ok`.
    open: bool,
    /// The server has sent `close` before `open-ok`. A client may take that for the end of the
    /// channel that had this number before and was closed by the server, or answer it.
    closed_early: bool,
    /// The client has sent `close`, and `close-ok` is pending.
    closing: bool,
    /// The server has closed the channel. Only `close-ok` may follow.
    closed: bool,
    /// Both sides have closed it, and one `close-ok` is pending.
    crossed: Crossed,
    content: Content,
    /// The tags of the consumers that the client has started and not cancelled.
    consumers: BTreeSet<Vec<u8>>,
    /// The deliveries that the server has begun, and how often each may be settled.
    delivered: BTreeMap<u64, u32>,
}

/// The state of a channel that both sides have closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Crossed {
    #[default]
    No,
    /// The client has replied to the server's `close`, and sends no more.
    ClientAnswered,
    /// The server has replied to the client's `close`. The client's reply may be in flight: it was
    /// written when the server's `close` arrived, which was before the server's reply.
    ServerAnswered,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Content {
    #[default]
    None,
    Header,
    Body(u64),
}

/// The broker's view of a connection.
#[derive(Debug, Default)]
pub struct Observer {
    bytes: Vec<u8>,
    greeted: bool,
    channels: BTreeMap<u16, Channel>,
    /// 1 once the client has sent `connection.close`, 2 once it has sent `close-ok`.
    last_words: u8,
}

const OPEN: (u16, u16) = (20, 10);
const OPEN_OK: (u16, u16) = (20, 11);
const CLOSE: (u16, u16) = (20, 40);
const CLOSE_OK: (u16, u16) = (20, 41);
const CONNECTION_CLOSE: (u16, u16) = (10, 50);
const CONNECTION_CLOSE_OK: (u16, u16) = (10, 51);

impl Observer {
    /// Checks what the client has written, and returns the complete frames.
    pub fn written(&mut self, bytes: &[u8]) -> Vec<LittleFrame> {
        self.bytes.extend(bytes);
        if !self.greeted {
            if self.bytes.len() < 8 {
                return Vec::new();
            }
            let greeting: Vec<u8> = self.bytes.drain(..8).collect();
            assert_eq!(greeting, b"AMQP\0\0\x09\x01");
            self.greeted = true;
        }
        let mut frames = Vec::new();
        let mut start = 0;
        while let Some((frame, length)) = next_frame(&self.bytes[start..]) {
            start += length;
            self.frame(&frame);
            frames.push(frame);
        }
        self.bytes.drain(..start);
        frames
    }

    fn frame(&mut self, frame: &LittleFrame) {
        assert!(
            self.last_words < 2,
            "frame after connection.close-ok: {frame:?}"
        );
        match (frame.kind, frame.channel) {
            (8, channel) => {
                assert_eq!(
                    (channel, frame.payload.len()),
                    (0, 0),
                    "a heartbeat is empty, on channel 0"
                )
            }
            (1, 0) => {
                let (id, _) = frame.method();
                assert_eq!(id.0, 10, "{id:?} on channel 0");
                let is_close_ok = id == CONNECTION_CLOSE_OK;
                assert!(
                    self.last_words == 0 || is_close_ok,
                    "{id:?} after connection.close"
                );
                self.last_words = match id {
                    CONNECTION_CLOSE => 1,
                    CONNECTION_CLOSE_OK => 2,
                    _ => 0,
                };
            }
            (_, 0) => panic!("content frame on channel 0"),
            _ => {
                assert_eq!(self.last_words, 0, "after connection.close: {frame:?}");
                self.on_channel(frame);
            }
        }
    }

    fn on_channel(&mut self, frame: &LittleFrame) {
        let number = frame.channel;
        let method = (frame.kind == 1).then(|| frame.method());
        let id = method.as_ref().map(|(id, _)| *id);
        if id == Some(OPEN) {
            let before = self.channels.insert(number, Channel::default());
            // A `close` before `open-ok` may get no reply.
            let is_free = before.as_ref().is_none_or(|channel| {
                channel.crossed == Crossed::ServerAnswered && channel.closed_early
            });
            assert!(is_free, "channel {number} was opened twice: {before:?}");
            return;
        }
        // The server would close the connection over a `close-ok` on a channel that is not here.
        // The client writes one in two places only, each for a `close` on a channel that it has
        // opened and not released:
        //
        // - The server closes alone. The channel is released in the same step, so there is no
        //   other.
        // - The server's `close` crosses the client's. The first gets a reply, and no other
        //   (`close_answered`). The channel is released when the server's `close-ok` arrives. A
        //   `close` after that is a frame on a channel that is not open.
        //
        // In both cases `open` was queued before, and a channel's frames are written in order. So
        // the channel is here when its `close-ok` is written, if the server's `close-ok` alone does
        // not remove it while the server's own `close` has no reply. The assertion below has failed
        // for two reasons: a server may reply to the client's `close` right after its own `close`,
        // in one piece of bytes, before the client can write its reply; and the client replied to
        // each of several `close` on one channel.
        let channel = self.channels.get_mut(&number);
        let Some(channel) = channel else {
            panic!("channel {number} is not open: {frame:?}")
        };
        assert!(
            channel.crossed != Crossed::ClientAnswered,
            "channel {number} is closed: {frame:?}"
        );
        if id == Some(CLOSE_OK) && (channel.closed || channel.closed_early) {
            if channel.closing && channel.crossed == Crossed::No {
                channel.crossed = Crossed::ClientAnswered;
            } else {
                self.channels.remove(&number);
            }
            return;
        }
        if channel.closed {
            // Frames that were queued when the server closed the channel may still arrive.
            channel.closing |= id == Some(CLOSE);
            return;
        }
        assert!(
            !channel.closing || id == Some(CLOSE_OK),
            "channel {number} is closing: {frame:?}"
        );
        match (frame.kind, channel.content) {
            (1, Content::None) => {}
            (2, Content::Header) => {
                let size = frame.header().0;
                channel.content = if size == 0 {
                    Content::None
                } else {
                    Content::Body(size)
                };
            }
            (3, Content::Body(left)) => {
                let size = frame.payload.len() as u64;
                assert!(
                    size > 0 && size <= left,
                    "body frame of {size} bytes, {left} are left"
                );
                channel.content = if size == left {
                    Content::None
                } else {
                    Content::Body(left - size)
                };
            }
            (kind, content) => {
                panic!("expected {content:?} on channel {number}, found frame type {kind}")
            }
        }
        let Some((id, fields)) = method else { return };
        match id {
            CLOSE => channel.closing = true,
            (60, 20) => drop(channel.consumers.insert(fields[2].bytes().to_vec())),
            (60, 30) => drop(channel.consumers.remove(fields[0].bytes())),
            (60, 40) => channel.content = Content::Header,
            (60, 80 | 90 | 120) => channel.settle(id, &fields),
            (10, _) => panic!("{id:?} on channel {number}"),
            _ => {}
        }
    }

    /// Records a frame that the server has sent.
    pub fn received(&mut self, frame: &LittleFrame) {
        let Some(channel) = self
            .channels
            .get_mut(&frame.channel)
            .filter(|_| frame.kind == 1)
        else {
            return;
        };
        match frame.id() {
            OPEN_OK => channel.open = true,
            CLOSE if !channel.open => channel.closed_early = true,
            CLOSE => channel.closed = true,
            CLOSE_OK if channel.closing => match channel.crossed {
                Crossed::No if channel.closed || channel.closed_early => {
                    channel.crossed = Crossed::ServerAnswered;
                }
                // An additional `close`. The client still has to reply to the first.
                Crossed::ServerAnswered => {}
                _ => drop(self.channels.remove(&frame.channel)),
            },
            (60, 60) => {
                let at = frame
                    .payload
                    .get(4)
                    .map_or(5, |length| 5 + usize::from(*length));
                channel.deliver(frame.payload.get(at..at + 8));
            }
            (60, 71) => channel.deliver(frame.payload.get(4..12)),
            _ => {}
        }
    }

    /// Returns `true` if a channel is open on both sides, so that an honest server may use it.
    pub fn is_open(&self, channel: u16) -> bool {
        let channel = self
            .channels
            .get(&channel)
            .filter(|channel| channel.crossed == Crossed::No);
        channel.is_some_and(|channel| channel.open && !channel.closed)
    }

    /// Returns the consumers that the client has started, each with its channel.
    pub fn consumers(&self) -> Vec<(u16, Vec<u8>)> {
        let channels = self.channels.iter();
        channels
            .flat_map(|(number, channel)| {
                channel.consumers.iter().map(|tag| (*number, tag.clone()))
            })
            .collect()
    }

    /// Returns the channels without those that both sides have closed.
    pub fn channels(&self) -> Vec<u16> {
        let channels = self.channels.iter();
        channels
            .filter(|(_, channel)| channel.crossed == Crossed::No)
            .map(|(number, _)| *number)
            .collect()
    }
}

impl Channel {
    fn deliver(&mut self, tag: Option<&[u8]>) {
        if let Some(Ok(tag)) = tag.map(<[u8; 8]>::try_from) {
            *self.delivered.entry(u64::from_be_bytes(tag)).or_default() += 1;
        }
    }

    fn settle(&mut self, id: (u16, u16), fields: &[Field]) {
        let (tag, multiple) = (fields[0].number(), id != (60, 90) && fields[1].bit());
        let left = self.delivered.get_mut(&tag).filter(|left| **left > 0);
        let Some(left) = left else {
            panic!("{id:?} of {tag}, which is not an unsettled delivery")
        };
        *left -= 1;
        if multiple {
            self.delivered
                .range_mut(..=tag)
                .for_each(|(_, left)| *left = 0);
        }
    }
}
