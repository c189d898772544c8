//! Puka beside other clients, on a RabbitMQ node.
//!
//! `benches/others/run` starts the node and this, which prints a table: messages a second, and what they cost of the client's
//! processor. Each measurement is a process of its own. Each figure is the median of several runs, in which the programs take
//! turns, so that what else the machine does hits all alike.
//!
//! Arguments: `--rounds N` (5), `--percent N` of the usual number of messages (100), `--only TEXT` in the name of the work,
//! `--program TEXT` in the name of the program, and any `NAME=PATH` for one that is not written in Rust.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "it shows what it measured")]

mod programs;
mod queue;
mod runs;
mod table;
mod work;

use puka_benches::{argument, number};
use runs::{Program, Runs};
use std::error::Error;
use work::Order;

pub(crate) type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Where the node listens. Its virtual host is spelt out: some take `/` for one whose name is empty.
fn url() -> Outcome<String> {
    let url = std::env::var("AMQP_URL").or_else(|_| std::env::var("PUKA_TEST_RABBITMQ_URL"));
    let url = url.map_err(|_| "neither AMQP_URL nor PUKA_TEST_RABBITMQ_URL is set")?;
    Ok(if url.ends_with('/') { url + "%2f" } else { url })
}

fn main() -> Outcome<()> {
    let url = url()?;
    if let Some(name) = argument("--run") {
        let sample = programs::run(&name, &Order::from_arguments(url)?)?;
        println!("{} {}", sample.time.as_nanos(), sample.cpu.as_nanos());
        return Ok(());
    }
    let rounds = number("--rounds", 5);
    let percent = number("--percent", 100);
    let only = argument("--only").unwrap_or_default();
    let named = argument("--program").unwrap_or_default();
    let programs: Vec<_> =
        Program::all()?.into_iter().filter(|program| program.name.contains(&named)).collect();
    let mut runs = Runs::new(&url);
    table::head(&programs);
    for work in work::works().filter(|work| work.to_string().contains(&only)) {
        let messages = (work.messages() * percent / 100).max(1);
        let mut samples = vec![Vec::new(); programs.len()];
        for _ in 0..rounds {
            for (program, samples) in programs.iter().zip(&mut samples) {
                samples.push(runs.run(program, work, messages)?);
            }
        }
        table::line(work, &programs, &samples);
    }
    Ok(())
}
