//! The in-memory broker agrees with RabbitMQ: the same random requests get the same replies.
//!
//! A seed determines everything. `SEED=7 cargo test -p puka-test-rabbitmq --test agreement` replays
//! one. After each request, the test compares the counts of all queues. This also waits until a
//! broker has completed the work that follows a reply.

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

/// The version of RabbitMQ that the in-memory broker imitates. Other versions differ: since 4.0, a
/// dead-lettered message keeps its `CC` header and its redelivered flag.
const PLAYED: (u32, u32) = (3, 10);

/// The number of requests of a script.
const REQUESTS: usize = 150;

/// The timeout for RabbitMQ to reach the counts of the in-memory broker, which is never late.
const PATIENCE: Duration = Duration::from_secs(10);

/// More seeds, which have found differences.
const FOUND: [u64; 2] = [34, 265];

/// The number of the last requests that are printed if a script fails.
const TOLD: usize = 12;

/// The replies that the scripts must have received. Otherwise they prove little.
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
    "is stale: it has ended",
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
            "SKIPPED: the in-memory broker imitates {major_played}.{minor_played}, \
             not {major}.{minor}"
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
        "the scripts never received {missed:?}"
    );
    Ok(())
}

/// Runs a script against both sides.
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
            // Only one side has a delivery. The other may be late.
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

/// Waits until both sides have the same counts. Returns the difference if they do not.
async fn counts_differ(ours: &mut Side, theirs: &mut Side) -> Result<Option<String>, Failure> {
    // The first round trip also sends the acknowledgements.
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
