//! Executes the dial plan with sockets that do not block. Only resolving a name blocks.

use super::dial_state::{DialInterest, Progress, StreamDialler};
use super::socket::Socket;
use super::stream::Stream;
#[cfg(feature = "tls")]
use super::tls_socket::TlsSocket;
use crate::driver::{DialPlan, DialStep, Security};
use crate::error::Error;
use crate::options::Options;
use std::net::ToSocketAddrs;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

/// Dials the endpoints of the options, any number of times.
pub(super) struct EndpointDialler {
    options: Options,
    attempt: Option<Attempt>,
}

impl EndpointDialler {
    pub(super) fn new(options: Options) -> Self {
        Self {
            options,
            attempt: None,
        }
    }
}

impl StreamDialler<Stream> for EndpointDialler {
    fn begin(
        &mut self,
        stream: &mut Stream,
        first: usize,
        now: Instant,
    ) -> Result<Progress, Error> {
        let attempt = self.attempt.insert(Attempt {
            security: Security::new(&self.options)?,
            plan: DialPlan::new(&self.options, first, now),
            is_connected: false,
        });
        let step = attempt.plan.start(now)?;
        attempt.begin_step(step, stream, &self.options, now)
    }

    fn continue_dialling(&mut self, stream: &mut Stream, now: Instant) -> Result<Progress, Error> {
        match &mut self.attempt {
            Some(attempt) => attempt.continue_dialling(stream, &self.options, now),
            // Unreachable: `begin` sets the attempt, and only a stream that is dialling continues.
            None => self.begin(stream, 0, now),
        }
    }

    fn disconnect(&mut self, stream: &mut Stream) {
        self.attempt = None;
        stream.disconnect();
    }

    fn received_counter(&self, stream: &Stream) -> Option<Arc<AtomicUsize>> {
        stream.socket.received_counter()
    }
}

/// One round over the endpoints.
struct Attempt {
    #[cfg_attr(
        not(feature = "tls"),
        expect(dead_code, reason = "without TLS it only checks the options")
    )]
    security: Security,
    plan: DialPlan,
    /// The TCP connection is established, and the TLS handshake is in progress.
    is_connected: bool,
}

impl Attempt {
    /// Begins to connect to the first address that does not fail at once.
    fn begin_step(
        &mut self,
        mut step: DialStep,
        stream: &mut Stream,
        options: &Options,
        now: Instant,
    ) -> Result<Progress, Error> {
        self.is_connected = false;
        let mut now = now;
        loop {
            let failure = match step {
                DialStep::Resolve { host, port } => {
                    let resolved = (&*host, port).to_socket_addrs();
                    // Resolving a name blocks, so time has passed.
                    now = now.max(Instant::now());
                    match resolved {
                        Ok(addresses) => {
                            step = self.plan.handle_resolved(addresses, now)?;
                            continue;
                        }
                        Err(error) => self.plan.io_error(&error),
                    }
                }
                DialStep::Connect(address) => {
                    let socket = Socket::begin_connect(&address, options)
                        .map_err(|error| self.plan.io_error(&error));
                    match socket.and_then(|socket| self.add_tls(socket, options)) {
                        Ok(socket) => {
                            stream.set(socket);
                            return Ok(self.pending(false, true));
                        }
                        Err(error) => error,
                    }
                }
            };
            step = self.plan.next_step(failure, now)?;
        }
    }

    /// Continues with the current address, or with the next one if it has failed.
    fn continue_dialling(
        &mut self,
        stream: &mut Stream,
        options: &Options,
        now: Instant,
    ) -> Result<Progress, Error> {
        match self.continue_with_address(stream, now) {
            Ok(progress) => Ok(progress),
            Err(failure) => {
                let step = self.plan.next_step(failure, now)?;
                self.begin_step(step, stream, options, now)
            }
        }
    }

    fn continue_with_address(
        &mut self,
        stream: &mut Stream,
        now: Instant,
    ) -> Result<Progress, Error> {
        if !self.is_connected {
            match stream.socket.is_connected() {
                Ok(true) => {
                    self.is_connected = true;
                    // The socket itself knows whether there is a TLS handshake.
                    self.plan.handle_connected(now);
                }
                Ok(false) if now < self.plan.deadline() => {
                    return Ok(self.pending(false, true));
                }
                Ok(false) => return Err(self.plan.timeout_error()),
                Err(error) => return Err(self.plan.io_error(&error)),
            }
        }
        if stream.socket.continue_handshake()? {
            let is_private = stream.socket.is_private();
            return Ok(Progress::Ready {
                endpoint: self.plan.endpoint(),
                is_private,
            });
        }
        if now < self.plan.deadline() {
            return Ok(self.pending(true, stream.socket.wants_write()));
        }
        Err(self.plan.timeout_error())
    }

