//! What a message costs the connection, in nanoseconds of CPU, as consumers, publishes in flight and channels grow:
//! `cargo run --release -p puka-benches --bin growth`. The broker is in memory, and its cost, which is alike, is included.
#![expect(clippy::print_stdout, reason = "it shows what it measured")]

use puka::machine::{Body, Connection, Consume, Event, Outgoing, Publish, Reply};
use puka::protocol::{Decoder, Properties, ShortStr, TableRef};
use puka::{Error, Options};
use puka_benches::{Null, cpu};
use std::collections::VecDeque;
use std::time::Instant;

/// Messages of each measurement.
const MESSAGES: usize = 400_000;

/// Octets that come back at a time, about.
const READ: usize = 128 << 10;

struct World {
    now: Instant,
    machine: Connection,
    null: Null,
    decoder: Decoder,
    out: Outgoing,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let options = Options::default().max_publishes_in_flight(1 << 20).max_outgoing_octets(1 << 30);
        let machine = Connection::new(now, options.max_requests(1 << 20));
        Self { now, machine, null: Null::default(), decoder: Decoder::new(), out: Outgoing::default() }
    }

    /// There and back.
    fn fly(&mut self) {
        let Self { now, machine, null, decoder, out } = self;
        while machine.poll_transmit(*now, out) {
            let count = out.len();
            out.pieces().for_each(|piece| null.take(piece));
            out.advance(count);
            machine.handle_transmitted(*now, count);
        }
        // As much as one read gives, of as many consumers as there are.
        let mut came = 0;
        while came < READ {
            let mut rest = null.pending();
            let count = rest.len();
            if count == 0 {
                break;
            }
            came += count;
            while !rest.is_empty() {
                let space = decoder.space();
                let part = space.len().min(rest.len());
                space[..part].copy_from_slice(&rest[..part]);
                rest = &rest[part..];
                decoder.filled(part);
            }
            null.wrote(count);
        }
        machine.handle_input(*now, decoder);
    }

    fn publish(&mut self, exchange: &str) -> Result<(), Error> {
        let promise = self.machine.publish(&Publish {
            exchange: ShortStr::new(exchange)?,
            routing_key: ShortStr::literal("test"),
            mandatory: false,
            immediate: false,
            properties: Properties::default(),
            headers: None,
            body: Body::Borrowed(&[b'x'; 16]),
        })?;
        // It is fetched when it is announced.
        let _ = promise;
        Ok(())
    }

    /// Fetches every answer there is.
    fn fetch(&mut self) -> usize {
        let mut count = 0;
        while let Some(event) = self.machine.poll_event() {
            if let Event::Answered(promise) = event {
                count += usize::from(self.machine.fetch(promise).is_some_and(|outcome| outcome.is_ok()));
            }
        }
        count
    }
}

/// Publishes and confirms, `window` at a time, to so many exchanges in turn.
fn publishes(window: usize, exchanges: usize) -> Result<f64, Error> {
    let mut world = World::new();
    let names: Vec<String> = (0..exchanges).map(|number| format!("exchange-{number}")).collect();
    let mut start = cpu();
    let mut confirmed = 0;
    let mut rounds = 0;
    while confirmed < MESSAGES {
        for number in 0..window {
            world.publish(&names[number % exchanges])?;
        }
        let mut left = window;
        while left > 0 {
            world.fly();
            left -= world.fetch();
        }
        confirmed += window;
        rounds += 1;
        if rounds == 1 {
            // The first round opens the channels, and buffers grow.
            start = cpu();
            confirmed = 0;
        }
    }
    Ok((cpu() - start).as_nanos() as f64 / confirmed as f64)
}

/// Takes deliveries of so many consumers.
fn deliveries(consumers: usize) -> Result<f64, Error> {
    let mut world = World::new();
    let queue = format!("16 {consumers}");
    for _ in 0..consumers {
        let _promise = world.machine.consume(&Consume {
            queue: ShortStr::new(&queue)?,
            tag: "",
            prefetch_count: 0,
            no_local: false,
            no_ack: true,
            exclusive: false,
            arguments: TableRef::EMPTY,
        })?;
    }
    let mut taken = VecDeque::new();
    let (mut count, mut start) = (0, cpu());
    let mut is_warm = false;
    while count < MESSAGES {
        world.fly();
        while let Some(event) = world.machine.poll_event() {
            match event {
                Event::Deliveries(consumer) => {
                    world.machine.take_deliveries(consumer, usize::MAX, &mut taken);
                    count += taken.len();
                    taken.clear();
                }
                Event::Answered(promise) => {
                    if let Some(Ok(Reply::Consumer(_))) = world.machine.fetch(promise) {}
                }
                _ => {}
            }
        }
        if !is_warm && count > MESSAGES / 4 {
            is_warm = true;
            (count, start) = (0, cpu());
        }
    }
    Ok((cpu() - start).as_nanos() as f64 / count as f64)
}

fn row(what: &str, measure: impl Fn() -> Result<f64, Error>) -> Result<(), Error> {
    let mut figures = (0..5).map(|_| measure()).collect::<Result<Vec<_>, _>>()?;
    figures.sort_by(f64::total_cmp);
    println!("| {what} | {:.0} |", figures[0]);
    Ok(())
}

fn main() -> Result<(), Error> {
    println!("| of many | ns a message, the best of 5 |\n| --- | --- |");
    for window in [1, 1000, 100_000] {
        row(&format!("{window} publishes in flight"), || publishes(window, 1))?;
    }
    for exchanges in [1, 64] {
        row(&format!("{exchanges} publish channels"), || publishes(1000, exchanges))?;
    }
    for consumers in [1, 100, 2000] {
        row(&format!("{consumers} consumers"), || deliveries(consumers))?;
    }
    Ok(())
}
