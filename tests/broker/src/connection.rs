//! The state of a connection: its phase, the bytes in both directions, and its channels.

use crate::channel::Channel;
use crate::config::{Config, User};
use bytes::Bytes;
use puka::protocol::method::{Encode, connection};
use puka::protocol::{ContentHeader, Decoder, Properties, frame};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The timeout for `close-ok`, and for the client to close the transport.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);

/// The phase of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Waits for the protocol header of eight bytes.
    ProtocolHeader { deadline: Instant },
    /// Has sent `start`, and waits for `start-ok`.
    StartOk { deadline: Instant },
    /// Has sent `secure`, the challenge of RABBIT-CR-DEMO, and waits for `secure-ok`.
    SecureOk { deadline: Instant },
    /// Has sent `tune`, and waits for `tune-ok`.
    TuneOk { deadline: Instant },
    /// Waits for `open`.
    Open { deadline: Instant },
    /// Open.
    Running,
    /// Has sent `close`, and waits for `close-ok`.
    Closing { deadline: Instant },
    /// Has sent `close-ok`, and waits for the client to close the transport.
    CloseOkSent { deadline: Instant },
    /// The client has failed to log in. The broker closes the transport at the deadline, without a
    /// frame.
    LoginRefused { deadline: Instant },
    /// The transport must be closed.
    Closed,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) phase: Phase,
    pub(crate) decoder: Decoder,
    /// The first bytes, up to eight, which are not a frame.
    pub(crate) protocol_header: Vec<u8>,
    output: Vec<u8>,
    /// The number of output bytes that have been taken.
    taken: usize,
    /// A delivery to one of its consumers was skipped because of its unsent output.
    pub(crate) stalled: bool,
    pub(crate) channels: BTreeMap<u16, Channel>,
    pub(crate) vhost: Arc<str>,
    pub(crate) user: User,
    pub(crate) client_properties: puka::protocol::Table,
    pub(crate) channel_max: u16,
    /// The negotiated maximum; 0 for no limit.
    pub(crate) frame_max: u32,
    pub(crate) heartbeat: Duration,
    last_sent: Instant,
    pub(crate) last_received: Instant,
    /// The connection has published while memory was low, so nothing that it sends is processed.
    pub(crate) blocked: bool,
}

impl Connection {
    pub(crate) fn new(config: &Config, now: Instant) -> Self {
        Self {
            phase: Phase::ProtocolHeader {
                deadline: now + config.handshake_timeout,
            },
            decoder: Decoder::new(),
            protocol_header: Vec::new(),
            output: Vec::new(),
            taken: 0,
            stalled: false,
            channels: BTreeMap::new(),
            vhost: Arc::from(""),
            user: User::new("", ""),
            client_properties: puka::protocol::Table::new(),
            channel_max: config.channel_max,
            frame_max: config.frame_max,
            heartbeat: Duration::ZERO,
            last_sent: now,
            last_received: now,
            blocked: false,
        }
    }

    /// Returns `true` if the client announced a capability as true.
    pub(crate) fn has_capability(&self, name: &str) -> bool {
        let Some(puka::protocol::Value::Table(capabilities)) =
            self.client_properties.get("capabilities")
        else {
            return false;
        };
        capabilities
            .get(name)
            .and_then(|value| value.as_bool())
            .unwrap_or(false)
    }

    /// Returns `true` if frames of the client are processed.
    pub(crate) fn accepts_input(&self) -> bool {
        !self.blocked && self.is_usable()
    }

    /// Returns `true` unless the connection only waits for the end of its transport.
    pub(crate) fn is_usable(&self) -> bool {
        !matches!(
            self.phase,
            Phase::Closed | Phase::CloseOkSent { .. } | Phase::LoginRefused { .. }
        )
    }

    /// Writes a method. A method cannot be split, so `frame_max` is not applied.
    pub(crate) fn send(&mut self, now: Instant, channel: u16, method: &impl Encode) {
        if self.is_usable() {
            frame::method(&mut self.output, channel, u32::MAX, method).unwrap_or_default();
            self.last_sent = now;
        }
    }

