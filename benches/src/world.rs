//! The state machine and the null broker, without a driver: only the cost of the connection itself.

use crate::Null;
use puka::machine::{Body, Connection, ConnectionState, Dialled, Event, Outgoing, Publish};
use puka::protocol::{Decoder, Properties, ShortStr};
use puka::{Broken, Error, Options, Recovery};
use std::time::{Duration, Instant};

/// The approximate number of bytes of a read.
const READ: usize = 128 << 10;

/// The two ends of a connection.
#[derive(Debug)]
pub struct World {
    now: Instant,
    /// The client's end.
    pub machine: Connection,
    null: Null,
    decoder: Decoder,
    out: Outgoing,
    brokers: Duration,
}

impl Default for World {
    fn default() -> Self {
        let now = Instant::now();
        let options = Options::default()
            .max_publishes_in_flight(1 << 20)
            .max_outgoing_bytes(1 << 30);
        let machine = Connection::new(now, options.max_requests(1 << 20));
        Self {
            now,
            machine,
            null: Null::default(),
            decoder: Decoder::new(),
            out: Outgoing::default(),
            brokers: Duration::ZERO,
        }
    }
}

impl World {
    /// Creates a connection that recovers everything after a loss.
    #[must_use]
    pub fn recovering() -> Self {
        let recovery = Recovery::default()
            .retry_first_connect(true)
            .max_records(1 << 20)
            .republish_unconfirmed(1);
        let options = Options::default()
            .max_publishes_in_flight(1 << 20)
            .max_outgoing_bytes(1 << 30);
        let options = options
            .max_requests(1 << 20)
            .channel_max(u16::MAX)
            .recovery(recovery);
        let now = Instant::now();
        let mut world = Self {
            now,
            machine: Connection::dialled(now, options),
            ..Self::default()
        };
        world.dial();
        world
    }

    /// Loses the connection and connects again.
    pub fn lose(&mut self) {
        self.machine.handle_loss(Broken::Eof);
        self.null.restart();
        self.decoder = Decoder::new();
        self.out = Outgoing::default();
        self.dial();
    }

    fn dial(&mut self) {
        while self.machine.poll_dial(self.now).is_none() {
            self.now = self
                .machine
                .tend(self.now)
                .map_or(self.now, |next| next.max(self.now));
            self.machine.handle_timeout(self.now);
        }
        self.machine.handle_dialled(self.now, Dialled::new(0, true));
        while !matches!(self.machine.state(), ConnectionState::Open) {
            self.fly();
        }
    }

    /// Makes one round trip.
    pub fn fly(&mut self) {
        self.go();
        self.come();
        self.handle();
    }

    /// Transmits the state machine's output to the broker.
    pub fn go(&mut self) {
        let Self {
            now,
            machine,
            null,
            out,
            brokers,
            ..
        } = self;
        while machine.poll_transmit(*now, out) {
            let count = out.len();
            let start = Instant::now();
            out.pieces().for_each(|piece| null.take(piece));
            *brokers += start.elapsed();
            out.advance(count);
            machine.handle_transmitted(*now, count);
        }
    }

    /// Receives the broker's output: as much as one read returns, for any number of consumers.
    pub fn come(&mut self) {
        let Self {
            null,
            decoder,
            brokers,
            ..
        } = self;
        let start = Instant::now();
        let mut came = 0;
        while came < READ {
            let pending = null.pending();
            let count = pending.len();
            if count == 0 {
                break;
            }
            came += count;
            decoder.extend(pending);
            null.wrote(count);
        }
        *brokers += start.elapsed();
    }

    /// Returns the time that the broker, and the substitute of the kernel, have taken so far.
    #[must_use]
    pub fn brokers(&self) -> Duration {
        self.brokers
    }

    /// Processes what has arrived.
    pub fn handle(&mut self) {
        self.machine.handle_input(self.now, &mut self.decoder);
    }

    /// Publishes 16 bytes.
    ///
    /// # Errors
    /// If there is no capacity.
    pub fn publish(&mut self, exchange: &str) -> Result<(), Error> {
        let promise = self.machine.publish(&Publish {
            exchange: ShortStr::new(exchange)?,
            routing_key: ShortStr::literal("test"),
            mandatory: false,
            immediate: false,
            properties: &Properties::NONE,
            headers: None,
            body: Body::Borrowed(&[b'x'; 16]),
        })?;
        // The result is fetched when its event is polled.
        let _ = promise;
        Ok(())
    }

    /// Fetches all results. Returns how many were successful.
    pub fn fetch(&mut self) -> usize {
        let mut count = 0;
        while let Some(event) = self.machine.poll_event() {
            if let Event::Completed(promise) = event {
                count += usize::from(
                    self.machine
                        .fetch(promise)
                        .is_some_and(|outcome| outcome.is_ok()),
                );
            }
        }
        count
    }
}
