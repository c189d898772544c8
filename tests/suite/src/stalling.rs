//! A broker behind a relay that stops when it is told to.

use crate::Listening;
use puka::{Error, Options};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// How it stops, when the client next sends something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// It takes what the client sends and says nothing more.
    Silent,
    /// It passes on what the broker says, an octet now and then.
    Trickle,
    /// It ends the stream.
    Eof,
    /// It resets the connection.
    Reset,
}

impl Stop {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Silent, Self::Trickle, Self::Eof, Self::Reset];
}

/// Between two octets of [`Stop::Trickle`].
const TRICKLE: Duration = Duration::from_millis(50);

/// A relay of one connection to a broker in memory.
#[derive(Debug)]
pub(crate) struct Stalling {
    port: u16,
    stopped: Arc<AtomicBool>,
}

impl Stalling {
    /// Starts one that relays until it is told to stop.
    pub(crate) fn start(how: Stop) -> io::Result<Self> {
        let broker = Listening::start()?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let stopped = Arc::new(AtomicBool::new(false));
        let (address, told) = (broker.address(), stopped.clone());
        thread::spawn(move || {
            let (client, _) = listener.accept()?;
            let broker = TcpStream::connect(address)?;
            let (to_client, from_broker, stops) = (client.try_clone()?, broker.try_clone()?, told.clone());
            thread::spawn(move || answer(from_broker, to_client, how, &stops));
            relay(client, broker, how, &told)
        });
        Ok(Self { port, stopped })
    }

    /// From now on it does not relay.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    /// Options that lead to it.
    pub(crate) fn options(&self) -> Result<Options, Error> {
        Options::from_uri(&format!("amqp://127.0.0.1:{}/", self.port))
    }
}

/// What the client says, for the broker.
fn relay(mut client: TcpStream, mut broker: TcpStream, how: Stop, stopped: &AtomicBool) -> io::Result<()> {
    let mut buffer = [0; 1 << 12];
    // Looked at and not taken, because closing over something unread is a reset.
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
        let octets = client.read(&mut buffer)?;
        broker.write_all(&buffer[..octets])?;
    }
    broker.shutdown(Shutdown::Both)
}

/// What the broker says, for the client.
fn answer(mut broker: TcpStream, mut client: TcpStream, how: Stop, stopped: &AtomicBool) -> io::Result<()> {
    let mut buffer = [0; 1 << 12];
    loop {
        let octets = broker.read(&mut buffer)?;
        match how {
            _ if octets == 0 => return Ok(()),
            Stop::Silent if stopped.load(Ordering::SeqCst) => {}
            Stop::Trickle if stopped.load(Ordering::SeqCst) => {
                for octet in &buffer[..octets] {
                    client.write_all(&[*octet])?;
                    thread::sleep(TRICKLE);
                }
            }
            _ => client.write_all(&buffer[..octets])?,
        }
    }
}
