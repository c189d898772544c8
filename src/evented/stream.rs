//! The stream behind `connect`: a socket that may still be connecting, to one address after the other.

use crate::error::Error;
use socket2::{Domain, Socket, Type};
use std::io::{self, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// The stream of a client from [`connect`](super::connect): a TCP socket that does not block.
///
/// While it is connecting, another socket takes its place whenever the next address is tried.
#[derive(Debug)]
pub struct Stream {
    socket: TcpStream,
    dial: Option<Dial>,
}

/// What is left to try.
#[derive(Debug)]
struct Dial {
    addresses: std::vec::IntoIter<SocketAddr>,
    timeout: Duration,
    /// When the address that is being tried is given up.
    deadline: Instant,
}

impl Dial {
    /// Begins with the next address that is not refused at once.
    fn next(&mut self, now: Instant) -> Result<TcpStream, Option<io::Error>> {
        let mut refused = None;
        for address in self.addresses.by_ref() {
            match begin(address) {
                Ok(socket) => {
                    self.deadline = now + self.timeout;
                    return Ok(socket);
                }
                Err(error) => refused = Some(error),
            }
        }
        Err(refused)
    }
}

impl Stream {
    /// Begins to connect to the first of these addresses, each of which has so much time.
    pub(super) fn dial(addresses: Vec<SocketAddr>, timeout: Duration, now: Instant) -> Result<Self, Error> {
        let mut dial = Dial { addresses: addresses.into_iter(), timeout, deadline: now };
        match dial.next(now) {
            Ok(socket) => Ok(Self { socket, dial: Some(dial) }),
            Err(refused) => Err(refused
                .unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the host has no address"))
                .into()),
        }
    }

    /// Goes on with connecting. Says until when it is tried, and nothing more once the stream stands.
    pub(super) fn go_on(&mut self, now: Instant) -> Result<Option<Instant>, Error> {
        let Some(dial) = &mut self.dial else { return Ok(None) };
        let failed = match stands(&self.socket) {
            Ok(true) => {
                self.dial = None;
                return Ok(None);
            }
            Ok(false) if now < dial.deadline => return Ok(Some(dial.deadline)),
            Ok(false) => Error::Timeout { what: "dialling", after: dial.timeout },
            Err(error) => error.into(),
        };
        // The old socket goes only when the new one is there, so that the two never have the same number.
        match dial.next(now) {
            Ok(socket) => {
                self.socket = socket;
                Ok(Some(dial.deadline))
            }
            Err(refused) => Err(refused.map_or(failed, Error::from)),
        }
    }

    /// The socket.
    #[must_use]
    pub fn tcp(&self) -> &TcpStream {
        &self.socket
    }
}

/// Begins to connect, without waiting for it.
fn begin(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // A request is written whole, so holding back the rest of it for more to come would only delay it.
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&address.into()) {
        Err(error) if !is_under_way(&error) => Err(error),
        _ => Ok(socket.into()),
    }
}

/// Whether that means that it goes on.
fn is_under_way(error: &io::Error) -> bool {
    let in_progress = rustix::io::Errno::INPROGRESS.raw_os_error();
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(in_progress)
}

/// Whether it is connected; false while that is under way.
fn stands(socket: &TcpStream) -> io::Result<bool> {
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    match socket.peer_addr() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
        Err(error) => Err(error),
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.read(buffer)
    }
}

impl Write for Stream {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.socket.write(octets)
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.socket.write_vectored(pieces)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

#[cfg(unix)]
mod descriptor {
    use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

    impl AsFd for super::Stream {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.socket.as_fd()
        }
    }

    impl AsRawFd for super::Stream {
        fn as_raw_fd(&self) -> RawFd {
            self.socket.as_raw_fd()
        }
    }
}

#[cfg(windows)]
mod descriptor {
    use std::os::windows::io::{AsRawSocket, AsSocket, BorrowedSocket, RawSocket};

    impl AsSocket for super::Stream {
        fn as_socket(&self) -> BorrowedSocket<'_> {
            self.socket.as_socket()
        }
    }

    impl AsRawSocket for super::Stream {
        fn as_raw_socket(&self) -> RawSocket {
            self.socket.as_raw_socket()
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

    /// Goes on until it stands or fails. A refusal on loopback comes at once.
    fn end_of(addresses: Vec<SocketAddr>) -> Result<Stream, Error> {
        let mut stream = Stream::dial(addresses, SOON, Instant::now())?;
        while stream.go_on(Instant::now())?.is_some() {
            std::thread::yield_now();
        }
        Ok(stream)
    }

    #[test]
    fn each_address_is_tried_in_turn() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = end_of(vec![free_address(), free_address(), listener.local_addr().unwrap()]).unwrap();
        assert_eq!(stream.tcp().peer_addr().unwrap(), listener.local_addr().unwrap());
        assert!(stream.tcp().nodelay().unwrap());
    }

    #[test]
    fn when_none_answers_the_last_ones_error_tells() {
        let refused = end_of(vec![free_address(), free_address()]).unwrap_err();
        assert!(refused.is_connection_broken() && refused.to_string().contains("refused"), "{refused}");
        let none = end_of(Vec::new()).unwrap_err();
        assert!(none.to_string().contains("no address"), "{none}");
    }

    #[test]
    fn an_address_that_does_not_answer_is_given_up_in_time() {
        let (deaf, _listener, _full) = deaf();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let now = Instant::now();
        let addresses = vec![deaf, listener.local_addr().unwrap()];
        let mut stream = Stream::dial(addresses, SOON, now).unwrap();
        assert_eq!(stream.go_on(now).unwrap(), Some(now + SOON));
        assert_eq!(stream.go_on(now + SOON / 2).unwrap(), Some(now + SOON));
        let before = number(&stream);
        assert_eq!(stream.go_on(now + SOON).unwrap(), Some(now + 2 * SOON));
        assert_ne!(number(&stream), before, "a loop that knows the old one must see that there is another");
        assert_eq!(stream.tcp().peer_addr().unwrap(), listener.local_addr().unwrap());

        let mut stream = Stream::dial(vec![deaf], SOON, now).unwrap();
        let late = stream.go_on(now + SOON).unwrap_err();
        assert_eq!(late.to_string(), "dialling took longer than 60 s");
    }

    /// An address that takes no connection and refuses none: its queue is full.
    fn deaf() -> (SocketAddr, Socket, Vec<TcpStream>) {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
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
