//! Measures the latency of a request next to an unlimited publisher, and of a delivery next to a
//! consumer that takes nothing: `cargo run --release -p puka-benches --bin latency`.
#![expect(clippy::print_stdout, reason = "it prints its measurements")]

use puka::{Client, Error, Options};
use smol::Timer;
use std::time::{Duration, Instant};

const TIME: Duration = Duration::from_secs(3);

fn row(what: &str, mut latencies: Vec<Duration>) {
    latencies.sort_unstable();
    let at = |quantile: f64| {
        let place = (latencies.len() as f64 * quantile) as usize;
        latencies
            .get(place.min(latencies.len() - 1))
            .map_or(0.0, |time| time.as_secs_f64() * 1e3)
    };
    println!(
        "| {what} | {} | {:.3} | {:.3} | {:.3} |",
        latencies.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

async fn requests(client: &Client) -> Result<Vec<Duration>, Error> {
    let start = Instant::now();
    let mut latencies = Vec::new();
    while start.elapsed() < TIME {
        let since = Instant::now();
        client.queue_declare("test").await?;
        latencies.push(since.elapsed());
        Timer::after(Duration::from_millis(1)).await;
    }
    Ok(latencies)
}

async fn beside_publisher(
    address: std::net::SocketAddr,
    size: Option<usize>,
) -> Result<Vec<Duration>, Error> {
    let client = puka_smol::connect(&format!("amqp://{address}")).await?;
    let publishing = size.map(|size| {
        let client = client.clone();
        smol::spawn(async move {
            let body = vec![b'x'; size];
            loop {
                let sent = client
                    .basic_publish("", "test", body.clone())
                    .submit()
                    .await;
                if sent.is_err() {
                    return;
                }
            }
        })
    });
    let latencies = requests(&client).await?;
    drop(publishing);
    Ok(latencies)
}

/// Measures deliveries at a thousand a second, while another consumer of the connection, whose
/// queue is full, takes nothing.
async fn beside_slow_consumer(slow: bool) -> Result<Vec<Duration>, Error> {
    let broker = puka_test_broker::Server::new(Default::default());
    let (client, driver) = puka::open(broker.connect(), puka_smol::Clock, Options::default());
    smol::spawn(driver).detach();
    client.connect().await?;
    client.queue_declare("slow").await?;
    client.queue_declare("quick").await?;
    for _ in 0..10_000 {
        drop(
            client
                .basic_publish("", "slow", vec![b'x'; 1024])
                .submit()
                .await?,
        );
    }
    let _idle = if slow {
        Some(client.basic_consume("slow").prefetch_count(1000).await?)
    } else {
        None
    };
    let mut quick = client.basic_consume("quick").prefetch_count(1000).await?;
    let start = Instant::now();
    let mut latencies = Vec::new();
    while start.elapsed() < TIME {
        let since = Instant::now();
        drop(client.basic_publish("", "quick", "now").send());
        if let Some(delivery) = quick.next().await {
            delivery?.ack()?;
        }
        latencies.push(since.elapsed());
        Timer::after(Duration::from_millis(1)).await;
    }
    Ok(latencies)
}

fn main() -> Result<(), Error> {
    let address = puka_benches::serve(1)?;
    println!("| what | times | p50 ms | p99 ms | most ms |\n| --- | --- | --- | --- | --- |");
    smol::block_on(async {
        row("a request alone", beside_publisher(address, None).await?);
        for size in [16, 1024, 65_536, 8 << 20] {
            let latencies = beside_publisher(address, Some(size)).await?;
            row(
                &format!("a request beside publishes of {size} bytes"),
                latencies,
            );
        }
        row(
            "a publish and its delivery, alone",
            beside_slow_consumer(false).await?,
        );
        row(
            "a publish and its delivery beside a slow consumer",
            beside_slow_consumer(true).await?,
        );
        Ok(())
    })
}
