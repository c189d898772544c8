//! Executes the dial plan with sockets that do not block. Only resolving a name blocks.
//!
//! Several sockets may be connecting at once, and an event loop of the program knows only one: that
//! of the stream. The oldest one is in the stream, so that it is closed whenever another one takes
//! its place, as [`Stream::generation`] promises. The younger ones are looked at by a timer.

use crate::driver::{Address, AttemptId, DialPlan, DialStep, LastAddresses, Security};
use crate::error::Error;
use crate::evented::dial_state::{DialInterest, Progress, StreamDialler};
use crate::evented::socket::Socket;
use crate::evented::stream::Stream;
#[cfg(feature = "tls")]
use crate::evented::tls_socket::TlsSocket;
use crate::machine::{Dialling, earlier, later};
use crate::options::Options;
use std::collections::VecDeque;
use std::net::ToSocketAddrs;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

/// How often the sockets that are not in the stream are looked at. There are such sockets only if
/// an address has not answered for 250 ms, and this is short compared with that.
const CHECK_INTERVAL: Duration = Duration::from_millis(10);

/// Dials the endpoints of the options, any number of times.
pub(super) struct EndpointDialler {
    options: Options,
    last_addresses: LastAddresses,
    round: Option<DialRound>,
}

impl EndpointDialler {
    pub(super) fn new(options: Options) -> Self {
        Self {
            options,
            last_addresses: LastAddresses::default(),
            round: None,
        }
    }
}

impl StreamDialler<Stream> for EndpointDialler {
    fn begin(
        &mut self,
        stream: &mut Stream,
        dialling: &Dialling,
        now: Instant,
    ) -> Result<Progress, Error> {
        let preferred = self.last_addresses.begin_dialling(dialling.was_open);
        self.round = Some(DialRound {
            security: Security::new(&self.options)?,
            plan: DialPlan::new(&self.options, dialling, preferred, now),
            in_stream: None,
            others: VecDeque::new(),
            is_connected: false,
        });
        self.continue_dialling(stream, now)
    }

    fn continue_dialling(&mut self, stream: &mut Stream, now: Instant) -> Result<Progress, Error> {
        let Some(mut round) = self.round.take() else {
            // Unreachable: `begin` sets the round, and only a stream that is dialling continues.
            return self.begin(stream, &Dialling::default(), now);
        };
        if let Some(interest) = round.continue_dialling(stream, &self.options, now) {
            self.round = Some(round);
            return Ok(Progress::Pending(interest));
        }
        let is_private = stream.socket.is_private();
        let winner = round.in_stream.filter(|_| round.is_connected);
        let Some(dialled) = winner.and_then(|id| round.plan.take_dialled(id, is_private)) else {
            return Err(round.plan.into_error());
        };
        self.last_addresses
            .record_dialled(dialled.endpoint, dialled.address);
        Ok(Progress::Ready(dialled))
    }

    fn disconnect(&mut self, stream: &mut Stream) {
        self.round = None;
        stream.disconnect();
    }

    fn received_counter(&self, stream: &Stream) -> Option<Arc<AtomicUsize>> {
        stream.socket.received_counter()
    }
}

/// One round over the endpoints.
struct DialRound {
    #[cfg_attr(
        not(feature = "tls"),
        expect(dead_code, reason = "without TLS it only checks the options")
    )]
    security: Security,
    plan: DialPlan,
    /// The attempt whose socket is in the stream; `None` if the stream has a placeholder.
    in_stream: Option<AttemptId>,
    /// The sockets that are not in the stream, the oldest first.
    others: VecDeque<(AttemptId, Socket)>,
    /// The TCP connection of the stream is established. The TLS handshake is pending or complete.
    is_connected: bool,
}

impl DialRound {
    /// Continues with all pending attempts, and begins the next ones that are due. Returns what to
    /// wait for, or `None` at the end: the stream is connected, or everything has failed.
    fn continue_dialling(
        &mut self,
        stream: &mut Stream,
        options: &Options,
        now: Instant,
    ) -> Option<DialInterest> {
        // Before the deadlines: the sockets may have been connected while a name was resolved.
        self.check_sockets(stream, now);
        if self.is_connected && self.continue_handshake(stream, now) {
            return None;
        }
        while let Some(expired) = self.plan.poll_expired(now) {
            self.drop_socket(expired, stream);
        }
        self.begin_steps(stream, options, now)
    }

    /// Begins the steps that are due. Returns what to wait for, or `None` if everything has failed.
    /// A socket that is connected at once is noticed by the next call, so that connecting a client
    /// does not return errors of a handshake.
    fn begin_steps(
        &mut self,
        stream: &mut Stream,
        options: &Options,
        now: Instant,
    ) -> Option<DialInterest> {
        let mut now = now;
        while let Some((id, step)) = self.plan.poll_step(now) {
            self.begin_step(id, step, stream, options, now);
            // Resolving a name blocks, so time has passed.
            now = now.max(Instant::now());
        }
        (!self.plan.is_over()).then(|| self.interest(stream, now))
    }

