//! lapin on tokio, its default. It has an additional thread for reading and writing.

use crate::Outcome;
use crate::work::{EXCHANGE, Kind, Order, WINDOW};
use futures_util::StreamExt;
use futures_util::future::try_join_all;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions,
};
use lapin::types::FieldTable;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, Consumer, PublisherConfirm,
};
use puka_benches::{Clock, Sample};
use std::collections::VecDeque;

/// The number of publishes, or acks, that are awaited together. Each completes once another thread
/// has written it to the socket, and awaiting them one by one takes several times as long.
const BATCH: u64 = 500;

fn publishing<'a>(
    channel: &'a Channel,
    body: &'a [u8],
) -> impl Future<Output = lapin::Result<PublisherConfirm>> + 'a {
    channel.basic_publish(
        EXCHANGE.into(),
        "".into(),
        BasicPublishOptions::default(),
        body,
        BasicProperties::default(),
    )
}

async fn publish(channel: &Channel, order: &Order) -> Outcome<Sample> {
    let body = order.body();
    let clock = Clock::start();
    let mut left = order.messages;
    while left > 0 {
        let batch = left.min(BATCH);
        try_join_all((0..batch).map(|_| publishing(channel, &body))).await?;
        left -= batch;
    }
    channel.basic_qos(0, BasicQosOptions::default()).await?;
    Ok(clock.stop(order.messages))
}

async fn check(confirm: PublisherConfirm) -> Outcome<()> {
    if confirm.await?.is_ack() {
        Ok(())
    } else {
        Err("the broker has refused a publish".into())
    }
}

async fn confirm(channel: &Channel, order: &Order) -> Outcome<Sample> {
    let body = order.body();
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    let clock = Clock::start();
    let mut left = order.messages;
    let mut confirms = VecDeque::with_capacity(usize::from(WINDOW));
    while left > 0 {
        let batch = left.min(BATCH);
        while confirms.len() as u64 + batch > u64::from(WINDOW)
            && let Some(confirm) = confirms.pop_front()
        {
            check(confirm).await?;
        }
        confirms.extend(try_join_all((0..batch).map(|_| publishing(channel, &body))).await?);
        left -= batch;
    }
    for confirm in confirms {
        check(confirm).await?;
    }
    Ok(clock.stop(order.messages))
}

async fn consumer(channel: &Channel, order: &Order, no_ack: bool) -> Outcome<Consumer> {
    let options = BasicConsumeOptions {
        no_ack,
        ..BasicConsumeOptions::default()
    };
    Ok(channel
        .basic_consume(
            order.queue.as_str().into(),
            "".into(),
            options,
            FieldTable::default(),
        )
        .await?)
}

async fn consume(channel: &Channel, order: &Order) -> Outcome<Sample> {
    let clock = Clock::start();
    let mut consumer = consumer(channel, order, true).await?;
    for _ in 0..order.messages {
        let delivery = consumer.next().await.ok_or("the consumer has ended")??;
        order.check(&delivery.data);
    }
    Ok(clock.stop(order.messages))
}

async fn ack(channel: &Channel, order: &Order) -> Outcome<Sample> {
    let clock = Clock::start();
    channel
        .basic_qos(WINDOW, BasicQosOptions::default())
        .await?;
    let mut consumer = consumer(channel, order, false).await?;
    let tag = consumer.tag();
    let mut chunks = (&mut consumer).ready_chunks(BATCH as usize);
    let mut left = order.messages;
    while left > 0 {
        let deliveries = chunks.next().await.ok_or("the consumer has ended")?;
        left -= deliveries.len() as u64;
        let acks = deliveries.into_iter().map(async |delivery| {
            let delivery = delivery?;
            order.check(&delivery.data);
            delivery.ack(BasicAckOptions::default()).await
        });
        try_join_all(acks).await?;
    }
    channel
        .basic_cancel(tag, BasicCancelOptions::default())
        .await?;
    Ok(clock.stop(order.messages))
}

async fn work(order: &Order) -> Outcome<Sample> {
    let connection = Connection::connect(&order.url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    match order.work.kind {
        Kind::Publish => publish(&channel, order).await,
        Kind::Confirm => confirm(&channel, order).await,
        Kind::Consume => consume(&channel, order).await,
        Kind::Ack => ack(&channel, order).await,
    }
}

pub(crate) fn run(order: &Order) -> Outcome<Sample> {
    super::on_tokio(work(order))
}
