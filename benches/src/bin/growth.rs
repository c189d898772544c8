//! Measures the cost of a message for the connection, in nanoseconds, as consumers, publishes in
//! flight and channels grow: `cargo run --release -p puka-benches --bin growth`. The broker is in
//! memory, and its time is excluded. Then measures the cost of a recovery, in milliseconds, as the
//! recovered state grows.
//!
//! Arguments: `--only TEXT` in the name of the row.
#![expect(clippy::print_stdout, reason = "it prints its measurements")]

use puka::Error;
use puka::machine::{Consume, Event, Reply};
use puka::protocol::method::queue;
use puka::protocol::{ShortStr, TableRef};
use puka_benches::{World, argument};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The number of messages of each measurement.
const MESSAGES: usize = 400_000;

/// The number of publishes that are written at once, about as many as a stream accepts.
const AT_ONCE: usize = 1000;

/// The start of a measurement, and the broker's time up to then.
struct Span {
    start: Instant,
    brokers: Duration,
}

impl Span {
    fn start(world: &World) -> Self {
        Self {
            start: Instant::now(),
            brokers: world.brokers(),
        }
    }

    /// Returns the time since the start, without the broker's.
    fn spent(&self, world: &World) -> Duration {
        self.start
            .elapsed()
            .saturating_sub(world.brokers() - self.brokers)
    }
}

/// Publishes and confirms, `window` messages at a time, to this many exchanges in turn.
fn publishes(window: usize, exchanges: usize) -> Result<f64, Error> {
    let mut world = World::default();
    let names: Vec<String> = (0..exchanges)
        .map(|number| format!("exchange-{number}"))
        .collect();
    let mut span = Span::start(&world);
    let mut confirmed = 0;
    let mut rounds = 0;
    while confirmed < MESSAGES {
        for number in 0..window {
            world.publish(&names[number % exchanges])?;
            if number % AT_ONCE == AT_ONCE - 1 {
                world.go();
            }
        }
        let mut left = window;
        while left > 0 {
            world.fly();
            left -= world.fetch();
        }
        confirmed += window;
        rounds += 1;
        if rounds == 1 {
            // The first round is not counted: it opens the channels, and buffers grow.
            span = Span::start(&world);
            confirmed = 0;
        }
    }
    Ok(span.spent(&world).as_nanos() as f64 / confirmed as f64)
}

/// Takes deliveries of this many consumers.
fn deliveries(consumers: usize) -> Result<f64, Error> {
    let mut world = World::default();
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
            resubscribe: None,
            on_drop: puka::OnDrop::default(),
        })?;
    }
    let mut taken = VecDeque::new();
    let (mut count, mut span) = (0, Span::start(&world));
    let mut is_warm = false;
    while count < MESSAGES {
        world.fly();
        while let Some(event) = world.machine.poll_event() {
            match event {
                Event::Deliveries(consumer) => {
                    world
                        .machine
                        .take_deliveries(consumer, usize::MAX, &mut taken);
                    count += taken.len();
                    while let Some(delivered) = taken.pop_front() {
                        drop(delivered);
                    }
                }
                Event::Completed(promise) => {
                    if let Some(Ok(Reply::Consumer(_))) = world.machine.fetch(promise) {}
                }
                _ => {}
            }
        }
        if !is_warm && count > MESSAGES / 4 {
            is_warm = true;
            (count, span) = (0, Span::start(&world));
        }
    }
    Ok(span.spent(&world).as_nanos() as f64 / count as f64)
}

/// The state that is lost and recovered.
#[derive(Clone, Copy, Default)]
struct Load {
    /// The queues, named by the broker, so that each recovery renames all of them and binds the new
    /// names.
    queues: usize,
    /// The bindings of each queue.
    bindings: usize,
    /// The consumers, of each queue in turn, or of one queue if there are none.
    consumers: usize,
    /// The unconfirmed publishes.
    publishes: usize,
}

fn answers(world: &mut World, mut left: usize, mut each: impl FnMut(Reply)) -> Result<(), Error> {
    while left > 0 {
        world.fly();
        while let Some(event) = world.machine.poll_event() {
            if let Event::Completed(promise) = event
                && let Some(outcome) = world.machine.fetch(promise)
            {
                each(outcome?);
                left -= 1;
            }
        }
    }
    Ok(())
}

