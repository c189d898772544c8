//! Measures the client's throughput over the loopback device, next to a program that writes and
//! reads prebuilt frames.
//!
//! `cargo run --release -p puka-benches --bin throughput` prints a table, in messages a second and
//! as ratios. The other end is a broker that costs almost nothing, in its own process and on its
//! own core; the client has the other core. Each figure is the median of several runs, in which the
//! programs take turns, so that other load on the machine affects all alike.
//!
//! Arguments: `--rounds N` (5), `--milliseconds N` a run (300), `--only TEXT` in the name of the
//! work.
#![expect(clippy::print_stdout, reason = "it prints its measurements")]
#![expect(clippy::expect_used, reason = "a failed measurement ends the program")]

mod frames;
mod work;

use puka_benches::{Broker, Sample, argument, median, number};
use std::net::SocketAddr;
use std::time::Duration;
use work::{WORKS, Work};

/// The cores of the broker and of the client.
const BROKER: usize = 1;
const CLIENT: usize = 0;

type Program = fn(SocketAddr, Work, Duration) -> Sample;

/// The ways to drive the client.
const PROGRAMS: [(&str, Program); 5] = [
    ("frames", frames::run),
    ("puka-smol, blocking", work::blocking_on_smol),
    ("puka-smol, spawned", work::spawned_on_smol),
    ("one task", work::in_one_task),
    ("evented", work::with_evented),
];

fn main() {
    if std::env::args().any(|argument| argument == "--serve") {
        let address = puka_benches::serve(BROKER).expect("a port of the loopback device is free");
        println!("{address}");
        std::thread::park();
    }
    let time = Duration::from_millis(number("--milliseconds", 300));
    let rounds = number("--rounds", 5);
    let only = argument("--only").unwrap_or_default();
    let program = argument("--program").unwrap_or_default();
    puka_benches::pin(CLIENT);
    let broker = Broker::start(&[]);
    println!("| work | program | messages/s | of the frames | CPU ns/message | of the frames |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for work in WORKS
        .into_iter()
        .filter(|work| work.to_string().contains(&only))
    {
        let programs: Vec<_> = PROGRAMS
            .into_iter()
            .filter(|(name, _)| name.contains(&program))
            .collect();
        let mut samples = vec![Vec::new(); programs.len()];
        for _ in 0..rounds {
            for ((_, run), samples) in programs.iter().zip(&mut samples) {
                samples.push(run(broker.address(), work, time));
            }
        }
        let mut reference = None;
        for ((name, _), samples) in programs.iter().zip(&samples) {
            let rate = median(samples.iter().map(Sample::rate).collect());
            let cost = median(samples.iter().map(Sample::cost).collect());
            let (first_rate, first_cost) = *reference.get_or_insert((rate, cost));
            println!(
                "| {work} | {name} | {:.4} M | {:.0} % | {cost:.0} | {:.1} |",
                rate / 1e6,
                rate / first_rate * 100.0,
                cost / first_cost,
            );
        }
    }
}
