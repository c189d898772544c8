//! Decodes the frames of both directions at the broker's end, and reports facts that neither client
//! nor broker exposes.

use crate::frames::{Cutter, Frame};
use crate::publishes::{Publishes, ReceivedPublish, attempt_of, copy_of};
use puka::protocol::method::{Encode, basic, channel, connection, queue};
use puka::protocol::{ContentHeader, Method, MethodId, ShortStr};
use std::collections::{BTreeMap, VecDeque};

/// An observed event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Observed {
    /// The client published a message.
    Publishes(ReceivedPublish),
    /// The client purges or deletes a queue.
    Clears(String),
    /// The broker sent a message that needs no ack.
    Left { queue: String, copy: u64 },
    /// The broker returned a copy of a message.
    Returned(u64),
    /// The broker closed a channel.
    ChannelClosed(String),
    /// The broker closed the connection.
    Closed { code: u16, text: String },
    /// The client sent a method with an empty queue name, which means the queue last declared on
    /// its channel.
    Nameless(MethodId),
    /// The client opened a channel whose number is above the negotiated limit.
    Beyond { channel: u16, most: u16 },
    /// The broker ended the handshake.
    Opened,
    /// The broker confirmed the client's close, so it has received everything.
    CloseOk,
}

#[derive(Clone, Debug)]
enum Content {
    Left { queue: String, id: Option<u64> },
    Returned { id: Option<u64> },
    Other,
}

/// The state of one connection.
#[derive(Debug, Default)]
pub(crate) struct Observer {
    client: Cutter,
    broker: Cutter,
    /// Queue and `no_ack` of each consumer tag.
    consumers: BTreeMap<String, (String, bool)>,
    /// Queue and `no_ack` of each unanswered get, by channel.
    gets: BTreeMap<u16, VecDeque<(String, bool)>>,
    contents: BTreeMap<u16, Content>,
    /// The number of earlier publishes of the current content, and the pending size of its body, by
    /// channel.
    bodies: BTreeMap<u16, (u64, u64)>,
    pub(crate) publishes: Publishes,
    /// The negotiated limit; 0 for no limit.
    channel_max: u16,
    /// The broker has closed the connection and ignores everything else.
    deaf: bool,
}

impl Observer {
    /// Processes bytes that the broker received.
    pub(crate) fn client_sent(&mut self, bytes: &[u8]) -> Vec<Observed> {
        let mut observed = Vec::new();
        for frame in self.client.cut(bytes) {
            if frame.is_client_header() {
                continue;
            }
            observed.extend(self.publishes.read(&frame).map(Observed::Publishes));
            if !frame.is_method() {
                continue;
            }
            let method = Method::decode(frame.payload());
            observed.extend(method.as_ref().ok().and_then(nameless));
            match method {
                Ok(Method::Connection(connection::Method::TuneOk(tune))) => {
                    self.channel_max = tune.channel_max;
                }
                Ok(Method::Channel(channel::Method::Open(_))) => {
                    let (channel, most) = (frame.channel(), self.channel_max);
                    observed.extend(
                        (most > 0 && channel > most).then_some(Observed::Beyond { channel, most }),
                    );
                }
                Ok(Method::Queue(queue::Method::Purge(queue::Purge { queue, .. }))) => {
                    observed.push(Observed::Clears(queue.to_str_lossy().into_owned()));
                }
                Ok(Method::Queue(queue::Method::Delete(queue::Delete { queue, .. }))) => {
                    observed.push(Observed::Clears(queue.to_str_lossy().into_owned()));
                }
                Ok(Method::Basic(basic::Method::Consume(consume))) => {
                    let queue = consume.queue.to_str_lossy().into_owned();
                    self.consumers.insert(
                        consume.consumer_tag.to_str_lossy().into_owned(),
                        (queue, consume.no_ack),
                    );
                }
                Ok(Method::Basic(basic::Method::Get(get))) => {
                    let get = (get.queue.to_str_lossy().into_owned(), get.no_ack);
                    self.gets.entry(frame.channel()).or_default().push_back(get);
                }
                _ => {}
            }
        }
        observed
    }

