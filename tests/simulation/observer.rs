//! Decodes the frames of a transport in both directions, and reports facts that neither the client
//! nor the broker exposes.

use crate::frames::{Frame, FrameSplitter};
use crate::publish_observer::{PublishObserver, ReceivedPublish, attempt_of, copy_of};
use crate::start_observer::StartObserver;
use puka::protocol::method::{Encode, basic, channel, connection, queue};
use puka::protocol::{ContentHeader, Method, MethodId, ShortStr};
use std::collections::{BTreeMap, VecDeque};

/// An observed event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Observed {
    /// The client published a message.
    Publishes(ReceivedPublish),
    /// The client starts a consumer.
    Consumes { queue: String, tag: String },
    /// The client purges or deletes a queue.
    ClearsQueue(String),
    /// The broker sent a message that needs no ack, so the message has left its queue.
    SentWithoutAck { queue: String, copy: u64 },
    /// The broker delivered a copy of a message to a consumer again.
    Redelivered(u64),
    /// The broker returned a copy of a message.
    Returned(u64),
    /// The broker closed a channel.
    ChannelClosed(String),
    /// The broker closed the connection.
    Closed { code: u16, text: String },
    /// The client sent a method with an empty queue name, which means the queue last declared on
    /// its channel.
    EmptyQueueName(MethodId),
    /// The client opened a channel whose number is above the negotiated limit.
    ChannelAboveLimit { channel: u16, channel_max: u16 },
    /// The broker ended the handshake.
    Opened,
    /// The broker confirmed the client's close, so it has received everything.
    CloseOk,
}

/// A content that the broker is sending. The id is in the first body frame.
#[derive(Clone, Debug)]
enum Content {
    WithoutAck { queue: String, id: Option<u64> },
    Returned { id: Option<u64> },
    Redelivered { id: Option<u64> },
    Other,
}

/// The decoder of one transport.
#[derive(Debug, Default)]
pub(crate) struct Observer {
    client: FrameSplitter,
    broker: FrameSplitter,
    /// Queue and `no_ack` of each consumer, by its tag.
    consumers: BTreeMap<String, (String, bool)>,
    /// Queue and `no_ack` of each unanswered get, by channel.
    gets: BTreeMap<u16, VecDeque<(String, bool)>>,
    /// The content that the broker is sending, by channel.
    contents: BTreeMap<u16, Content>,
    /// The attempt of the current content (see [`attempt_of`]) and the missing bytes of its body,
    /// by channel.
    bodies: BTreeMap<u16, (u64, u64)>,
    pub(crate) publishes: PublishObserver,
    pub(crate) starts: StartObserver,
    /// The negotiated limit; 0 for no limit.
    channel_max: u16,
    /// The broker has closed the connection and ignores everything else.
    broker_closed: bool,
}

