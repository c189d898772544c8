//! The clients that are written in Rust, each used in the way that its documentation shows and that was found to be the fastest.

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
    let (_, run) = PROGRAMS.into_iter().find(|(known, _)| *known == name).ok_or("no such program")?;
    run(order)
}

/// On the runtime's current thread: with one core, its pool of threads was slower.
fn on_tokio(work: impl Future<Output = Outcome<Sample>>) -> Outcome<Sample> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}
