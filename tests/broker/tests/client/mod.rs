//! A client of raw frames, and its broker, for the tests in this folder.
//!
//! With `PUKA_COMPARE=host:port` in the environment, the tests that use [`World::default`] run
//! against the RabbitMQ there instead, to verify their facts.
#![allow(
    dead_code,
    unused_imports,
    clippy::allow_attributes,
    reason = "each test program uses only a part"
)]

mod received;
mod requests;
mod world;

pub(crate) use received::{Message, Received};
pub(crate) use requests::{
    all_capabilities, consume, declare, declare_exchange, properties, publish, s, table,
};
pub(crate) use world::World;

use puka::protocol::method::{Encode, basic, channel, confirm, connection, exchange, queue};
use puka::protocol::{ContentHeader, Decoder, FrameKind, Method, Properties, Table, frame};
use puka_test_broker::ConnectionId;
use std::io::{Read, Write};
use std::time::Duration;
use world::Wire;

/// The client's end of a connection.
pub(crate) struct Client {
    wire: Wire,
    decoder: Decoder,
    pub(crate) frame_max: u32,
}

impl Client {
    pub(crate) fn id(&self) -> ConnectionId {
        match &self.wire {
            Wire::Memory(_, id) => *id,
            Wire::Tcp(_) => panic!("not supported with a real broker"),
        }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        match &mut self.wire {
            Wire::Memory(world, id) => {
                world.broker_mut(|broker, now| broker.handle_input(now, *id, bytes))
            }
            Wire::Tcp(socket) => drop(socket.write_all(bytes)),
        }
    }

    /// Closes the transport.
    pub(crate) fn close_transport(self) {
        if let Wire::Memory(world, id) = &self.wire {
            world.broker_mut(|broker, now| broker.handle_eof(now, *id));
        }
    }

    /// Reads what has arrived. Returns `false` if there is nothing.
    fn fill(&mut self, patience: Duration) -> bool {
        match &mut self.wire {
            Wire::Memory(world, id) => {
                let bytes = world.broker_mut(|broker, _| broker.poll_transmit(*id));
                self.decoder.extend(bytes.as_deref().unwrap_or_default());
                bytes.is_some()
            }
            Wire::Tcp(socket) => {
                socket.set_read_timeout(Some(patience)).unwrap();
                let mut buffer = [0; 65_536];
                let count = socket.read(&mut buffer).unwrap_or(0);
                self.decoder.extend(&buffer[..count]);
                count > 0
            }
        }
    }

    /// Returns the next frame, if one arrives.
    pub(crate) fn poll(&mut self) -> Option<Received> {
        self.poll_within(Duration::from_millis(300))
    }

