//! The broker in memory on a port or Unix socket, for clients that dial.

use puka_test_broker::{Listener, Server};
use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;

/// A broker in memory that listens on a free TCP port of 127.0.0.1.
#[derive(Debug)]
pub struct Listening {
    /// The broker.
    pub server: Server,
    address: SocketAddr,
}

impl Listening {
    /// Starts a broker. Its threads end with the process.
    pub fn start() -> io::Result<Self> {
        let server = Server::default();
        let listener = Listener::bind("127.0.0.1:0", server.clone())?;
        let address = listener.local_addr()?;
        thread::spawn(move || listener.run());
        Ok(Self { server, address })
    }

    /// Returns the address on which it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns its URI.
    #[must_use]
    pub fn url(&self) -> String {
        format!("amqp://{}/", self.address)
    }
}

/// A Unix socket that is relayed to a TCP port. Dropping it removes the socket; connections stay
/// open.
#[derive(Debug)]
pub struct UnixRelay(PathBuf);

impl UnixRelay {
    /// Starts a relay, with threads that end with the process.
    pub fn start(name: &str, to: SocketAddr) -> io::Result<Self> {
        let path = std::env::temp_dir().join(puka_test_rabbitmq::unique(name));
        let listener = UnixListener::bind(&path)?;
        thread::spawn(move || {
            for stream in listener.incoming() {
                relay(stream?, TcpStream::connect(to)?)?;
            }
            io::Result::Ok(())
        });
        Ok(Self(path))
    }

    /// Returns the path of the socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for UnixRelay {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}

fn relay(here: UnixStream, there: TcpStream) -> io::Result<()> {
    let (mut from_here, mut from_there) = (here.try_clone()?, there.try_clone()?);
    let (mut to_here, mut to_there) = (here, there);
    thread::spawn(move || {
        io::copy(&mut from_here, &mut to_there)?;
        to_there.shutdown(Shutdown::Write)
    });
    thread::spawn(move || {
        io::copy(&mut from_there, &mut to_here)?;
        to_here.shutdown(Shutdown::Write)
    });
    Ok(())
}
