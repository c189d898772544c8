//! A TCP proxy that imitates network faults: it delays bytes, slows down, half-closes, and resets
//! connections, at once or after a number of bytes.
//!
//! It listens on a free port of 127.0.0.1. Each connection has two threads, one for each direction.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;

use crate::error::NodeError;

/// The interval at which a thread checks for changes.
const TICK: Duration = Duration::from_millis(10);
const BUFFER: usize = 16 << 10;

/// The speed of bytes in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rate {
    /// Unlimited.
    #[default]
    Full,
    /// This number of bytes a second.
    Slow(usize),
    /// No bytes pass. They are stored until the rate changes.
    Stopped,
}

/// A proxy in front of a broker. Dropping it resets every connection and releases the port.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    to: SocketAddr,
    state: Mutex<State>,
    is_over: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// The rates from the client and to it.
    rates: [Rate; 2],
    is_off: bool,
    /// The remaining bytes, in both directions together, before every connection is reset.
    budget: Option<usize>,
    pairs: Vec<Arc<Pair>>,
    accepted: usize,
}

/// The sockets of a connection, one for each side.
#[derive(Debug)]
struct Pair {
    client: TcpStream,
    server: TcpStream,
    is_reset: AtomicBool,
    /// Whether bytes to the client are discarded.
    is_half_closed: AtomicBool,
    /// The number of directions that have ended.
    ended: AtomicUsize,
}

impl Pair {
    /// Makes the system reset the connection when it is closed.
    fn reset(&self) {
        self.is_reset.store(true, Ordering::Release);
        for socket in [&self.client, &self.server] {
            // The connection may have ended already.
            let _ = set_socket_linger(socket, Some(Duration::ZERO));
        }
    }
}

#[derive(Clone, Copy)]
enum Way {
    Up,
    Down,
}

impl Proxy {
    /// Starts a proxy in front of this port of 127.0.0.1. At first, all bytes pass.
    ///
    /// # Errors
    /// [`NodeError::Io`] if no port is free.
    pub fn start(port: u16) -> Result<Self, NodeError> {
        let listening = || NodeError::io("listening on a port of 127.0.0.1");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(listening())?;
        let address = listener.local_addr().map_err(listening())?;
        listener.set_nonblocking(true).map_err(listening())?;
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let shared = Arc::new(Shared {
            to,
            state: Mutex::new(State::default()),
            is_over: AtomicBool::new(false),
        });
        let theirs = Arc::clone(&shared);
        thread::spawn(move || theirs.accept(&listener));
        Ok(Self { address, shared })
    }

    /// Returns the port to connect to.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Returns `amqp://guest:guest@127.0.0.1:PORT/`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/", self.port())
    }

    /// Sets the rate from clients to the broker.
    pub fn up(&self, rate: Rate) {
        self.shared.state().rates[Way::Up as usize] = rate;
    }

    /// Sets the rate from the broker to clients.
    pub fn down(&self, rate: Rate) {
        self.shared.state().rates[Way::Down as usize] = rate;
    }

    /// Resets every connection (RST on both sides).
    pub fn reset(&self) {
        self.shared.state().reset();
    }

    /// Resets every connection once, after this many more bytes have passed, in both directions and
    /// on all connections together.
    pub fn reset_after(&self, bytes: usize) {
        self.shared.state().budget = Some(bytes);
    }

    /// Returns `true` if the reset of [`reset_after`](Self::reset_after) is pending.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        self.shared.state().budget.is_some()
    }

    /// Ends the stream to every connected client (FIN). The broker's bytes to it are discarded; its
    /// own bytes still arrive.
    pub fn half_close(&self) {
        for pair in &self.shared.state().pairs {
            pair.is_half_closed.store(true, Ordering::Release);
            // The connection may have ended already.
            drop(pair.client.shutdown(Shutdown::Write));
        }
    }

    /// Resets every connection and each new one, until [`on`](Self::on) is called.
    pub fn off(&self) {
        let mut state = self.shared.state();
        state.is_off = true;
        state.reset();
    }

    /// Accepts connections again.
    pub fn on(&self) {
        self.shared.state().is_off = false;
    }

    /// Lets all bytes pass, at full speed.
    pub fn clear(&self) {
        let mut state = self.shared.state();
        (state.rates, state.is_off, state.budget) = ([Rate::Full; 2], false, None);
    }

    /// Returns the number of connections that were accepted so far.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.shared.state().accepted
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Release);
        self.shared.state().reset();
    }
}

