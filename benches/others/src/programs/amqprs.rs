//! amqprs on tokio.

use crate::Outcome;
use crate::work::{EXCHANGE, Kind, Order, WINDOW};
use amqprs::callbacks::ChannelCallback;
use amqprs::channel::{
    BasicAckArguments, BasicCancelArguments, BasicConsumeArguments, BasicPublishArguments,
    BasicQosArguments, Channel, ConfirmSelectArguments,
};
use amqprs::connection::{Connection, OpenConnectionArguments};
use amqprs::{Ack, BasicProperties, Cancel, CloseChannel, Nack, Return};
use puka_benches::{Clock, Sample};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::Semaphore;

type Result<T> = std::result::Result<T, amqprs::error::Error>;

/// Limits the unconfirmed publishes: each takes a permit, and its confirm returns it.
#[derive(Debug)]
struct Confirms {
    window: Arc<Semaphore>,
    /// The tag of the first in `confirmed`.
    first: u64,
    /// Whether each publish is confirmed, from the oldest unconfirmed one on.
    confirmed: VecDeque<bool>,
}

impl Confirms {
    fn settle(&mut self, tag: u64, multiple: bool) {
        let Some(place) = tag
            .checked_sub(self.first)
            .and_then(|place| usize::try_from(place).ok())
        else {
            return;
        };
        if self.confirmed.len() <= place {
            self.confirmed.resize(place + 1, false);
        }
        let from = if multiple { 0 } else { place };
        let news = self
            .confirmed
            .range_mut(from..=place)
            .filter(|confirmed| !**confirmed);
        let count = news.map(|confirmed| *confirmed = true).count();
        while self.confirmed.front() == Some(&true) {
            self.confirmed.pop_front();
            self.first += 1;
        }
        self.window.add_permits(count);
    }
}

#[async_trait::async_trait]
impl ChannelCallback for Confirms {
    async fn close(&mut self, _: &Channel, _: CloseChannel) -> Result<()> {
        self.window.close();
        Ok(())
    }

    async fn cancel(&mut self, _: &Channel, _: Cancel) -> Result<()> {
        Ok(())
    }

    async fn flow(&mut self, _: &Channel, active: bool) -> Result<bool> {
        Ok(active)
    }

    async fn publish_ack(&mut self, _: &Channel, ack: Ack) {
        self.settle(ack.delivery_tag(), ack.mutiple());
    }

    /// Closing the semaphore fails the tasks that wait for a permit.
    async fn publish_nack(&mut self, _: &Channel, _: Nack) {
        self.window.close();
    }

    async fn publish_return(&mut self, _: &Channel, _: Return, _: BasicProperties, _: Vec<u8>) {}
}

async fn publish(channel: &Channel, order: &Order) -> Outcome<Sample> {
    let body = order.body();
    let arguments = BasicPublishArguments::new(EXCHANGE, "");
    let clock = Clock::start();
    for _ in 0..order.messages {
        channel
            .basic_publish(BasicProperties::default(), body.clone(), arguments.clone())
            .await?;
    }
    channel
        .basic_qos(BasicQosArguments::new(0, 0, false))
        .await?;
    Ok(clock.stop(order.messages))
}

async fn confirm(channel: &Channel, order: &Order) -> Outcome<Sample> {
    let body = order.body();
    let window = Arc::new(Semaphore::new(usize::from(WINDOW)));
    channel
        .register_callback(Confirms {
            window: window.clone(),
            first: 1,
            confirmed: VecDeque::new(),
        })
        .await?;
    channel
        .confirm_select(ConfirmSelectArguments::default())
        .await?;
    let arguments = BasicPublishArguments::new(EXCHANGE, "");
    let clock = Clock::start();
    for _ in 0..order.messages {
        window.acquire().await?.forget();
        channel
            .basic_publish(BasicProperties::default(), body.clone(), arguments.clone())
            .await?;
    }
    drop(window.acquire_many(u32::from(WINDOW)).await?);
    Ok(clock.stop(order.messages))
}

async fn consume(channel: &Channel, order: &Order, acks: bool) -> Outcome<Sample> {
    let clock = Clock::start();
    if acks {
        channel
            .basic_qos(BasicQosArguments::new(0, WINDOW, false))
            .await?;
    }
    let arguments = BasicConsumeArguments::new(&order.queue, "")
        .manual_ack(acks)
        .finish();
    let (tag, mut deliveries) = channel.basic_consume_rx(arguments).await?;
    for _ in 0..order.messages {
        let message = deliveries.recv().await.ok_or("the consumer has ended")?;
        order.check(message.content.as_deref().unwrap_or_default());
        if acks {
            let tag = message
                .deliver
                .as_ref()
                .ok_or("the message has no delivery method")?
                .delivery_tag();
            channel
                .basic_ack(BasicAckArguments::new(tag, false))
                .await?;
        }
    }
    if acks {
        channel
            .basic_cancel(BasicCancelArguments::new(&tag))
            .await?;
    }
    Ok(clock.stop(order.messages))
}

async fn work(order: &Order) -> Outcome<Sample> {
    let mut arguments = OpenConnectionArguments::try_from(order.url.as_str())?;
    // amqprs does not decode the virtual host of a URL.
    let connection = Connection::open(arguments.virtual_host("/")).await?;
    let channel = connection.open_channel(None).await?;
    match order.work.kind {
        Kind::Publish => publish(&channel, order).await,
        Kind::Confirm => confirm(&channel, order).await,
        Kind::Consume => consume(&channel, order, false).await,
        Kind::Ack => consume(&channel, order, true).await,
    }
}

pub(crate) fn run(order: &Order) -> Outcome<Sample> {
    super::on_tokio(work(order))
}