    /// Writes a method with its content.
    pub(crate) fn send_content(
        &mut self,
        now: Instant,
        channel: u16,
        method: &impl Encode,
        properties: &Properties<'_>,
        body: &[u8],
    ) {
        if !self.is_usable() {
            return;
        }
        self.send(now, channel, method);
        let header = ContentHeader {
            body_size: u64::try_from(body.len()).unwrap_or(u64::MAX),
            properties: *properties,
        };
        frame::content_header(&mut self.output, channel, u32::MAX, &header).unwrap_or_default();
        let frame_max = if self.frame_max == 0 {
            u32::MAX
        } else {
            self.frame_max
        };
        frame::body(&mut self.output, channel, frame_max, body);
    }

    /// Writes bytes that are not a frame.
    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
    }

    /// Sends `connection.close`. The client must reply with `close-ok` within the heartbeat
    /// interval, and within 30 s.
    pub(crate) fn send_close(&mut self, now: Instant, close: &connection::Close<'_>) {
        self.send(now, 0, close);
        let timeout = if self.heartbeat.is_zero() {
            CLOSE_TIMEOUT
        } else {
            self.heartbeat.min(CLOSE_TIMEOUT)
        };
        self.phase = Phase::Closing {
            deadline: now + timeout,
        };
    }

    /// Answers `close`, and sends nothing afterwards.
    pub(crate) fn send_close_ok(&mut self, now: Instant) {
        self.send(now, 0, &connection::CloseOk {});
        self.phase = Phase::CloseOkSent {
            deadline: now + CLOSE_TIMEOUT,
        };
    }

    /// Ends the connection without sending anything.
    pub(crate) fn drop_transport(&mut self) {
        self.phase = Phase::Closed;
    }

    /// Returns the number of bytes to send.
    pub(crate) fn output_len(&self) -> usize {
        self.output.len() - self.taken
    }

    /// Takes all bytes to send.
    pub(crate) fn take_output(&mut self) -> Bytes {
        let output = Bytes::from(std::mem::take(&mut self.output)).slice(self.taken..);
        self.taken = 0;
        output
    }

    /// Takes as many bytes as the buffer has room for, and returns their number.
    pub(crate) fn read_output(&mut self, buffer: &mut [u8]) -> usize {
        let waiting = &self.output[self.taken..];
        let count = waiting.len().min(buffer.len());
        buffer[..count].copy_from_slice(&waiting[..count]);
        self.taken += count;
        if self.taken == self.output.len() {
            self.output.clear();
            self.taken = 0;
        } else if self.taken > self.output.len() / 2 {
            self.output.drain(..self.taken);
            self.taken = 0;
        }
        count
    }

    /// Returns the next deadline.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Running => [self.next_heartbeat(), self.silence_deadline()]
                .into_iter()
                .flatten()
                .min(),
            // RabbitMQ sends heartbeats once it has received `tune-ok`.
            Phase::Open { deadline } => self.next_heartbeat().into_iter().chain([deadline]).min(),
            Phase::ProtocolHeader { deadline }
            | Phase::StartOk { deadline }
            | Phase::SecureOk { deadline }
            | Phase::TuneOk { deadline }
            | Phase::Closing { deadline }
            | Phase::CloseOkSent { deadline }
            | Phase::LoginRefused { deadline } => Some(deadline),
            Phase::Closed => None,
        }
    }

    /// Returns when to send a heartbeat: half of the timeout after the last output.
    fn next_heartbeat(&self) -> Option<Instant> {
        (!self.heartbeat.is_zero()).then(|| self.last_sent + self.heartbeat / 2)
    }

    /// Returns when the client counts as lost: RabbitMQ waits two to three timeouts after the last
    /// input. It does not monitor a client that it has blocked.
    fn silence_deadline(&self) -> Option<Instant> {
        (!self.heartbeat.is_zero() && !self.blocked)
            .then(|| self.last_received + 2 * self.heartbeat)
    }

    /// Handles the deadline that was reached.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        match self.phase {
            Phase::Running if due(self.silence_deadline()) => self.drop_transport(),
            Phase::Running | Phase::Open { .. } if due(self.next_heartbeat()) => {
                frame::heartbeat(&mut self.output);
                self.last_sent = now;
            }
            Phase::Running | Phase::Closed => {}
            Phase::Open { deadline }
            | Phase::ProtocolHeader { deadline }
            | Phase::StartOk { deadline }
            | Phase::SecureOk { deadline }
            | Phase::TuneOk { deadline }
            | Phase::Closing { deadline }
            | Phase::CloseOkSent { deadline }
            | Phase::LoginRefused { deadline } => {
                if deadline <= now {
                    self.drop_transport();
                }
            }
        }
    }
}
