//! The broker in memory is compared with RabbitMQ: the same random requests to both have the same
//! answers.
//!
//! A seed decides everything, and `SEED=7 cargo test -p puka-test-rabbitmq --test agreement`
//! replays one. After each request both are asked for the counts of all queues, which is also what
//! makes the script wait for what a broker does beside its answers.

mod answers;
mod random;
mod script;
mod side;

use puka_test_rabbitmq::{shared_url, unique};
use random::Random;
use script::{Request, Script};
use side::Side;
use std::env;
use std::io::{self, Write};
use std::time::{Duration, Instant};

type Failure = Box<dyn std::error::Error>;

/// The version of RabbitMQ that the broker in memory plays. Others differ: since 4.0, a
/// dead-lettered message keeps its `CC` header and whether it was delivered before.
const PLAYED: (u32, u32) = (3, 10);

/// Requests of one script.
const REQUESTS: usize = 150;

/// How long RabbitMQ may take to come to the counts of the broker in memory, which is never late.
const PATIENCE: Duration = Duration::from_secs(10);

/// Further seeds that have found a difference.
const FOUND: [u64; 2] = [34, 265];

/// How many of its last requests are told of a script that fails.
const TOLD: usize = 12;

/// What the scripts must have come across, or they would show little.
const SEEN: &[&str] = &[
    "312 NO_ROUTE",
    "403 ACCESS_REFUSED by basic.publish",
    "403 ACCESS_REFUSED by basic.consume",
    "403 ACCESS_REFUSED by exchange.declare",
    "404 NOT_FOUND by basic.publish",
    "404 NOT_FOUND by basic.consume",
    "404 NOT_FOUND by queue.bind",
    "405 RESOURCE_LOCKED by queue.declare",
    "405 RESOURCE_LOCKED by basic.get",
    "406 PRECONDITION_FAILED by queue.declare",
    "406 PRECONDITION_FAILED by queue.delete",
    "406 PRECONDITION_FAILED by exchange.declare",
    "406 PRECONDITION_FAILED by exchange.delete",
    "406 PRECONDITION_FAILED by basic.publish",
    "the broker did not accept the message",
    "cancelled by the server",
    "is stale and cannot be settled",
    "redelivered true",
    "reason: rejected",
    "reason: maxlen",
    "CC=",
    "made up",
];

fn seeds() -> Result<Vec<u64>, Failure> {
    match env::var("SEED") {
        Ok(seed) => Ok(vec![seed.parse()?]),
        Err(_) => Ok((1..=20).chain(FOUND).collect()),
    }
}

#[test]
fn in_memory_broker_answers_as_rabbitmq_does() -> Result<(), Failure> {
    let url = shared_url()?;
    let (major, minor) = smol::block_on(Side::version(&url))?;
    if (major, minor) != PLAYED {
        // `eprintln!` is shown only when a test fails.
        let (major_played, minor_played) = PLAYED;
        writeln!(
            io::stderr(),
            "SKIPPED: the broker in memory plays {major_played}.{minor_played}, not {major}.{minor}"
        )?;
        return Ok(());
    }
    let seeds = seeds()?;
    let mut seen = String::new();
    for &seed in &seeds {
        let prefix = unique("agreement");
        smol::block_on(async {
            let mut ours = Side::in_memory(&prefix).await?;
            let mut theirs = Side::rabbitmq(&prefix, &url).await?;
            let outcome = agree(&mut ours, &mut theirs, seed, &mut seen).await;
            outcome.and(theirs.clean_up().await)
        })?;
    }
    let missed: Vec<_> = SEEN
        .iter()
        .filter(|answer| !seen.contains(**answer))
        .collect();
    assert!(
        missed.is_empty() || seeds.len() == 1,
        "the scripts never came across {missed:?}"
    );
    Ok(())
}

/// Has a script run against both sides.
async fn agree(
    ours: &mut Side,
    theirs: &mut Side,
    seed: u64,
    seen: &mut String,
) -> Result<(), Failure> {
    let mut script = Script::new(Random::new(seed));
    let mut told = Vec::new();
    for number in 0..REQUESTS {
        let request = script.next(ours);
        told.push(format!("{number:3} {request:?}"));
        let answers = (ours.ask(&request).await, theirs.ask(&request).await);
        let answers = match (&request, answers) {
            // Nothing has come on one side only: it may be late.
            (Request::Take { consumer }, (ours_now, theirs_now)) if ours_now != theirs_now => (
                ours.again(*consumer, ours_now).await,
                theirs.again(*consumer, theirs_now).await,
            ),
            (_, answers) => answers,
        };
        told.push(format!("    {}", answers.0));
        seen.push_str(&answers.0);
        let disagreement = if answers.0 == answers.1 {
            counts_differ(ours, theirs).await?
        } else {
            Some(format!(
                "in memory: {}\n RabbitMQ: {}",
                answers.0, answers.1
            ))
        };
        if let Some(difference) = disagreement {
            let last = told[told.len().saturating_sub(2 * TOLD)..].join("\n");
            return Err(format!("SEED={seed}, request {number}:\n{last}\n{difference}").into());
        }
    }
    Ok(())
}

/// Waits until both count the same; how they differ if they never do.
async fn counts_differ(ours: &mut Side, theirs: &mut Side) -> Result<Option<String>, Failure> {
    // The first round trip takes the acknowledgements along.
    ours.counts().await;
    let ours = ours.counts().await;
    theirs.counts().await;
    let start = Instant::now();
    loop {
        let theirs = theirs.counts().await;
        if ours == theirs {
            return Ok(None);
        }
        if start.elapsed() > PATIENCE {
            return Ok(Some(format!("in memory: {ours:?}\n RabbitMQ: {theirs:?}")));
        }
    }
}
