//! From endpoints to a socket that is connected, without waiting for more than names: each endpoint in turn, each address of
//! a host in turn, over TLS when the options say so.

use super::dialled::{Dialler, Progress, Underway};
#[cfg(feature = "tls")]
use super::secured::Secured;
use super::socket::{Address, Socket};
use super::stream::Stream;
use crate::driver::Security;
use crate::error::Error;
use crate::machine::later;
use crate::options::Options;
use crate::uri::Endpoint;
use std::io;
use std::net::ToSocketAddrs;
use std::time::Instant;

/// Dials what the options say, as often as it is to be dialled.
pub(super) struct Endpoints {
    options: Options,
    dial: Option<Dial>,
}

impl Endpoints {
    pub(super) fn new(options: Options) -> Self {
        Self { options, dial: None }
    }
}

impl Dialler<Stream> for Endpoints {
    fn begin(&mut self, stream: &mut Stream, first: usize, now: Instant) -> Result<Progress, Error> {
        let dial = self.dial.insert(Dial::new(&self.options, first, now)?);
        let none = Error::invalid("endpoints", "there is none");
        dial.next(stream, &self.options, none, now)
    }

    fn go_on(&mut self, stream: &mut Stream, now: Instant) -> Result<Progress, Error> {
        match &mut self.dial {
            Some(dial) => dial.go_on(stream, &self.options, now),
            None => self.begin(stream, 0, now),
        }
    }

    fn hang_up(&mut self, stream: &mut Stream) {
        self.dial = None;
        stream.hang_up();
    }
}

/// What is left to try.
struct Dial {
    #[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "it can only refuse"))]
    security: Security,
    /// Each with its place.
    endpoints: std::vec::IntoIter<(usize, Endpoint)>,
    addresses: std::vec::IntoIter<Address>,
    /// What is being tried.
    endpoint: usize,
    host: String,
    /// Its address, for errors.
    place: String,
    /// Whether it is connected, so that hands are being shaken.
    is_connected: bool,
    /// When what is being tried is given up.
    deadline: Instant,
}

impl Dial {
    fn new(options: &Options, first: usize, now: Instant) -> Result<Self, Error> {
        let mut endpoints: Vec<_> = options.endpoints().iter().cloned().enumerate().collect();
        let places = endpoints.len();
        endpoints.rotate_left(first.min(places));
        Ok(Self {
            security: Security::new(options)?,
            endpoints: endpoints.into_iter(),
            addresses: Vec::new().into_iter(),
            endpoint: first,
            host: String::new(),
            place: String::new(),
            is_connected: false,
            deadline: now,
        })
    }

    /// Begins with the next address that is not refused at once, as the one before has failed.
    fn next(
        &mut self,
        stream: &mut Stream,
        options: &Options,
        mut failed: Error,
        now: Instant,
    ) -> Result<Progress, Error> {
        loop {
            if let Some(address) = self.addresses.next() {
                let begun = Socket::begin(&address).map_err(|error| named(&address, &error).into());
                match begun.and_then(|socket| self.secured(socket, options)) {
                    Ok(socket) => {
                        stream.set(socket);
                        self.is_connected = false;
                        // Looking up a name has taken its time.
                        self.deadline = later(now.max(Instant::now()), options.dial_deadline());
                        self.place = address.to_string();
                        return Ok(self.underway(false, true));
                    }
                    Err(error) => failed = error,
                }
            } else if let Some((place, endpoint)) = self.endpoints.next() {
                self.endpoint = place;
                if let Endpoint::Tcp { host, .. } = &endpoint {
                    self.host.clone_from(host);
                }
                match addresses(endpoint) {
                    Ok(addresses) => self.addresses = addresses.into_iter(),
                    Err(error) => failed = error,
                }
            } else {
                return Err(failed);
            }
        }
    }

    /// Goes on with the address that is being tried, and with the next one when it has failed.
    fn go_on(&mut self, stream: &mut Stream, options: &Options, now: Instant) -> Result<Progress, Error> {
        self.go_on_with_address(stream, options, now)
            .or_else(|failed| self.next(stream, options, failed, now))
    }

    fn go_on_with_address(
        &mut self,
        stream: &mut Stream,
        options: &Options,
        now: Instant,
    ) -> Result<Progress, Error> {
        if !self.is_connected {
            match stream.socket.is_connected() {
                Ok(true) => {
                    self.is_connected = true;
                    self.deadline = later(now, options.tls_deadline());
                }
                Ok(false) if now < self.deadline => return Ok(self.underway(false, true)),
                Ok(false) => {
                    return Err(Error::Timeout { what: "dialling", after: options.dial_deadline() });
                }
                Err(error) => return Err(named(&self.place, &error).into()),
            }
        }
        if stream.socket.shake_hands()? {
            let is_private = stream.socket.is_private();
            return Ok(Progress::Ready { endpoint: self.endpoint, is_private });
        }
        if now < self.deadline {
            return Ok(self.underway(true, stream.socket.wants_write()));
        }
        Err(Error::Timeout { what: "the TLS handshake", after: options.tls_deadline() })
    }

    /// The socket with TLS over it, if the options say so.
    #[cfg(feature = "tls")]
    fn secured(&self, socket: Socket, options: &Options) -> Result<Socket, Error> {
        match (self.security.config(), socket) {
            (Some(config), Socket::Tcp(socket)) => {
                let name = crate::tls::server_name(options, &self.host)?;
                Ok(Socket::Tls(Secured::new(socket, config.clone(), name)?.into()))
            }
            (_, socket) => Ok(socket),
        }
    }

