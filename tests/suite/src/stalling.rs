//! A broker behind a relay that can be stopped.

use crate::Listening;
use puka::{Error, Options};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// The reaction to bytes that the client sends after the stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The relay reads what the client sends and sends nothing.
    Silent,
    /// The relay passes on the broker's bytes, but slowly, one at a time.
    Trickle,
    /// The relay ends the stream.
    Eof,
    /// The relay resets the connection.
    Reset,
}

impl Stop {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Silent, Self::Trickle, Self::Eof, Self::Reset];
}

/// The pause between two bytes of [`Stop::Trickle`].
const TRICKLE: Duration = Duration::from_millis(50);

/// A relay of one connection to a broker in memory.
#[derive(Debug)]
pub(crate) struct Stalling {
    port: u16,
    stopped: Arc<AtomicBool>,
}

impl Stalling {
    /// Starts a relay, which works until it is stopped.
    pub(crate) fn start(how: Stop) -> io::Result<Self> {
        let broker = Listening::start()?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let stopped = Arc::new(AtomicBool::new(false));
        let (address, told) = (broker.address(), stopped.clone());
        thread::spawn(move || {
            let (client, _) = listener.accept()?;
            let broker = TcpStream::connect(address)?;
            let (to_client, from_broker, stops) =
                (client.try_clone()?, broker.try_clone()?, told.clone());
            thread::spawn(move || answer(from_broker, to_client, how, &stops));
            relay(client, broker, how, &told)
        });
        Ok(Self { port, stopped })
    }

    /// Stops relaying.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    /// Returns options to connect to the relay.
    pub(crate) fn options(&self) -> Result<Options, Error> {
        Options::from_uri(&format!("amqp://127.0.0.1:{}/", self.port))
    }
}

/// Relays the client's bytes to the broker.
fn relay(
    mut client: TcpStream,
    mut broker: TcpStream,
    how: Stop,
    stopped: &AtomicBool,
) -> io::Result<()> {
    let mut buffer = [0; 1 << 12];
    // Peeks, because closing a socket with unread data would be a reset.
    while client.peek(&mut buffer)? > 0 {
        match how {
            _ if !stopped.load(Ordering::SeqCst) => {}
            Stop::Silent | Stop::Trickle => {}
            Stop::Eof => {
                let _ = client.read(&mut buffer)?;
                client.shutdown(Shutdown::Write)?;
                io::copy(&mut client, &mut io::sink())?;
                break;
            }
            Stop::Reset => return broker.shutdown(Shutdown::Both),
        }
        let bytes = client.read(&mut buffer)?;
        broker.write_all(&buffer[..bytes])?;
    }
    broker.shutdown(Shutdown::Both)
}

/// Relays the broker's bytes to the client.
fn answer(
    mut broker: TcpStream,
    mut client: TcpStream,
    how: Stop,
    stopped: &AtomicBool,
) -> io::Result<()> {
    let mut buffer = [0; 1 << 12];
    loop {
        let bytes = broker.read(&mut buffer)?;
        match how {
            _ if bytes == 0 => return Ok(()),
            Stop::Silent if stopped.load(Ordering::SeqCst) => {}
            Stop::Trickle if stopped.load(Ordering::SeqCst) => {
                for byte in &buffer[..bytes] {
                    client.write_all(&[*byte])?;
                    thread::sleep(TRICKLE);
                }
            }
            _ => client.write_all(&buffer[..bytes])?,
        }
    }
}