impl Load {
    fn world(self) -> Result<World, Error> {
        let mut world = World::recovering();
        for _ in 0..self.queues {
            let _promise = world.machine.request(queue::Declare {
                queue: ShortStr::EMPTY,
                passive: false,
                durable: false,
                exclusive: true,
                auto_delete: false,
                nowait: false,
                arguments: TableRef::EMPTY,
            })?;
        }
        let mut names = Vec::new();
        answers(&mut world, self.queues, |reply| {
            if let Reply::Queue(queue) = reply {
                names.push(queue.name);
            }
        })?;
        let keys: Vec<String> = (0..self.bindings).map(|key| format!("key-{key}")).collect();
        for (queue, key) in names
            .iter()
            .flat_map(|name| keys.iter().map(move |key| (name, key)))
        {
            let _promise = world.machine.request(queue::Bind {
                queue: ShortStr::new(queue)?,
                exchange: ShortStr::literal("amq.topic"),
                routing_key: ShortStr::new(key)?,
                nowait: false,
                arguments: TableRef::EMPTY,
            })?;
        }
        answers(&mut world, names.len() * keys.len(), drop)?;
        names.resize(names.len().max(1), "queue".into());
        for queue in names.iter().cycle().take(self.consumers) {
            let _promise = world.machine.consume(&Consume {
                queue: ShortStr::new(queue)?,
                tag: "",
                prefetch_count: 100,
                no_local: false,
                no_ack: false,
                exclusive: false,
                arguments: TableRef::EMPTY,
                resubscribe: None,
                on_drop: puka::OnDrop::default(),
            })?;
        }
        answers(&mut world, self.consumers, drop)?;
        for number in 0..self.publishes {
            world.publish("exchange")?;
            if number % AT_ONCE == AT_ONCE - 1 {
                world.go();
            }
        }
        world.go();
        Ok(world)
    }

    /// Loses the connection and returns the milliseconds until everything is recovered.
    fn recovery(self) -> Result<f64, Error> {
        let mut world = self.world()?;
        let span = Span::start(&world);
        world.lose();
        let mut left = self.publishes;
        while left > 0 {
            world.fly();
            left -= world.fetch();
        }
        Ok(span.spent(&world).as_secs_f64() * 1e3)
    }
}

fn row(what: &str, measure: impl Fn() -> Result<f64, Error>) -> Result<(), Error> {
    if !what.contains(&argument("--only").unwrap_or_default()) {
        return Ok(());
    }
    let mut figures = (0..5).map(|_| measure()).collect::<Result<Vec<_>, _>>()?;
    figures.sort_by(f64::total_cmp);
    println!("| {what} | {:.1} |", figures[0]);
    Ok(())
}

fn main() -> Result<(), Error> {
    println!("| of many | ns a message, the best of 5 |\n| --- | --- |");
    for window in [1, 1000, 100_000] {
        row(&format!("{window} publishes in flight"), || {
            publishes(window, 1)
        })?;
    }
    for exchanges in [1, 64] {
        row(&format!("{exchanges} publish channels"), || {
            publishes(1000, exchanges)
        })?;
    }
    for consumers in [1, 100, 2000] {
        row(&format!("{consumers} consumers"), || deliveries(consumers))?;
    }
    println!("\n| recovery of many | ms, the best of 5 |\n| --- | --- |");
    for queues in [1000, 10_000] {
        let load = Load {
            queues,
            ..Load::default()
        };
        row(&format!("recovery of {queues} queues"), || load.recovery())?;
        let load = Load {
            bindings: 10,
            ..load
        };
        row(
            &format!("recovery of these with {} bindings", 10 * queues),
            || load.recovery(),
        )?;
    }
    for consumers in [1000, 10_000] {
        let load = Load {
            consumers,
            ..Load::default()
        };
        row(&format!("recovery of {consumers} consumers"), || {
            load.recovery()
        })?;
    }
    for publishes in [6553, 65_535] {
        let load = Load {
            publishes,
            ..Load::default()
        };
        row(
            &format!("recovery of {publishes} unconfirmed publishes"),
            || load.recovery(),
        )?;
    }
    Ok(())
}