    #[cfg(not(feature = "tls"))]
    fn secured(&self, socket: Socket, _: &Options) -> Result<Socket, Error> {
        Ok(socket)
    }

    fn underway(&self, readable: bool, writable: bool) -> Progress {
        Progress::Underway(Underway { until: self.deadline, readable, writable })
    }
}

/// An error says where it happened.
fn named(place: &impl std::fmt::Display, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{place}: {error}"))
}

/// The addresses of an endpoint, at least one.
fn addresses(endpoint: Endpoint) -> Result<Vec<Address>, Error> {
    match endpoint {
        Endpoint::Tcp { host, port } => {
            let found = (&*host, port).to_socket_addrs().map_err(|error| named(&host, &error))?;
            let addresses: Vec<_> = found.map(Address::Tcp).collect();
            if addresses.is_empty() {
                let none = format!("{host} has no address");
                return Err(io::Error::new(io::ErrorKind::NotFound, none).into());
            }
            Ok(addresses)
        }
        #[cfg(unix)]
        Endpoint::Unix(path) => Ok(vec![Address::Unix(path)]),
        #[cfg(not(unix))]
        Endpoint::Unix(_) => Err(Error::invalid("endpoints", "this system has no Unix sockets")),
    }
}

#[cfg(test)]
#[cfg(not(miri))] // It has no sockets.
mod tests {
    use super::*;
    use socket2::{Domain, Type};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::time::Duration;

    const SOON: Duration = Duration::from_secs(60);

    fn free_address() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    /// A stream, and who dials these addresses for it, each with an endpoint of its own.
    fn dialler(addresses: &[SocketAddr]) -> (Stream, Endpoints) {
        let endpoints = addresses.iter().map(|address| Endpoint::tcp("127.0.0.1", address.port()));
        let options = Options::default().endpoints_in_turn(endpoints).unwrap().dial_timeout(SOON);
        (Stream::nowhere().unwrap(), Endpoints::new(options))
    }

    /// Goes on until it stands or fails. A refusal on loopback comes at once.
    fn end_of(addresses: &[SocketAddr], first: usize) -> Result<(Stream, usize), Error> {
        let (mut stream, mut dialler) = dialler(addresses);
        let mut progress = dialler.begin(&mut stream, first, Instant::now())?;
        loop {
            if let Progress::Ready { endpoint, is_private: false } = progress {
                return Ok((stream, endpoint));
            }
            std::thread::yield_now();
            progress = dialler.go_on(&mut stream, Instant::now())?;
        }
    }

    fn until(progress: Result<Progress, Error>) -> Instant {
        match progress.unwrap() {
            Progress::Underway(Underway { until, readable: false, writable: true }) => until,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_address_is_tried_in_turn_and_the_round_begins_where_it_is_told_to() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addresses = [free_address(), listener.local_addr().unwrap(), free_address()];
        for first in 0..3 {
            let (stream, endpoint) = end_of(&addresses, first).unwrap();
            assert_eq!(endpoint, 1);
            assert_eq!(stream.tcp().unwrap().peer_addr().unwrap(), listener.local_addr().unwrap());
            assert!(stream.tcp().unwrap().nodelay().unwrap());
        }
    }

    #[test]
    fn when_none_answers_the_last_ones_error_tells() {
        let last = free_address();
        let refused = end_of(&[free_address(), last], 0).unwrap_err();
        assert!(refused.is_connection_broken(), "{refused:?}");
        let text = refused.to_string();
        assert!(text.contains("refused") && text.contains(&last.to_string()), "{text}");
    }

    #[test]
    fn an_address_that_does_not_answer_is_given_up_in_time() {
        let (deaf, _listener, _full) = deaf();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (mut stream, mut dialler) = dialler(&[deaf, listener.local_addr().unwrap()]);
        let nowhere = stream.generation();
        let now = Instant::now();
        let given_up = until(dialler.begin(&mut stream, 0, now));
        assert!(given_up >= now + SOON && given_up < now + SOON * 3 / 2);
        let first = stream.generation();
        assert_ne!(first, nowhere);
        assert_eq!(until(dialler.go_on(&mut stream, now + SOON / 2)), given_up);
        assert_eq!(stream.generation(), first);
        assert_eq!(until(dialler.go_on(&mut stream, given_up)), given_up + SOON);
        assert_ne!(
            stream.generation(),
            first,
            "a loop that knows the old one must see that there is another"
        );
        assert_eq!(stream.tcp().unwrap().peer_addr().unwrap(), listener.local_addr().unwrap());
    }

    #[test]
    fn the_time_that_it_took_is_in_the_error() {
        let (deaf, _listener, _full) = deaf();
        let (mut stream, mut dialler) = dialler(&[deaf]);
        let given_up = until(dialler.begin(&mut stream, 0, Instant::now()));
        let late = dialler.go_on(&mut stream, given_up).unwrap_err();
        assert_eq!(late.to_string(), "dialling took longer than 60 s");
    }

    /// An address that takes no connection and refuses none: its queue is full.
    fn deaf() -> (SocketAddr, socket2::Socket, Vec<TcpStream>) {
        let listener = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        (address, listener, vec![TcpStream::connect(address).unwrap()])
    }
}
