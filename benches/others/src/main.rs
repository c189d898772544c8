//! Compares Puka with other clients on a RabbitMQ node.
//!
//! `benches/others/run` starts the node and this program, which prints a table: messages a second,
//! and the client's processor time for each. Each measurement runs in its own process. Each figure
//! is the median of several runs, in which the programs take turns, so that other load on the
//! machine affects all alike.
//!
//! Arguments: `--rounds N` (5), `--percent N` of the usual number of messages (100), `--only TEXT`
//! in the name of the work, `--program TEXT` in the name of the program, and any `NAME=PATH` for a
//! program that is not written in Rust.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "it prints its measurements")]

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

/// Returns the URI of the node. It names the virtual host, because some clients take `/` for one
/// with an empty name.
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
    let programs: Vec<_> = Program::all()?
        .into_iter()
        .filter(|program| program.name.contains(&named))
        .collect();
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
