//! The number of network flights that operations take, at any latency.

use crate::peer::short;
use puka::machine::{Body, Connection, Outgoing, PromiseId, Publish};
use puka::protocol::Properties;
use puka::{Error, Options};
use puka_test_broker::{Broker, ConnectionId};
use std::time::Instant;

/// A client and a broker, and the number of round trips so far.
struct World {
    now: Instant,
    machine: Connection,
    broker: Broker,
    id: ConnectionId,
    flights: usize,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let mut broker = Broker::new(Default::default());
        let id = broker.connect(now);
        Self {
            now,
            machine: Connection::new(now, Options::default()),
            broker,
            id,
            flights: 0,
        }
    }

    /// Moves the client's output to the broker, and the broker's replies back.
    fn round_trip(&mut self) -> bool {
        let mut out = Outgoing::default();
        let mut bytes = Vec::new();
        while self.machine.poll_transmit(self.now, &mut out) {
            let count = out.len();
            out.pieces()
                .for_each(|piece| bytes.extend_from_slice(piece));
            out.advance(count);
            self.machine.handle_transmitted(self.now, count);
        }
        if bytes.is_empty() {
            return false;
        }
        self.flights += 1;
        self.broker.handle_input(self.now, self.id, &bytes);
        let mut decoder = puka::protocol::Decoder::new();
        decoder.set_frame_max(131_072);
        while let Some(bytes) = self.broker.poll_transmit(self.id) {
            decoder.extend(&bytes);
        }
        self.machine.handle_input(self.now, &mut decoder);
        true
    }

    fn flights_to(&mut self, promise: PromiseId) -> usize {
        let before = self.flights;
        loop {
            if let Some(outcome) = self.machine.fetch(promise) {
                outcome.unwrap();
                return self.flights - before;
            }
            assert!(self.round_trip(), "nothing is in flight");
        }
    }

    fn publish(&mut self) -> Result<PromiseId, Error> {
        self.machine.publish(&Publish {
            exchange: short(""),
            routing_key: short("q"),
            mandatory: false,
            immediate: false,
            properties: &Properties::NONE,
            headers: None,
            body: Body::Borrowed(b"x"),
        })
    }
}

#[test]
fn connect_and_first_confirmed_publish_take_four_flights() {
    let mut world = World::new();
    let connected = world.machine.connect();
    // The protocol header; start-ok; tune-ok and open.
    assert_eq!(world.flights_to(connected), 3);
    // channel.open, confirm.select and the publish.
    let published = world.publish().unwrap();
    assert_eq!(world.flights_to(published), 1);
}

#[test]
fn publish_before_connect_completes_takes_no_more_flights() {
    let mut world = World::new();
    let published = world.publish().unwrap();
    assert_eq!(world.flights_to(published), 4);
}

#[test]
fn later_publishes_and_requests_are_one_flight_each() {
    let mut world = World::new();
    let published = world.publish().unwrap();
    world.flights_to(published);
    for _ in 0..3 {
        let published = world.publish().unwrap();
        assert_eq!(world.flights_to(published), 1);
        let got = world
            .machine
            .request(puka::protocol::method::queue::Declare {
                queue: short("q"),
                passive: false,
                durable: false,
                exclusive: false,
                auto_delete: false,
                nowait: false,
                arguments: puka::protocol::TableRef::EMPTY,
            });
        assert_eq!(world.flights_to(got.unwrap()), 1);
    }
}