    fn begin_step(
        &mut self,
        id: AttemptId,
        step: DialStep,
        stream: &mut Stream,
        options: &Options,
        now: Instant,
    ) {
        match step {
            DialStep::Resolve { host, port } => {
                let resolved = (&*host, port).to_socket_addrs();
                let now = now.max(Instant::now());
                match resolved {
                    Ok(addresses) => self.plan.handle_resolved(id, addresses, now),
                    Err(error) => self.plan.handle_io_error(id, &error, now),
                }
            }
            DialStep::Connect(address) => match self.begin_connect(id, &address, options) {
                Ok(Ok(socket)) if self.in_stream.is_none() => {
                    stream.set(socket);
                    self.in_stream = Some(id);
                }
                Ok(Ok(socket)) => self.others.push_back((id, socket)),
                Ok(Err(error)) => self.plan.handle_failure(id, error, now),
                Err(error) => self.plan.handle_io_error(id, &error, now),
            },
        }
    }

    /// Returns a socket that connects to the address, with TLS over it if the options ask for TLS.
    fn begin_connect(
        &self,
        id: AttemptId,
        address: &Address,
        options: &Options,
    ) -> std::io::Result<Result<Socket, Error>> {
        let socket = Socket::begin_connect(address, options)?;
        Ok(self.add_tls(id, socket, options))
    }

    /// Looks at the sockets that are connecting. The oldest one that is connected wins.
    fn check_sockets(&mut self, stream: &mut Stream, now: Instant) {
        if self.is_connected {
            return;
        }
        if let Some(id) = self.in_stream {
            match stream.socket.is_connected() {
                Ok(true) => return self.choose(id, now),
                Ok(false) => {}
                Err(error) => {
                    self.plan.handle_io_error(id, &error, now);
                    self.drop_socket(id, stream);
                }
            }
        }
        for (id, socket) in std::mem::take(&mut self.others) {
            match socket.is_connected() {
                Ok(true) => {
                    stream.set(socket);
                    self.in_stream = Some(id);
                    return self.choose(id, now);
                }
                Ok(false) => self.others.push_back((id, socket)),
                Err(error) => self.plan.handle_io_error(id, &error, now),
            }
        }
        self.fill_stream(stream);
    }

    /// Drops all sockets but the one in the stream, which is connected.
    fn choose(&mut self, id: AttemptId, now: Instant) {
        self.others.clear();
        self.is_connected = true;
        self.plan.handle_connected(id, now);
    }

    /// Continues the TLS handshake. Returns `true` when it is complete; the socket itself knows
    /// whether there is one.
    fn continue_handshake(&mut self, stream: &mut Stream, now: Instant) -> bool {
        match (stream.socket.continue_handshake(), self.in_stream) {
            (Ok(is_complete), _) => is_complete,
            (Err(error), Some(id)) => {
                self.plan.handle_failure(id, error, now);
                self.drop_socket(id, stream);
                false
            }
            // Unreachable: there is an attempt if its socket is connected.
            (Err(_), None) => false,
        }
    }

    /// Drops the socket of a failed attempt.
    fn drop_socket(&mut self, id: AttemptId, stream: &mut Stream) {
        self.others.retain(|(other, _)| *other != id);
        if self.in_stream == Some(id) {
            self.in_stream = None;
            self.is_connected = false;
            stream.disconnect();
            self.fill_stream(stream);
        }
    }

    /// Moves the oldest socket to the stream, if the stream has none.
    fn fill_stream(&mut self, stream: &mut Stream) {
        if self.in_stream.is_none()
            && let Some((id, socket)) = self.others.pop_front()
        {
            stream.set(socket);
            self.in_stream = Some(id);
        }
    }

    /// Returns what the pending attempts wait for.
    fn interest(&self, stream: &Stream, now: Instant) -> DialInterest {
        let check = (!self.others.is_empty()).then(|| later(now, CHECK_INTERVAL));
        let has_socket = self.in_stream.is_some();
        DialInterest {
            // Something is pending, so there is a deadline.
            deadline: earlier(self.plan.deadline(), check).unwrap_or(now),
            readable: has_socket && self.is_connected,
            // A socket becomes writable when it is connected.
            writable: has_socket && (!self.is_connected || stream.socket.wants_write()),
        }
    }

    /// Returns the socket with TLS over it, if the options ask for TLS.
    #[cfg(feature = "tls")]
    fn add_tls(&self, id: AttemptId, socket: Socket, options: &Options) -> Result<Socket, Error> {
        match (self.security.config(), self.plan.tls_host(id), socket) {
            (Some(config), Some(host), Socket::Tcp(socket)) => {
                let name = crate::tls::server_name(options, host)?;
                Ok(Socket::Tls(
                    TlsSocket::new(socket, config.clone(), name)?.into(),
                ))
            }
            (_, _, socket) => Ok(socket),
        }
    }

    #[cfg(not(feature = "tls"))]
    fn add_tls(&self, _: AttemptId, socket: Socket, _: &Options) -> Result<Socket, Error> {
        Ok(socket)
    }
}

#[cfg(test)]
#[cfg(not(miri))] // It has no sockets.
mod tests;
