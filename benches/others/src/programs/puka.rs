//! Puka.

use crate::Outcome;
use crate::work::{EXCHANGE, Kind, Order, WINDOW};
use bytes::Bytes;
use puka::{Client, Error};
use puka_benches::{Clock, Sample};
use std::collections::VecDeque;
use std::pin::pin;

/// Publishes without confirms. The reply to the close proves that the node has read everything: no
/// other request can be made on the channel of these messages.
async fn publish(client: &Client, order: &Order) -> Result<Sample, Error> {
    let body = Bytes::from(order.body());
    let clock = Clock::start();
    for _ in 0..order.messages {
        client
            .basic_publish(EXCHANGE, "", &body)
            .confirm(false)
            .await?;
    }
    client.close().await?;
    Ok(clock.stop(order.messages))
}

/// Publishes this many messages with confirms, with as many unconfirmed as the limit allows.
pub(crate) async fn publish_confirmed(
    client: &Client,
    exchange: &str,
    routing_key: &str,
    body: Vec<u8>,
    messages: u64,
) -> Result<(), Error> {
    let body = Bytes::from(body);
    let mut promises = VecDeque::with_capacity(usize::from(WINDOW));
    for _ in 0..messages {
        if promises.len() == usize::from(WINDOW)
            && let Some(promise) = promises.pop_front()
        {
            promise.await?;
        }
        promises.push_back(
            client
                .basic_publish(exchange, routing_key, &body)
                .submit()
                .await?,
        );
    }
    for promise in promises {
        promise.await?;
    }
    Ok(())
}

async fn confirm(client: &Client, order: &Order) -> Result<Sample, Error> {
    let body = order.body();
    let clock = Clock::start();
    publish_confirmed(client, EXCHANGE, "", body, order.messages).await?;
    Ok(clock.stop(order.messages))
}

async fn consume(client: &Client, order: &Order, acks: bool) -> Result<Sample, Error> {
    let prefetch_count = if acks { WINDOW } else { 0 };
    let clock = Clock::start();
    let request = client
        .basic_consume(&order.queue)
        .no_ack(!acks)
        .prefetch_count(prefetch_count);
    let mut consumer = request.await?;
    for _ in 0..order.messages {
        let delivery = consumer.next().await.unwrap_or(Err(Error::Closed))?;
        order.check(delivery.body());
        delivery.ack()?;
    }
    if acks {
        consumer.cancel().await?;
    }
    Ok(clock.stop(order.messages))
}

async fn work(client: &Client, order: &Order) -> Result<Sample, Error> {
    match order.work.kind {
        Kind::Publish => publish(client, order).await,
        Kind::Confirm => confirm(client, order).await,
        Kind::Consume => consume(client, order, false).await,
        Kind::Ack => consume(client, order, true).await,
    }
}

/// Runs the driver and the work on smol's own thread.
pub(crate) fn on_smol(order: &Order) -> Outcome<Sample> {
    let order = order.clone();
    Ok(smol::block_on(smol::spawn(async move {
        let client = puka_smol::connect(&order.url).await?;
        work(&client, &order).await
    }))?)
}

/// Runs without an executor: the evented client waits for the work.
pub(crate) fn evented(order: &Order) -> Outcome<Sample> {
    let mut conn = puka::evented::connect(&order.url)?;
    let client = conn.client();
    let mut work = pin!(async {
        client.connect().await?;
        work(&client, order).await
    });
    Ok(conn.wait(&mut work, None)?)
}
