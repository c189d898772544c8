//! A thousand idle connections on one thread: the memory of each, and the processor time of all.
//!
//! `AMQP_URL=amqp://localhost/ cargo run --release --example idle` (with `ulimit -n 4096`). Without
//! `AMQP_URL` the broker runs in the same process, and its share is included. Linux only, because
//! it reads `/proc`.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod common;

use puka::{Error, Options};
use smol::LocalExecutor;
use std::time::{Duration, Instant};

const CONNECTIONS: usize = 1000;
const IDLE: Duration = Duration::from_secs(5);

fn main() -> Result<(), Error> {
    let executor = LocalExecutor::new();
    smol::block_on(executor.run(async {
        let before = resident_bytes()?;
        let start = Instant::now();
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            clients.push(match std::env::var("AMQP_URL") {
                Err(_) => common::connect().await?,
                Ok(url) => {
                    let options = Options::from_uri(&url)?.heartbeat(2);
                    let (client, driver) =
                        puka::connect(puka_smol::Dialer, puka_smol::Clock, options);
                    executor.spawn(driver).detach();
                    client.connect().await?;
                    client
                }
            });
        }
        println!("{CONNECTIONS} connections in {:?}", start.elapsed());
        println!(
            "{} bytes of memory for each",
            resident_bytes()?.saturating_sub(before) / CONNECTIONS
        );

        let before = processor_time()?;
        smol::Timer::after(IDLE).await;
        println!(
            "{:?} of processor time in {IDLE:?}",
            processor_time()?.saturating_sub(before)
        );
        for client in clients {
            client.close().await?;
        }
        Ok(())
    }))
}

fn resident_bytes() -> Result<usize, Error> {
    let pages = std::fs::read_to_string("/proc/self/statm")?;
    let resident = pages
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<usize>().ok());
    Ok(resident.unwrap_or_default() * 4096)
}

/// Returns the user and system time. In `/proc/self/stat` these are the 14th and 15th field, in
/// hundredths of a second.
fn processor_time() -> Result<Duration, Error> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit(')').next().unwrap_or_default().split(' ');
    let ticks: u64 = fields
        .skip(12)
        .take(2)
        .filter_map(|ticks| ticks.parse::<u64>().ok())
        .sum();
    Ok(Duration::from_millis(10 * ticks))
}
