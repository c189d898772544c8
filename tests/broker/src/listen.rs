//! The broker on a TCP port: two blocking threads for each connection, no runtime.

use crate::server::Server;
use crate::stream::Stream;
use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

/// The number of bytes to read or write at a time.
const BUFFER: usize = 64 << 10;

/// A TCP port on which a [`Server`] listens.
///
/// ```
/// use puka_test_broker::{Listener, Server};
/// let listener = Listener::bind("127.0.0.1:0", Server::default())?;
/// let address = listener.local_addr()?;
/// std::thread::spawn(move || listener.run());
/// std::net::TcpStream::connect(address)?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Listener {
    server: Server,
    socket: TcpListener,
}

impl Listener {
    /// Binds the port; port 0 selects a free one.
    ///
    /// # Errors
    /// The system's error, for example if the port is in use.
    pub fn bind(address: impl ToSocketAddrs, server: Server) -> io::Result<Self> {
        Ok(Self {
            server,
            socket: TcpListener::bind(address)?,
        })
    }

    /// Returns the address of the listener.
    ///
    /// # Errors
    /// The system's error.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Accepts connections for ever, each with its own threads, and runs the broker's timers.
    ///
    /// # Errors
    /// If the listener fails.
    pub fn run(&self) -> io::Result<()> {
        self.server.start_timer_thread()?;
        loop {
            match self.socket.accept() {
                // A connection that cannot be served is dropped: the client is gone, or no thread
                // can be started.
                Ok((socket, _)) => drop(self.serve(socket)),
                // The client has closed the connection already.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Serves a client on a socket.
    fn serve(&self, socket: TcpStream) -> io::Result<()> {
        socket.set_nodelay(true)?;
        let (inbound, outbound) = (socket.try_clone()?, socket);
        let stream = Arc::new(self.server.connect());
        let theirs = Arc::clone(&stream);
        thread::Builder::new()
            .name("broker-in".into())
            .spawn(move || {
                // An error ends the connection like an end of stream.
                drop(copy_in(inbound, &theirs));
                theirs.disconnect();
            })?;
        thread::Builder::new()
            .name("broker-out".into())
            .spawn(move || {
                drop(copy_out(&outbound, &stream));
                // Also ends the other thread's read.
                drop(outbound.shutdown(Shutdown::Both));
            })?;
        Ok(())
    }
}

/// Copies the bytes of a client from its socket to the broker.
fn copy_in(mut socket: TcpStream, stream: &Stream) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = match socket.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let mut bytes = &buffer[..count];
        while !bytes.is_empty() {
            let taken = wait_for(|context| stream.poll_write_shared(context, bytes))?;
            bytes = &bytes[taken..];
        }
    }
}

/// Copies the bytes of the broker to the socket of a client.
fn copy_out(mut socket: &TcpStream, stream: &Stream) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = wait_for(|context| stream.poll_read_shared(context, &mut buffer))?;
        if count == 0 {
            return Ok(());
        }
        socket.write_all(&buffer[..count])?;
    }
}

/// A waker that unparks a thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Parks the thread until a poll is ready.
fn wait_for<R>(mut poll: impl FnMut(&Context<'_>) -> Poll<R>) -> R {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(poll_fn(|context| poll(context)));
    loop {
        if let Poll::Ready(result) = future.as_mut().poll(&mut context) {
            return result;
        }
        thread::park();
    }
}
