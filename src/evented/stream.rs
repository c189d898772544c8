//! The stream behind `connect`: a socket that may still be connecting, to one address after the other.

use super::conn::Prepared;
use crate::error::Error;
use socket2::{Domain, SockAddr, Type};
use std::io::{self, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
#[cfg(unix)]
use std::os::fd::OwnedFd;
#[cfg(unix)]
use std::os::unix::net::UnixStream;
#[cfg(unix)]
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The stream of a client from [`connect`](super::connect): a TCP or Unix socket that does not block.
///
/// While it is connecting, another socket takes its place whenever the next address is tried.
#[derive(Debug)]
pub struct Stream {
    socket: Socket,
    /// Which of the endpoints it leads to.
    endpoint: usize,
    dial: Option<Dial>,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

/// Where to connect to.
#[derive(Clone, Debug)]
pub(super) enum Address {
    Tcp(SocketAddr),
    #[cfg(unix)]
    Unix(PathBuf),
}

impl Address {
    /// An error says where it happened.
    fn named(&self, error: &io::Error) -> io::Error {
        let place = match self {
            Self::Tcp(address) => address.to_string(),
            #[cfg(unix)]
            Self::Unix(path) => path.display().to_string(),
        };
        io::Error::new(error.kind(), format!("{place}: {error}"))
    }
}

/// What is left to try.
#[derive(Debug)]
struct Dial {
    /// Each with the place of its endpoint.
    addresses: std::vec::IntoIter<(usize, Address)>,
    /// The one that is being tried.
    current: Option<Address>,
    timeout: Duration,
    /// When the address that is being tried is given up.
    deadline: Instant,
}

impl Dial {
    /// Begins with the next address that is not refused at once.
    fn next(&mut self, now: Instant) -> Result<(usize, Socket), Option<io::Error>> {
        let mut refused = None;
        for (endpoint, address) in self.addresses.by_ref() {
            match begin(&address) {
                Ok(socket) => {
                    self.deadline = now + self.timeout;
                    self.current = Some(address);
                    return Ok((endpoint, socket));
                }
                Err(error) => refused = Some(address.named(&error)),
            }
        }
        Err(refused)
    }
}

impl Stream {
    /// Begins to connect to the first of these addresses, each of which has so much time.
    pub(super) fn dial(
        addresses: Vec<(usize, Address)>,
        timeout: Duration,
        now: Instant,
    ) -> Result<Self, Error> {
        let mut dial = Dial { addresses: addresses.into_iter(), current: None, timeout, deadline: now };
        match dial.next(now) {
            Ok((endpoint, socket)) => Ok(Self { socket, endpoint, dial: Some(dial) }),
            Err(refused) => Err(refused
                .unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the host has no address"))
                .into()),
        }
    }

    fn ready(&self) -> Prepared {
        Prepared::Ready { endpoint: self.endpoint, is_private: !matches!(self.socket, Socket::Tcp(_)) }
    }

    /// Goes on with connecting.
    pub(super) fn go_on(&mut self, now: Instant) -> Result<Prepared, Error> {
        let Some(dial) = &mut self.dial else { return Ok(self.ready()) };
        let failed = match stands(&self.socket) {
            Ok(true) => {
                self.dial = None;
                return Ok(self.ready());
            }
            Ok(false) if now < dial.deadline => return Ok(Prepared::Until(dial.deadline)),
            Ok(false) => Error::Timeout { what: "dialling", after: dial.timeout },
            Err(error) => match &dial.current {
                Some(address) => address.named(&error).into(),
                None => error.into(),
            },
        };
        // The old socket goes only when the new one is there, so that the two never have the same number.
        match dial.next(now) {
            Ok((endpoint, socket)) => {
                self.socket = socket;
                self.endpoint = endpoint;
                Ok(Prepared::Until(dial.deadline))
            }
            Err(refused) => Err(refused.map_or(failed, Error::from)),
        }
    }

    /// The socket, if it is one of TCP.
    #[must_use]
    pub fn tcp(&self) -> Option<&TcpStream> {
        match &self.socket {
            Socket::Tcp(socket) => Some(socket),
            #[cfg(unix)]
            Socket::Unix(_) => None,
        }
    }
}

/// Begins to connect, without waiting for it.
fn begin(address: &Address) -> io::Result<Socket> {
    let (domain, target) = match address {
        Address::Tcp(address) => (Domain::for_address(*address), SockAddr::from(*address)),
        #[cfg(unix)]
        Address::Unix(path) => (Domain::UNIX, SockAddr::unix(path)?),
    };
    let socket = socket2::Socket::new(domain, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let connecting = socket.connect(&target);
    match address {
        Address::Tcp(_) => {
            if let Err(error) = connecting
                && !is_under_way(&error)
            {
                return Err(error);
            }
            // A request is written whole, so holding back the rest of it for more to come would only delay it.
            socket.set_tcp_nodelay(true)?;
            Ok(Socket::Tcp(socket.into()))
        }
        // It connects at once or not at all.
        #[cfg(unix)]
        Address::Unix(_) => connecting.map(|()| Socket::Unix(OwnedFd::from(socket).into())),
    }
}

/// Whether that means that it goes on.
fn is_under_way(error: &io::Error) -> bool {
    let in_progress = rustix::io::Errno::INPROGRESS.raw_os_error();
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(in_progress)
}

/// Whether it is connected; false while that is under way.
fn stands(socket: &Socket) -> io::Result<bool> {
    let socket = match socket {
        Socket::Tcp(socket) => socket,
        #[cfg(unix)]
        Socket::Unix(_) => return Ok(true),
    };
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    match socket.peer_addr() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
        Err(error) => Err(error),
    }
}

/// The same for each kind of socket.
macro_rules! each {
    ($stream:expr, $socket:ident => $it:expr) => {
        match $stream {
            Socket::Tcp($socket) => $it,
            #[cfg(unix)]
            Socket::Unix($socket) => $it,
        }
    };
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        each!(&mut self.socket, socket => socket.read(buffer))
    }
}

impl Write for Stream {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        each!(&mut self.socket, socket => socket.write(octets))
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        each!(&mut self.socket, socket => socket.write_vectored(pieces))
    }

    fn flush(&mut self) -> io::Result<()> {
        each!(&mut self.socket, socket => socket.flush())
    }
}

