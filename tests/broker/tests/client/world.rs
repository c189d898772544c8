//! A broker and a clock, and the clients that connect to it.

use super::{Client, all_capabilities, s};
use puka::protocol::method::connection;
use puka::protocol::{Decoder, Table};
use puka_test_broker::{Broker, Config, ConnectionId};
use std::cell::{Cell, RefCell};
use std::net::TcpStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// A broker, and a clock that only tests advance.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) broker: Rc<RefCell<Broker>>,
    now: Rc<Cell<Instant>>,
    real: Option<String>,
}

impl Default for World {
    fn default() -> Self {
        Self {
            real: std::env::var("PUKA_COMPARE").ok(),
            ..Self::new(Config::default())
        }
    }
}

impl World {
    /// Creates a broker in memory, regardless of the environment.
    pub(crate) fn new(config: Config) -> Self {
        let broker = Rc::new(RefCell::new(Broker::new(config)));
        Self {
            broker,
            now: Rc::new(Cell::new(Instant::now())),
            real: None,
        }
    }

    pub(crate) fn now(&self) -> Instant {
        self.now.get()
    }

    /// Advances the time, from deadline to deadline.
    pub(crate) fn pass(&self, time: Duration) {
        if self.real.is_some() {
            std::thread::sleep(time);
            return;
        }
        let end = self.now() + time;
        while let Some(at) = self.next_deadline().filter(|at| *at <= end) {
            self.now.set(at.max(self.now()));
            self.broker_mut(|broker, now| broker.handle_timeout(now));
        }
        self.now.set(end);
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.broker.borrow().poll_timeout()
    }

    pub(crate) fn broker_mut<R>(&self, f: impl FnOnce(&mut Broker, Instant) -> R) -> R {
        f(&mut self.broker.borrow_mut(), self.now())
    }

    /// Returns a client that has sent nothing yet.
    pub(crate) fn dial(&self) -> Client {
        let wire = match &self.real {
            Some(address) => Wire::Tcp(TcpStream::connect(address).unwrap()),
            None => Wire::Memory(
                self.clone(),
                self.broker_mut(|broker, now| broker.connect(now)),
            ),
        };
        Client {
            wire,
            decoder: Decoder::new(),
            frame_max: 131_072,
        }
    }

    /// Returns a client with an open connection.
    pub(crate) fn connect(&self) -> Client {
        self.connect_with(&all_capabilities(), 0)
    }

    pub(crate) fn connect_with(&self, client_properties: &Table, heartbeat: u16) -> Client {
        let mut client = self.dial();
        client.start(client_properties, "PLAIN", b"\0guest\0guest");
        client.expect_kind(0, connection::Tune::ID);
        client.decoder.set_frame_max(131_072);
        client.send(
            0,
            &connection::TuneOk {
                channel_max: 2047,
                frame_max: 131_072,
                heartbeat,
            },
        );
        client.send(
            0,
            &connection::Open {
                virtual_host: s("/"),
            },
        );
        client.expect(0, connection::OpenOk {});
        client
    }

    /// Returns a client with channel 1 open.
    pub(crate) fn client(&self) -> Client {
        let mut client = self.connect();
        client.open(1);
        client
    }
}

/// A client's transport.
pub(super) enum Wire {
    Memory(World, ConnectionId),
    Tcp(TcpStream),
}