    /// Processes bytes that the broker sent.
    pub(crate) fn broker_sent(&mut self, bytes: &[u8]) -> Vec<Observed> {
        let mut observed = Vec::new();
        for frame in self.broker.cut(bytes) {
            if frame.is_method() {
                self.method(&frame, &mut observed);
            } else if frame.is_header()
                && let Ok(header) = ContentHeader::decode(frame.payload())
            {
                let body = (attempt_of(&header.properties), header.body_size);
                self.bodies.insert(frame.channel(), body);
            } else if frame.is_body() {
                observed.extend(self.body(&frame));
            }
        }
        observed
    }

    /// A content that is cut off before its end was not returned.
    fn body(&mut self, frame: &Frame) -> Option<Observed> {
        let channel = frame.channel();
        let (attempt, left) = self.bodies.get_mut(&channel)?;
        *left = left.saturating_sub(frame.payload().len() as u64);
        let (attempt, is_whole) = (*attempt, *left == 0);
        match self.contents.get_mut(&channel)? {
            Content::Left { id, .. } | Content::Returned { id } => {
                *id = id.or(id_of(frame.payload()))
            }
            Content::Other => {}
        }
        if !is_whole {
            return None;
        }
        match self.contents.remove(&channel)? {
            Content::Left { queue, id } => Some(Observed::Left {
                queue,
                copy: copy_of(id?, attempt),
            }),
            Content::Returned { id } => Some(Observed::Returned(copy_of(id?, attempt))),
            Content::Other => None,
        }
    }

    fn method(&mut self, frame: &Frame, observed: &mut Vec<Observed>) {
        let number = frame.channel();
        let left = |request: Option<&(String, bool)>| match request {
            Some((queue, true)) => Content::Left {
                queue: queue.clone(),
                id: None,
            },
            _ => Content::Other,
        };
        match Method::decode(frame.payload()) {
            Ok(Method::Basic(basic::Method::Deliver(deliver))) => {
                let content = left(self.consumers.get(&*deliver.consumer_tag.to_str_lossy()));
                self.contents.insert(number, content);
            }
            Ok(Method::Basic(basic::Method::GetOk(_))) => {
                let request = self.gets.entry(number).or_default().pop_front();
                self.contents.insert(number, left(request.as_ref()));
            }
            Ok(Method::Basic(basic::Method::GetEmpty(_))) => {
                self.gets.entry(number).or_default().pop_front();
            }
            Ok(Method::Basic(basic::Method::Return(_))) => {
                self.contents.insert(number, Content::Returned { id: None });
            }
            Ok(Method::Channel(channel::Method::Close(close))) => {
                self.gets.remove(&number);
                self.contents.remove(&number);
                let id = (close.class_id, close.method_id);
                let text = format!(
                    "{} {} {id:?}",
                    close.reply_code,
                    close.reply_text.to_str_lossy()
                );
                observed.push(Observed::ChannelClosed(text));
            }
            Ok(Method::Connection(connection::Method::Close(close))) => {
                self.deaf = true;
                let text = close.reply_text.to_str_lossy().into_owned();
                observed.push(Observed::Closed {
                    code: close.reply_code,
                    text,
                });
            }
            Ok(Method::Connection(connection::Method::OpenOk(_))) => {
                observed.push(Observed::Opened)
            }
            Ok(Method::Connection(connection::Method::CloseOk(_))) if !self.deaf => {
                observed.push(Observed::CloseOk)
            }
            _ => {}
        }
    }
}

/// Returns the error for a method without a queue name. `queue.declare` is excluded, because its
/// empty name asks the broker for one.
fn nameless(method: &Method<'_>) -> Option<Observed> {
    let queue = match method {
        Method::Queue(queue::Method::Purge(method)) => method.queue,
        Method::Queue(queue::Method::Delete(method)) => method.queue,
        Method::Queue(queue::Method::Bind(method)) => method.queue,
        Method::Queue(queue::Method::Unbind(method)) => method.queue,
        Method::Basic(basic::Method::Get(method)) => method.queue,
        Method::Basic(basic::Method::Consume(method)) => method.queue,
        _ => return None,
    };
    (queue == ShortStr::EMPTY).then(|| Observed::Nameless(method.id()))
}

/// Returns the number at the start of a body.
pub(crate) fn id_of(body: &[u8]) -> Option<u64> {
    body.first_chunk::<8>()
        .map(|bytes| u64::from_be_bytes(*bytes))
}

/// Returns a body that starts with a number and whose every byte can be checked.
pub(crate) fn body_of(id: u64, bytes: usize) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    body.extend((8..bytes).map(|place| (place as u64).wrapping_mul(31).wrapping_add(id) as u8));
    body
}
