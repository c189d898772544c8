//! Runs faults in random order under load, and prints the account: `soak [--rounds N] [--seed S]`.
//!
//! Exits with 1 if a message was lost or delivered twice unmarked, or something was not restored;
//! with 2 if the arguments are invalid.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the command line tool prints its findings"
)]

use puka::QueueType;
use puka_test_rabbitmq::Node;
use puka_test_soak::{Failure, Fault, Load, Outcome, Stage};
use std::env;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

struct Wanted {
    rounds: u64,
    seed: u64,
}

fn main() -> ExitCode {
    let wanted = match read(env::args().skip(1)) {
        Ok(wanted) => wanted,
        Err(error) => {
            eprintln!("soak: {error}\nusage: soak [--rounds N] [--seed S]");
            return ExitCode::from(2);
        }
    };
    match smol::block_on(run(&wanted)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("soak: seed {}: {error}", wanted.seed);
            ExitCode::FAILURE
        }
    }
}

fn read(mut arguments: impl Iterator<Item = String>) -> Result<Wanted, Failure> {
    let mut wanted = Wanted {
        rounds: 20,
        seed: u64::from(std::process::id()),
    };
    while let Some(name) = arguments.next() {
        let value = arguments
            .next()
            .ok_or_else(|| format!("{name} needs a number"))?
            .parse()?;
        match name.as_str() {
            "--rounds" => wanted.rounds = value,
            "--seed" => wanted.seed = value,
            _ => return Err(format!("{name} is unknown").into()),
        }
    }
    Ok(wanted)
}

/// splitmix64
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

async fn run(wanted: &Wanted) -> Outcome {
    println!("seed {}, {} faults", wanted.seed, wanted.rounds);
    let start = Instant::now();
    let node = smol::unblock(Node::start).await?;
    let stage = Stage::new(Arc::new(node))?;
    let mut load = Load::start(stage.options()?, QueueType::Classic).await?;
    let mut state = wanted.seed;
    for round in 1..=wanted.rounds {
        let chosen = random(&mut state);
        let fault = match Fault::ALL.get(chosen as usize % Fault::ALL.len()) {
            Some(Fault::ResetAfter(_)) => Fault::ResetAfter(random(&mut state) as usize % 10_000),
            Some(fault) => *fault,
            None => continue,
        };
        let begun = Instant::now();
        let account = one(&stage, &mut load, fault, random(&mut state) % 300)
            .await
            .map_err(|error| {
                format!(
                    "round {round}, {fault:?}: {error}\nThe node's log:\n{}",
                    stage.node.log()
                )
            })?;
        println!(
            "{round:4} {fault:?} {:.1} s: {account}",
            begun.elapsed().as_secs_f64()
        );
    }
    let recoveries: u64 = load.recoveries().iter().sum();
    let account = load.ends().await?;
    println!(
        "{} faults, {recoveries} recoveries, {:.0} s, seed {}: {account}",
        wanted.rounds,
        start.elapsed().as_secs_f64(),
        wanted.seed
    );
    for (error, times) in &account.errors {
        println!("{times} x {error}");
    }
    Ok(())
}

async fn one(
    stage: &Stage,
    load: &mut Load,
    fault: Fault,
    messages: u64,
) -> Result<puka_test_soak::Account, Failure> {
    load.goes_on();
    load.flows(messages as usize).await?;
    let before = load.recoveries();
    load.fragile.is_limited = fault == Fault::ChannelLimit;
    fault.happen(stage).await?;
    if fault.kills() {
        load.ledger.excuse();
    }
    if fault.breaks() {
        load.recovers_from(&before).await?;
    }
    smol::Timer::after(Duration::from_millis(messages)).await;
    load.opens().await?;
    load.comes_to_rest().await
}
