//! The clients written in Rust, each used as its documentation shows and in the way that was
//! measured to be the fastest.

mod amqprs;
mod lapin;
mod puka;

pub(crate) use self::puka::publish_confirmed;

use crate::Outcome;
use crate::work::Order;
use puka_benches::Sample;

type Run = fn(&Order) -> Outcome<Sample>;

const PROGRAMS: [(&str, Run); 4] = [
    ("puka-smol", self::puka::on_smol),
    ("puka::evented", self::puka::evented),
    ("lapin", lapin::run),
    ("amqprs", amqprs::run),
];

pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    PROGRAMS.into_iter().map(|(name, _)| name)
}

pub(crate) fn run(name: &str, order: &Order) -> Outcome<Sample> {
    let (_, run) = PROGRAMS
        .into_iter()
        .find(|(known, _)| *known == name)
        .ok_or("unknown program")?;
    run(order)
}

/// Runs on the current thread: with one core, tokio's thread pool was slower.
fn on_tokio(work: impl Future<Output = Outcome<Sample>>) -> Outcome<Sample> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}