#[cfg(unix)]
mod descriptor {
    use super::Socket;
    use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

    impl AsFd for super::Stream {
        fn as_fd(&self) -> BorrowedFd<'_> {
            each!(&self.socket, socket => socket.as_fd())
        }
    }

    impl AsRawFd for super::Stream {
        fn as_raw_fd(&self) -> RawFd {
            each!(&self.socket, socket => socket.as_raw_fd())
        }
    }
}

#[cfg(windows)]
mod descriptor {
    use super::Socket;
    use std::os::windows::io::{AsRawSocket, AsSocket, BorrowedSocket, RawSocket};

    impl AsSocket for super::Stream {
        fn as_socket(&self) -> BorrowedSocket<'_> {
            each!(&self.socket, socket => socket.as_socket())
        }
    }

    impl AsRawSocket for super::Stream {
        fn as_raw_socket(&self) -> RawSocket {
            each!(&self.socket, socket => socket.as_raw_socket())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    const SOON: Duration = Duration::from_secs(60);

    fn free_address() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    fn dial(addresses: &[SocketAddr], now: Instant) -> Result<Stream, Error> {
        let addresses = addresses.iter().copied().map(Address::Tcp).enumerate().collect();
        Stream::dial(addresses, SOON, now)
    }

    /// Goes on until it stands or fails. A refusal on loopback comes at once.
    fn end_of(addresses: &[SocketAddr]) -> Result<(Stream, usize), Error> {
        let mut stream = dial(addresses, Instant::now())?;
        loop {
            if let Prepared::Ready { endpoint, is_private: false } = stream.go_on(Instant::now())? {
                return Ok((stream, endpoint));
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn each_address_is_tried_in_turn() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addresses = [free_address(), free_address(), listener.local_addr().unwrap()];
        let (stream, endpoint) = end_of(&addresses).unwrap();
        assert_eq!(endpoint, 2);
        assert_eq!(stream.tcp().unwrap().peer_addr().unwrap(), listener.local_addr().unwrap());
        assert!(stream.tcp().unwrap().nodelay().unwrap());
    }

    #[test]
    fn when_none_answers_the_last_ones_error_tells() {
        let refused = end_of(&[free_address(), free_address()]).unwrap_err();
        assert!(refused.is_connection_broken() && refused.to_string().contains("refused"), "{refused}");
        let none = end_of(&[]).unwrap_err();
        assert!(none.to_string().contains("no address"), "{none}");
    }

    #[test]
    fn an_address_that_does_not_answer_is_given_up_in_time() {
        let (deaf, _listener, _full) = deaf();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let now = Instant::now();
        let mut stream = dial(&[deaf, listener.local_addr().unwrap()], now).unwrap();
        assert_eq!(stream.go_on(now).unwrap(), Prepared::Until(now + SOON));
        assert_eq!(stream.go_on(now + SOON / 2).unwrap(), Prepared::Until(now + SOON));
        let before = number(&stream);
        assert_eq!(stream.go_on(now + SOON).unwrap(), Prepared::Until(now + 2 * SOON));
        assert_ne!(number(&stream), before, "a loop that knows the old one must see that there is another");
        assert_eq!(stream.tcp().unwrap().peer_addr().unwrap(), listener.local_addr().unwrap());

        let mut stream = dial(&[deaf], now).unwrap();
        let late = stream.go_on(now + SOON).unwrap_err();
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

    fn number(stream: &Stream) -> impl PartialEq + std::fmt::Debug + use<> {
        #[cfg(unix)]
        return std::os::fd::AsRawFd::as_raw_fd(stream);
        #[cfg(windows)]
        return std::os::windows::io::AsRawSocket::as_raw_socket(stream);
    }
}