    fn poll_within(&mut self, patience: Duration) -> Option<Received> {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                let (kind, channel) = (frame.kind(), frame.channel());
                return Some(Received {
                    kind,
                    channel,
                    payload: frame.into_payload(),
                });
            }
            if !self.fill(patience) {
                return None;
            }
        }
    }

    #[track_caller]
    pub(crate) fn next(&mut self) -> Received {
        match self.poll_within(Duration::from_secs(5)) {
            Some(received) => received,
            None => panic!("nothing was received"),
        }
    }

    /// Returns `true` if the broker has closed the transport and there is nothing to read.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.is_closed_within(Duration::from_millis(500))
    }

    fn is_closed_within(&mut self, patience: Duration) -> bool {
        match &mut self.wire {
            Wire::Memory(world, id) => world.broker.borrow().is_closed(*id),
            Wire::Tcp(socket) => {
                socket.set_read_timeout(Some(patience)).unwrap();
                match socket.read(&mut [0; 1]) {
                    Ok(count) => count == 0,
                    Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
                }
            }
        }
    }

    #[track_caller]
    pub(crate) fn quiet(&mut self) {
        if let Some(received) = self.poll() {
            panic!("expected nothing, got {received:?}");
        }
    }

    pub(crate) fn send(&mut self, channel: u16, method: &impl Encode) {
        let mut bytes = Vec::new();
        frame::method(&mut bytes, channel, u32::MAX, method).unwrap();
        self.write(&bytes);
    }

    #[track_caller]
    pub(crate) fn expect<'m>(&mut self, channel: u16, method: impl Into<Method<'m>>) {
        let received = self.next();
        assert_eq!(
            (received.channel, received.method()),
            (channel, method.into())
        );
    }

    #[track_caller]
    pub(crate) fn expect_kind(&mut self, channel: u16, id: puka::protocol::MethodId) -> Received {
        let received = self.next();
        assert_eq!(
            (received.channel, received.method().id()),
            (channel, id),
            "{received:?}"
        );
        received
    }

    /// Sends a method and expects the reply.
    #[track_caller]
    pub(crate) fn call<'m>(
        &mut self,
        channel: u16,
        method: &impl Encode,
        answer: impl Into<Method<'m>>,
    ) {
        self.send(channel, method);
        self.expect(channel, answer);
    }

    /// Sends a method that is a channel error, answers the close, and opens the channel again.
    #[track_caller]
    pub(crate) fn refused(&mut self, channel: u16, method: &impl Encode, code: u16) -> String {
        self.send(channel, method);
        self.expect_channel_close(channel, code)
    }

    #[track_caller]
    pub(crate) fn expect_channel_close(&mut self, channel: u16, code: u16) -> String {
        let received = self.next();
        assert_eq!(received.channel, channel);
        let text = match received.method() {
            Method::Channel(channel::Method::Close(close)) if close.reply_code == code => {
                close.reply_text.to_str_lossy().into_owned()
            }
            other => panic!("expected channel.close {code}, got {other:?}"),
        };
        self.send(channel, &channel::CloseOk {});
        self.open(channel);
        text
    }

    /// Expects the connection to be closed with a code, answers the close, and checks that the
    /// transport is closed.
    #[track_caller]
    pub(crate) fn expect_close(&mut self, code: u16) -> String {
        let received = self.next();
        let text = match received.method() {
            Method::Connection(connection::Method::Close(close)) if close.reply_code == code => {
                close.reply_text.to_str_lossy().into_owned()
            }
            other => panic!("expected connection.close {code}, got {other:?}"),
        };
        self.send(0, &connection::CloseOk {});
        assert!(
            self.is_closed_within(Duration::from_secs(5)),
            "the transport is open"
        );
        text
    }

    #[track_caller]
    pub(crate) fn start(&mut self, client_properties: &Table, mechanism: &str, response: &[u8]) {
        self.write(b"AMQP\x00\x00\x09\x01");
        self.expect_kind(0, connection::Start::ID);
        let client_properties = client_properties.as_ref();
        let mechanism = s(mechanism);
        self.send(
            0,
            &connection::StartOk {
                client_properties,
                mechanism,
                response,
                locale: s("en_US"),
            },
        );
    }

    #[track_caller]
    pub(crate) fn open(&mut self, channel: u16) {
        self.call(channel, &channel::Open {}, channel::OpenOk {});
    }

    #[track_caller]
    pub(crate) fn confirm_select(&mut self, channel: u16) {
        self.call(
            channel,
            &confirm::Select { nowait: false },
            confirm::SelectOk {},
        );
    }

    /// Deletes and declares a queue without arguments.
    #[track_caller]
    pub(crate) fn queue(&mut self, channel: u16, name: &str) {
        self.queue_with(channel, name, &Table::new());
    }

    #[track_caller]
    pub(crate) fn queue_with(&mut self, channel: u16, name: &str, arguments: &Table) {
        self.send(
            channel,
            &queue::Delete {
                queue: s(name),
                if_unused: false,
                if_empty: false,
                nowait: true,
            },
        );
        self.send(
            channel,
            &queue::Declare {
                arguments: arguments.as_ref(),
                ..declare(name)
            },
        );
        let expected = queue::DeclareOk {
            queue: s(name),
            message_count: 0,
            consumer_count: 0,
        };
        self.expect(channel, expected);
    }

    /// Deletes and declares an exchange.
    #[track_caller]
    pub(crate) fn exchange(&mut self, channel: u16, name: &str, kind: &str) {
        self.exchange_with(channel, name, kind, &Table::new());
    }

    #[track_caller]
    pub(crate) fn exchange_with(
        &mut self,
        channel: u16,
        name: &str,
        kind: &str,
        arguments: &Table,
    ) {
        self.send(
            channel,
            &exchange::Delete {
                exchange: s(name),
                if_unused: false,
                nowait: true,
            },
        );
        let arguments = arguments.as_ref();
        self.call(
            channel,
            &exchange::Declare {
                arguments,
                ..declare_exchange(name, kind)
            },
            exchange::DeclareOk {},
        );
    }

    #[track_caller]
    pub(crate) fn bind(
        &mut self,
        channel: u16,
        queue: &str,
        exchange: &str,
        key: &str,
        arguments: &Table,
    ) {
        let (queue, exchange, routing_key) = (s(queue), s(exchange), s(key));
        let arguments = arguments.as_ref();
        self.call(
            channel,
            &queue::Bind {
                queue,
                exchange,
                routing_key,
                nowait: false,
                arguments,
            },
            queue::BindOk {},
        );
    }

    pub(crate) fn publish(&mut self, channel: u16, exchange: &str, key: &str, body: &str) {
        self.publish_with(
            channel,
            &publish(exchange, key),
            &Properties::default(),
            body.as_bytes(),
        );
    }

    pub(crate) fn publish_with(
        &mut self,
        channel: u16,
        method: &basic::Publish<'_>,
        properties: &Properties<'_>,
        body: &[u8],
    ) {
        let mut bytes = Vec::new();
        frame::method(&mut bytes, channel, u32::MAX, method).unwrap();
        let header = ContentHeader {
            body_size: body.len().try_into().unwrap(),
            properties: *properties,
        };
        frame::content_header(&mut bytes, channel, u32::MAX, &header).unwrap();
        frame::body(&mut bytes, channel, self.frame_max, body);
        self.write(&bytes);
    }

    /// Publishes and waits for the confirm, on a channel in confirm mode.
    #[track_caller]
    pub(crate) fn publish_confirmed(
        &mut self,
        channel: u16,
        exchange: &str,
        key: &str,
        body: &str,
    ) {
        self.publish(channel, exchange, key, body);
        self.expect_kind(channel, basic::Ack::ID);
    }

    /// Publishes to a queue, receives the confirm and the delivery in either order, settles
    /// nothing, and returns the consumer's tag.
    #[track_caller]
    pub(crate) fn publish_confirmed_and_delivered(
        &mut self,
        channel: u16,
        queue: &str,
        tags: &mut Vec<String>,
    ) {
        self.publish(channel, "", queue, "x");
        for _ in 0..2 {
            let received = self.next();
            if received.method().id() == basic::Deliver::ID {
                let message = self.content(received);
                tags.push(message.deliver().consumer_tag.to_str_lossy().into_owned());
            } else {
                assert_eq!(received.method().id(), basic::Ack::ID);
            }
        }
    }

    #[track_caller]
    pub(crate) fn consume(&mut self, channel: u16, queue: &str, tag: &str) {
        self.call(
            channel,
            &consume(queue, tag),
            basic::ConsumeOk {
                consumer_tag: s(tag),
            },
        );
    }

    #[track_caller]
    pub(crate) fn qos(&mut self, channel: u16, prefetch_count: u16, global: bool) {
        self.call(
            channel,
            &basic::Qos {
                prefetch_size: 0,
                prefetch_count,
                global,
            },
            basic::QosOk {},
        );
    }

    /// Returns the next method and its content.
    #[track_caller]
    pub(crate) fn message(&mut self) -> Message {
        let method = self.next();
        self.content(method)
    }

    /// Returns the content of a method.
    #[track_caller]
    pub(crate) fn content(&mut self, method: Received) -> Message {
        assert!(
            method.method().info().has_content,
            "expected a content, got {method:?}"
        );
        let header = self.next();
        assert_eq!(
            (header.kind, header.channel),
            (FrameKind::Header, method.channel)
        );
        let size = ContentHeader::decode(&header.payload).unwrap().body_size;
        let (mut body, mut frames) = (Vec::new(), Vec::new());
        while (body.len() as u64) < size {
            let part = self.next();
            assert_eq!((part.kind, part.channel), (FrameKind::Body, method.channel));
            body.extend_from_slice(&part.payload);
            frames.push(part.payload.len());
        }
        Message {
            method,
            header: header.payload,
            body,
            frames,
        }
    }

    /// Gets a message and leaves it unsettled.
    #[track_caller]
    pub(crate) fn get(&mut self, channel: u16, queue: &str) -> Option<Message> {
        self.send(
            channel,
            &basic::Get {
                queue: s(queue),
                no_ack: false,
            },
        );
        self.got(channel)
    }

    #[track_caller]
    pub(crate) fn got(&mut self, channel: u16) -> Option<Message> {
        let received = self.next();
        assert_eq!(received.channel, channel);
        if received.method() == (basic::GetEmpty {}).into() {
            return None;
        }
        Some(self.content(received))
    }

    /// Gets and removes all messages, and returns their bodies.
    #[track_caller]
    pub(crate) fn drain(&mut self, channel: u16, queue: &str) -> Vec<String> {
        let mut bodies = Vec::new();
        loop {
            self.send(
                channel,
                &basic::Get {
                    queue: s(queue),
                    no_ack: true,
                },
            );
            match self.got(channel) {
                Some(message) => bodies.push(message.text().to_string()),
                None => return bodies,
            }
        }
    }

    /// Returns the number of ready messages and of consumers.
    #[track_caller]
    pub(crate) fn counts(&mut self, channel: u16, queue: &str) -> (u32, u32) {
        self.send(
            channel,
            &queue::Declare {
                passive: true,
                ..declare(queue)
            },
        );
        match self.next().method() {
            Method::Queue(queue::Method::DeclareOk(ok)) => (ok.message_count, ok.consumer_count),
            other => panic!("expected queue.declare-ok, got {other:?}"),
        }
    }

    pub(crate) fn ack(&mut self, channel: u16, delivery_tag: u64, multiple: bool) {
        self.send(
            channel,
            &basic::Ack {
                delivery_tag,
                multiple,
            },
        );
    }

    pub(crate) fn nack(&mut self, channel: u16, delivery_tag: u64, multiple: bool, requeue: bool) {
        self.send(
            channel,
            &basic::Nack {
                delivery_tag,
                multiple,
                requeue,
            },
        );
    }
}
