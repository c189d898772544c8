//! The shared broker and its in-memory streams.

#![cfg(test)]

mod client;

use client::{all_capabilities, consume, declare, publish, s};
use futures_io::{AsyncRead, AsyncWrite};
use puka::protocol::method::{Encode, basic, channel, connection, queue};
use puka::protocol::{ContentHeader, Decoder, MethodId, Properties, frame};
use puka_test_broker::{Config, Listener, Server, Stream};
use std::io::{self, Read, Write};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

/// A waker that counts its wake-ups.
#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

struct Peer {
    stream: Stream,
    woken: Arc<Count>,
    decoder: Decoder,
}

impl Peer {
    fn new(server: &Server) -> Self {
        Self {
            stream: server.connect(),
            woken: Arc::default(),
            decoder: Decoder::new(),
        }
    }

    fn woken(&self) -> usize {
        self.woken.0.load(Ordering::SeqCst)
    }

    fn poll_write(&mut self, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let waker = Waker::from(Arc::clone(&self.woken));
        Pin::new(&mut self.stream).poll_write(&mut Context::from_waker(&waker), bytes)
    }

    fn poll_read(&mut self, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let waker = Waker::from(Arc::clone(&self.woken));
        Pin::new(&mut self.stream).poll_read(&mut Context::from_waker(&waker), buffer)
    }

    fn send(&mut self, channel: u16, method: &impl Encode) {
        let mut bytes = Vec::new();
        frame::method(&mut bytes, channel, u32::MAX, method).unwrap();
        assert!(matches!(self.poll_write(&bytes), Poll::Ready(Ok(count)) if count == bytes.len()));
    }

    /// Reads until a read is pending. Returns the received methods.
    fn received(&mut self) -> Vec<MethodId> {
        let mut ids = Vec::new();
        // A small buffer, to split frames anywhere.
        let mut buffer = [0; 100];
        while let Poll::Ready(count) = self.poll_read(&mut buffer) {
            let count = count.unwrap();
            if count == 0 {
                break;
            }
            self.decoder.extend(&buffer[..count]);
        }
        while let Some(frame) = self.decoder.next_frame().unwrap() {
            if frame.kind() == puka::protocol::FrameKind::Method {
                let method = puka::protocol::Method::decode(frame.payload()).unwrap();
                ids.push(method.id());
            }
        }
        ids
    }

    fn open(server: &Server) -> Self {
        let mut peer = Self::new(server);
        assert!(matches!(
            peer.poll_write(b"AMQP\x00\x00\x09\x01"),
            Poll::Ready(Ok(8))
        ));
        let properties = all_capabilities();
        peer.send(
            0,
            &connection::StartOk {
                client_properties: properties.as_ref(),
                mechanism: s("PLAIN"),
                response: b"\0guest\0guest",
                locale: s("en_US"),
            },
        );
        peer.send(
            0,
            &connection::TuneOk {
                channel_max: 10,
                frame_max: 8192,
                heartbeat: 10,
            },
        );
        peer.send(
            0,
            &connection::Open {
                virtual_host: s("/"),
            },
        );
        peer.send(1, &channel::Open {});
        assert_eq!(peer.received().last(), Some(&channel::OpenOk::ID));
        peer
    }
}

#[test]
fn another_connection_wakes_a_reader() {
    let server = Server::default();
    let (mut publisher, mut consumer) = (Peer::open(&server), Peer::open(&server));
    consumer.send(1, &declare("q"));
    consumer.send(1, &consume("q", "tag"));
    assert_eq!(
        consumer.received(),
        [queue::DeclareOk::ID, basic::ConsumeOk::ID]
    );
    let before = consumer.woken();
    publisher.send(1, &publish("", "q"));
    let mut bytes = Vec::new();
    let header = ContentHeader {
        body_size: 0,
        properties: Properties::default(),
    };
    frame::content_header(&mut bytes, 1, u32::MAX, &header).unwrap();
    assert!(publisher.poll_write(&bytes).is_ready());
    assert_eq!(consumer.woken(), before + 1);
    assert_eq!(consumer.received(), [basic::Deliver::ID]);
}