impl Observer {
    /// Decodes bytes that the broker received.
    pub(crate) fn observe_client_bytes(&mut self, bytes: &[u8]) -> Vec<Observed> {
        let mut observed = Vec::new();
        for frame in self.client.split(bytes) {
            if frame.is_protocol_header() {
                continue;
            }
            observed.extend(self.publishes.observe(&frame).map(Observed::Publishes));
            if !frame.is_method() {
                continue;
            }
            let method = Method::decode(frame.payload());
            observed.extend(method.as_ref().ok().and_then(empty_queue_name));
            if let Ok(method) = &method {
                self.starts.observe_request(frame.channel(), method);
            }
            match method {
                Ok(Method::Connection(connection::Method::TuneOk(tune))) => {
                    self.channel_max = tune.channel_max;
                }
                Ok(Method::Channel(channel::Method::Open(_))) => {
                    // The client may have closed an earlier channel of this number before replies.
                    self.gets.remove(&frame.channel());
                    let (channel, channel_max) = (frame.channel(), self.channel_max);
                    if channel_max > 0 && channel > channel_max {
                        observed.push(Observed::ChannelAboveLimit {
                            channel,
                            channel_max,
                        });
                    }
                }
                Ok(Method::Queue(queue::Method::Purge(queue::Purge { queue, .. }))) => {
                    observed.push(Observed::ClearsQueue(queue.to_str_lossy().into_owned()));
                }
                Ok(Method::Queue(queue::Method::Delete(queue::Delete { queue, .. }))) => {
                    observed.push(Observed::ClearsQueue(queue.to_str_lossy().into_owned()));
                }
                Ok(Method::Basic(basic::Method::Consume(consume))) => {
                    let queue = consume.queue.to_str_lossy().into_owned();
                    let tag = consume.consumer_tag.to_str_lossy().into_owned();
                    let consumer = (queue.clone(), consume.no_ack);
                    self.consumers.insert(tag.clone(), consumer);
                    observed.push(Observed::Consumes { queue, tag });
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

    /// Decodes bytes that the broker sent.
    pub(crate) fn observe_broker_bytes(&mut self, bytes: &[u8]) -> Vec<Observed> {
        let mut observed = Vec::new();
        for frame in self.broker.split(bytes) {
            if frame.is_method() {
                self.observe_method(&frame, &mut observed);
            } else if frame.is_header()
                && let Ok(header) = ContentHeader::decode(frame.payload())
            {
                let body = (attempt_of(&header.properties), header.body_size);
                self.bodies.insert(frame.channel(), body);
            } else if frame.is_body() {
                observed.extend(self.observe_body(&frame));
            }
        }
        observed
    }

    /// Decodes a body frame of the broker. Returns a fact at the end of a content: a message whose
    /// content does not end was not delivered or returned.
    fn observe_body(&mut self, frame: &Frame) -> Option<Observed> {
        let channel = frame.channel();
        let (attempt, missing) = self.bodies.get_mut(&channel)?;
        *missing = missing.saturating_sub(frame.payload().len() as u64);
        let (attempt, is_whole) = (*attempt, *missing == 0);
        match self.contents.get_mut(&channel)? {
            Content::WithoutAck { id, .. }
            | Content::Returned { id }
            | Content::Redelivered { id } => *id = id.or(id_of(frame.payload())),
            Content::Other => {}
        }
        if !is_whole {
            return None;
        }
        match self.contents.remove(&channel)? {
            Content::WithoutAck { queue, id } => Some(Observed::SentWithoutAck {
                queue,
                copy: copy_of(id?, attempt),
            }),
            Content::Returned { id } => Some(Observed::Returned(copy_of(id?, attempt))),
            Content::Redelivered { id } => Some(Observed::Redelivered(copy_of(id?, attempt))),
            Content::Other => None,
        }
    }

    /// Decodes a method of the broker.
    fn observe_method(&mut self, frame: &Frame, observed: &mut Vec<Observed>) {
        let number = frame.channel();
        let content_of = |request: Option<&(String, bool)>| match request {
            Some((queue, true)) => Content::WithoutAck {
                queue: queue.clone(),
                id: None,
            },
            _ => Content::Other,
        };
        let method = Method::decode(frame.payload());
        if let Ok(method) = &method {
            self.starts.observe_reply(number, method);
        }
        match method {
            Ok(Method::Basic(basic::Method::Deliver(deliver))) => {
                let content = content_of(self.consumers.get(&*deliver.consumer_tag.to_str_lossy()));
                let content = match content {
                    Content::Other if deliver.redelivered => Content::Redelivered { id: None },
                    content => content,
                };
                self.contents.insert(number, content);
            }
            Ok(Method::Basic(basic::Method::GetOk(_))) => {
                let request = self.gets.entry(number).or_default().pop_front();
                self.contents.insert(number, content_of(request.as_ref()));
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
                self.broker_closed = true;
                let text = close.reply_text.to_str_lossy().into_owned();
                observed.push(Observed::Closed {
                    code: close.reply_code,
                    text,
                });
            }
            Ok(Method::Connection(connection::Method::OpenOk(_))) => {
                observed.push(Observed::Opened)
            }
            Ok(Method::Connection(connection::Method::CloseOk(_))) if !self.broker_closed => {
                observed.push(Observed::CloseOk)
            }
            _ => {}
        }
    }
}

/// Returns the fact that a method has an empty queue name. `queue.declare` is excluded, because its
/// empty name asks the broker for one.
fn empty_queue_name(method: &Method<'_>) -> Option<Observed> {
    let queue = match method {
        Method::Queue(queue::Method::Purge(method)) => method.queue,
        Method::Queue(queue::Method::Delete(method)) => method.queue,
        Method::Queue(queue::Method::Bind(method)) => method.queue,
        Method::Queue(queue::Method::Unbind(method)) => method.queue,
        Method::Basic(basic::Method::Get(method)) => method.queue,
        Method::Basic(basic::Method::Consume(method)) => method.queue,
        _ => return None,
    };
    (queue == ShortStr::EMPTY).then(|| Observed::EmptyQueueName(method.id()))
}

/// Returns the id of a message, which is at the start of its body.
pub(crate) fn id_of(body: &[u8]) -> Option<u64> {
    body.first_chunk::<8>()
        .map(|bytes| u64::from_be_bytes(*bytes))
}

/// Returns the body of a message. It starts with the id, and the other bytes depend on it, so that
/// every byte can be checked.
pub(crate) fn body_of(id: u64, bytes: usize) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    body.extend(
        (8..bytes).map(|position| (position as u64).wrapping_mul(31).wrapping_add(id) as u8),
    );
    body
}
