//! Loads a broker and measures its speed, modelled on RabbitMQ's PerfTest.
//!
//! `cargo run --release --example perf -- --producers 2 --consumers 2 --size 1024 --duration 30`,
//! and `--help` for the rest. It uses the broker at `AMQP_URL`, or one in this process.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

mod meter;
mod picture;
mod settings;

use meter::Meter;
use puka::{Client, Delivery, Error, Options, Promise};
use settings::{Acks, Settings};
use smol::Timer;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The number of bytes of a body that contain its publishing time.
const STAMP: usize = 8;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let settings = match Settings::from_arguments(std::env::args().skip(1)) {
        Ok(settings) => Arc::new(settings),
        Err(text) => {
            println!("{text}");
            return Ok(());
        }
    };
    smol::block_on(run(settings, Arc::new(Meter::new()?)))?;
    Ok(())
}

async fn run(settings: Arc<Settings>, meter: Arc<Meter>) -> Result<(), Error> {
    // The producers have their own connection: if the broker throttles it, consumers are not
    // affected.
    let broker = puka_test_broker::Server::new(Default::default());
    let (publishing, consuming) = (connect(&broker).await?, connect(&broker).await?);
    let server = publishing.server_properties();
    println!("{} {}: {settings}", server.product(), server.version());

    let queue = settings.queue.as_str();
    let mut declare = consuming.queue_declare(queue);
    match settings.queue_type {
        Some(queue_type) => declare = declare.queue_type(queue_type).durable(true),
        None => declare = declare.auto_delete(true),
    }
    declare.await?;

    let until = Instant::now() + settings.duration;
    let mut tasks = Vec::new();
    for _ in 0..settings.consumers {
        let (client, settings, meter) = (consuming.clone(), settings.clone(), meter.clone());
        tasks.push(smol::spawn(async move {
            consume(&client, &settings, &meter).await
        }));
    }
    let mut producers = Vec::new();
    for _ in 0..settings.producers {
        let (client, settings, meter) = (publishing.clone(), settings.clone(), meter.clone());
        producers.push(smol::spawn(async move {
            produce(&client, &settings, &meter, until).await
        }));
    }
    while Instant::now() < until {
        Timer::after(Duration::from_secs(1).min(until.saturating_duration_since(Instant::now())))
            .await;
        println!("{}", meter.progress());
    }
    for producer in producers {
        producer.await?;
    }
    // Waits for the last deliveries to arrive.
    Timer::after(Duration::from_millis(200)).await;
    println!("{}", meter.summary());
    if let Some(path) = &settings.svg {
        std::fs::write(path, picture::svg(&meter.latencies())).map_err(Error::from)?;
        println!("the chart of the latencies: {path}");
    }
    if settings.queue_type.is_some() {
        consuming.queue_delete(queue).await?;
    }
    publishing.close().await?;
    consuming.close().await?;
    for task in tasks {
        task.await?;
    }
    Ok(())
}

/// Connects to the broker at `AMQP_URL`, or to the one in this process.
async fn connect(broker: &puka_test_broker::Server) -> Result<Client, Error> {
    if let Ok(url) = std::env::var("AMQP_URL") {
        return puka_smol::connect(&url).await;
    }
    let (client, driver) = puka::open(broker.connect(), puka_smol::Clock, Options::default());
    smol::spawn(driver).detach();
    client.connect().await?;
    Ok(client)
}

async fn produce(
    client: &Client,
    settings: &Settings,
    meter: &Meter,
    until: Instant,
) -> Result<(), Error> {
    let mut body = vec![b'x'; settings.size];
    let mut pending: VecDeque<(Instant, Promise<()>)> = VecDeque::new();
    let mut next = Instant::now();
    while Instant::now() < until {
        if let Some(pause) = settings.pause() {
            Timer::at(next).await;
            next += pause;
        }
        let now = Instant::now();
        if let Some(stamp) = body.first_chunk_mut::<STAMP>() {
            *stamp = meter.stamp(now).to_be_bytes();
        }
        let publish = client
            .basic_publish("", &settings.queue, &body)
            .persistent(settings.queue_type.is_some());
        let promise = publish.confirm(settings.confirms > 0).submit().await?;
        meter.sent();
        if settings.confirms == 0 {
            continue;
        }
        pending.push_back((now, promise));
        if pending.len() >= settings.confirms {
            confirmed(&mut pending, meter).await?;
        }
    }
    while !pending.is_empty() {
        confirmed(&mut pending, meter).await?;
    }
    Ok(())
}

/// Waits for the confirm of the oldest publish.
async fn confirmed(
    pending: &mut VecDeque<(Instant, Promise<()>)>,
    meter: &Meter,
) -> Result<(), Error> {
    let Some((since, promise)) = pending.pop_front() else {
        return Ok(());
    };
    promise.await?;
    meter.confirmed(since.elapsed());
    Ok(())
}

async fn consume(client: &Client, settings: &Settings, meter: &Meter) -> Result<(), Error> {
    let no_ack = matches!(settings.acks, Acks::None);
    let mut consumer = client
        .basic_consume(&settings.queue)
        .prefetch_count(settings.prefetch)
        .no_ack(no_ack)
        .await?;
    // The unsettled deliveries: an ack of the last one settles them all.
    let mut unsettled: Vec<Delivery> = Vec::new();
    let mut count = 0_usize;
    while let Some(delivery) = consumer.next().await {
        let Ok(delivery) = delivery else { break };
        let stamp = delivery
            .body()
            .first_chunk::<STAMP>()
            .map(|stamp| u64::from_be_bytes(*stamp));
        meter.received(stamp);
        count += 1;
        match settings.acks {
            Acks::None | Acks::Each => delivery.ack()?,
            Acks::Every(every) if count.is_multiple_of(every) => {
                delivery.ack_multiple()?;
                unsettled.clear();
            }
            Acks::Every(_) => unsettled.push(delivery),
        }
    }
    Ok(())
}