#[test]
fn blocked_writer_waits_and_is_woken() {
    let server = Server::default();
    let mut peer = Peer::open(&server);
    server.with(|broker| broker.block("low on memory"));
    peer.send(1, &publish("", "q"));
    assert_eq!(peer.received(), [connection::Blocked::ID]);
    let mut written = 0;
    while let Poll::Ready(count) = peer.poll_write(&[8, 0, 0, 0, 0, 0, 0, 0xCE].repeat(1000)) {
        written += count.unwrap();
        assert!(written < 1_000_000, "writing must become pending");
    }
    let before = peer.woken();
    let now = server.now();
    server.with(|broker| broker.unblock(now));
    // The heartbeats were sent within the content, which is allowed anywhere.
    assert!(peer.woken() > before);
    assert_eq!(peer.received(), [connection::Unblocked::ID]);
    assert!(peer.poll_write(&[8]).is_ready());
}

#[test]
fn dropping_a_stream_ends_the_connection() {
    let server = Server::default();
    let mut peer = Peer::open(&server);
    peer.send(
        1,
        &queue::Declare {
            exclusive: true,
            ..declare("q")
        },
    );
    assert_eq!(server.with(|broker| broker.queues().len()), 1);
    drop(peer);
    assert_eq!(
        server.with(|broker| (broker.queues().len(), broker.connections().len())),
        (0, 0)
    );
}

#[test]
fn closed_stream_ends_and_refuses_writes() {
    let server = Server::default();
    let mut peer = Peer::open(&server);
    let (id, now) = (peer.stream.id(), server.now());
    assert!(peer.poll_read(&mut [0; 1]).is_pending());
    server.with(|broker| broker.drop_connection(now, id));
    assert_eq!(peer.woken(), 1);
    assert!(matches!(peer.poll_read(&mut [0; 1]), Poll::Ready(Ok(0))));
    let written = peer.poll_write(&[0]);
    assert!(
        matches!(written, Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe)
    );
    let waker = Waker::noop();
    let mut peer = Peer::open(&server);
    assert!(
        Pin::new(&mut peer.stream)
            .poll_close(&mut Context::from_waker(waker))
            .is_ready()
    );
    assert!(matches!(peer.poll_read(&mut [0; 1]), Poll::Ready(Ok(0))));
}

#[test]
fn time_passes_with_tick() {
    let clock = Arc::new(Mutex::new(Instant::now()));
    let theirs = Arc::clone(&clock);
    let server = Server::with_clock(Config::default(), move || *theirs.lock().unwrap());
    let mut peer = Peer::open(&server);
    assert!(peer.received().is_empty());
    let next = server.tick().unwrap();
    assert_eq!(next, server.now() + Duration::from_secs(5));
    *clock.lock().unwrap() = next;
    assert_eq!(peer.woken(), 0);
    server.tick();
    assert_eq!(peer.woken(), 1);
    let mut buffer = [0; 8];
    assert!(matches!(peer.poll_read(&mut buffer), Poll::Ready(Ok(8))));
    assert_eq!(buffer, [8, 0, 0, 0, 0, 0, 0, 0xCE]);
}

#[test]
fn timer_thread_handles_deadlines() {
    let config = Config {
        refusal_delay: Duration::from_millis(50),
        ..Config::default()
    };
    let listener = Listener::bind("127.0.0.1:0", Server::new(config)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || listener.run());
    let mut socket = std::net::TcpStream::connect(address).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    socket.write_all(b"AMQP\x00\x00\x09\x01").unwrap();
    let mut bytes = Vec::new();
    frame::method(
        &mut bytes,
        0,
        u32::MAX,
        &connection::StartOk {
            client_properties: puka::protocol::TableRef::EMPTY,
            mechanism: s("NONE"),
            response: b"",
            locale: s("en_US"),
        },
    )
    .unwrap();
    socket.write_all(&bytes).unwrap();
    let mut all = Vec::new();
    socket.read_to_end(&mut all).unwrap();
    assert_eq!(all[..3], [1, 0, 0]);
}