    /// Returns the socket with TLS over it, if the options ask for TLS.
    #[cfg(feature = "tls")]
    fn add_tls(&self, socket: Socket, options: &Options) -> Result<Socket, Error> {
        match (self.security.config(), self.plan.host(), socket) {
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
    fn add_tls(&self, socket: Socket, _: &Options) -> Result<Socket, Error> {
        Ok(socket)
    }

    fn pending(&self, readable: bool, writable: bool) -> Progress {
        Progress::Pending(DialInterest {
            deadline: self.plan.deadline(),
            readable,
            writable,
        })
    }
}

#[cfg(test)]
#[cfg(not(miri))] // It has no sockets.
mod tests {
    use super::*;
    use crate::uri::Endpoint;
    use socket2::{Domain, Type};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::time::Duration;

    const SOON: Duration = Duration::from_secs(60);

    fn free_address() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
    }

    /// Returns an unconnected stream, and a dialler with one endpoint for each of the addresses.
    fn dialler(addresses: &[SocketAddr]) -> (Stream, EndpointDialler) {
        let endpoints = addresses
            .iter()
            .map(|address| Endpoint::tcp("127.0.0.1", address.port()));
        let options = Options::default()
            .endpoints(endpoints)
            .unwrap()
            .dial_timeout(SOON);
        (
            Stream::disconnected().unwrap(),
            EndpointDialler::new(options),
        )
    }

    /// Continues until the stream is connected or dialling fails. A refusal on loopback is
    /// immediate.
    fn end_of(addresses: &[SocketAddr], first: usize) -> Result<(Stream, usize), Error> {
        let (mut stream, mut dialler) = dialler(addresses);
        let mut progress = dialler.begin(&mut stream, first, Instant::now())?;
        loop {
            if let Progress::Ready {
                endpoint,
                is_private: false,
            } = progress
            {
                return Ok((stream, endpoint));
            }
            std::thread::yield_now();
            progress = dialler.continue_dialling(&mut stream, Instant::now())?;
        }
    }

    fn deadline(progress: Result<Progress, Error>) -> Instant {
        match progress.unwrap() {
            Progress::Pending(DialInterest {
                deadline,
                readable: false,
                writable: true,
            }) => deadline,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn addresses_are_tried_in_turn_from_the_first() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addresses = [
            free_address(),
            listener.local_addr().unwrap(),
            free_address(),
        ];
        for first in 0..3 {
            let (stream, endpoint) = end_of(&addresses, first).unwrap();
            assert_eq!(endpoint, 1);
            assert_eq!(
                stream.tcp().unwrap().peer_addr().unwrap(),
                listener.local_addr().unwrap()
            );
            assert!(stream.tcp().unwrap().nodelay().unwrap());
        }
    }

    #[test]
    fn last_address_determines_the_error() {
        let last = free_address();
        let refused = end_of(&[free_address(), last], 0).unwrap_err();
        assert!(refused.is_connection_broken(), "{refused:?}");
        let text = refused.to_string();
        assert!(
            text.contains("refused") && text.contains(&last.to_string()),
            "{text}"
        );
    }

    #[test]
    fn silent_address_is_given_up_after_the_timeout() {
        let (silent, _listener, _full) = silent();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (mut stream, mut dialler) = dialler(&[silent, listener.local_addr().unwrap()]);
        let nowhere = stream.generation();
        let now = Instant::now();
        let given_up = deadline(dialler.begin(&mut stream, 0, now));
        assert!(given_up >= now + SOON && given_up < now + SOON * 3 / 2);
        let first = stream.generation();
        assert_ne!(first, nowhere);
        assert_eq!(
            deadline(dialler.continue_dialling(&mut stream, now + SOON / 2)),
            given_up
        );
        assert_eq!(stream.generation(), first);
        assert_eq!(
            deadline(dialler.continue_dialling(&mut stream, given_up)),
            given_up + SOON
        );
        assert_ne!(
            stream.generation(),
            first,
            "the generation must change with the descriptor"
        );
        assert_eq!(
            stream.tcp().unwrap().peer_addr().unwrap(),
            listener.local_addr().unwrap()
        );
    }

    #[test]
    fn error_contains_the_dial_timeout() {
        let (silent, _listener, _full) = silent();
        let (mut stream, mut dialler) = dialler(&[silent]);
        let given_up = deadline(dialler.begin(&mut stream, 0, Instant::now()));
        let late = dialler
            .continue_dialling(&mut stream, given_up)
            .unwrap_err();
        assert_eq!(late.to_string(), "dialling took longer than 60 s");
    }

    /// Returns an address that neither accepts nor refuses a connection: its backlog is full.
    fn silent() -> (SocketAddr, socket2::Socket, Vec<TcpStream>) {
        let listener = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener
            .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
            .unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        (
            address,
            listener,
            vec![TcpStream::connect(address).unwrap()],
        )
    }
}