impl State {
    fn reset(&mut self) {
        for pair in self.pairs.drain(..) {
            pair.reset();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        while !self.is_over.load(Ordering::Acquire) {
            match listener.accept() {
                // A client that cannot be served is disconnected.
                Ok((client, _)) => drop(self.serve(client)),
                Err(_) => thread::sleep(TICK),
            }
        }
    }

    fn serve(self: &Arc<Self>, client: TcpStream) -> io::Result<()> {
        if self.state().is_off {
            return Ok(set_socket_linger(&client, Some(Duration::ZERO))?);
        }
        let server = TcpStream::connect(self.to)?;
        for socket in [&client, &server] {
            socket.set_nonblocking(false)?;
            socket.set_nodelay(true)?;
            socket.set_read_timeout(Some(TICK))?;
            socket.set_write_timeout(Some(TICK))?;
        }
        let (is_reset, is_half_closed) = (AtomicBool::new(false), AtomicBool::new(false));
        let pair = Arc::new(Pair {
            client,
            server,
            is_reset,
            is_half_closed,
            ended: AtomicUsize::new(0),
        });
        let mut state = self.state();
        if state.is_off {
            pair.reset();
            return Ok(());
        }
        state.accepted += 1;
        state.pairs.push(Arc::clone(&pair));
        drop(state);
        for way in [Way::Up, Way::Down] {
            let (shared, pair) = (Arc::clone(self), Arc::clone(&pair));
            thread::spawn(move || {
                if shared.copy(&pair, way).is_err() {
                    pair.reset();
                }
                if pair.ended.fetch_add(1, Ordering::AcqRel) == 1 {
                    shared
                        .state()
                        .pairs
                        .retain(|other| !Arc::ptr_eq(other, &pair));
                }
            });
        }
        Ok(())
    }

    /// Copies bytes until the end of the stream, and then ends the other stream.
    fn copy(&self, pair: &Pair, way: Way) -> io::Result<()> {
        let (mut from, to) = match way {
            Way::Up => (&pair.client, &pair.server),
            Way::Down => (&pair.server, &pair.client),
        };
        let mut buffer = [0; BUFFER];
        loop {
            let rate = self.wait_until_it_moves(pair, way)?;
            let most = match rate {
                Rate::Slow(bytes) => (bytes / 100).clamp(1, BUFFER),
                Rate::Full | Rate::Stopped => BUFFER,
            };
            let count = match from.read(buffer.get_mut(..most).unwrap_or_default()) {
                Ok(0) => {
                    drop(to.shutdown(Shutdown::Write));
                    return Ok(());
                }
                Ok(count) => count,
                Err(error) if is_tick(&error) => continue,
                Err(error) => return Err(error),
            };
            self.wait_until_it_moves(pair, way)?;
            let allowed = self.spend(count);
            self.write(pair, way, to, buffer.get(..allowed).unwrap_or_default())?;
            if allowed < count {
                self.state().reset();
            }
            if let Rate::Slow(bytes) = rate {
                thread::sleep(Duration::from_secs(1).mul_f64(count as f64 / bytes.max(1) as f64));
            }
        }
    }

    /// Returns how many of these bytes may pass before every connection is reset.
    fn spend(&self, count: usize) -> usize {
        let mut state = self.state();
        match state.budget {
            Some(budget) if budget < count => {
                state.budget = None;
                budget
            }
            Some(budget) => {
                state.budget = Some(budget - count);
                count
            }
            None => count,
        }
    }

    fn write(&self, pair: &Pair, way: Way, mut to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
        while !(bytes.is_empty()
            || matches!(way, Way::Down) && pair.is_half_closed.load(Ordering::Acquire))
        {
            self.wait_until_it_moves(pair, way)?;
            match to.write(bytes) {
                Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(error) if is_tick(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits while no bytes may pass. Returns the rate. Fails if the connection is reset.
    fn wait_until_it_moves(&self, pair: &Pair, way: Way) -> io::Result<Rate> {
        loop {
            if pair.is_reset.load(Ordering::Acquire) {
                return Err(ErrorKind::ConnectionReset.into());
            }
            match self.state().rates[way as usize] {
                Rate::Stopped => {}
                rate => return Ok(rate),
            }
            thread::sleep(TICK);
        }
    }
}

fn is_tick(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}
