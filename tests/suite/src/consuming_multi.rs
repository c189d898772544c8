//! One consumer of several queues.

use crate::cases::assert_error;
use crate::{Outcome, Runtime, World, ready_now};
use puka::{ConsumeQueue, Consumer, Delivery, Ended, Error};
use std::collections::BTreeSet;

async fn next(consumer: &mut Consumer) -> Result<Delivery, Box<dyn std::error::Error>> {
    Ok(consumer.next().await.ok_or("the consumer has ended")??)
}

/// The messages of all queues are in one stream, and each has the name of its queue.
pub async fn several_queues_share_a_consumer<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let (one, other) = (
        world.filled_queue(&client, 5).await?,
        world.filled_queue(&client, 5).await?,
    );
    let queues = [
        ConsumeQueue::from(&one),
        ConsumeQueue::new(&other).consumer_tag("other"),
    ];
    let mut consumer = client.basic_consume_multi(queues).await?;
    let mut seen = BTreeSet::new();
    for _ in 0..10 {
        let delivery = next(&mut consumer).await?;
        let queue = delivery
            .queue()
            .ok_or("the delivery has no queue")?
            .to_owned();
        let is_other = delivery
            .consumer_tag()
            .is_some_and(|tag| tag.ends_with(".other"));
        assert_eq!(is_other, queue == other);
        assert!(
            seen.insert((queue, delivery.body().to_vec())),
            "a message was delivered twice"
        );
        delivery.ack()?;
    }
    assert_eq!(seen.iter().filter(|(queue, _)| *queue == one).count(), 5);
    let tag = consumer.tag().to_owned();
    assert_eq!(consumer.cancel().await?, tag);
    assert!(consumer.next().await.is_none());
    assert!(matches!(consumer.ended(), Some(Ended::Cancelled)));
    assert_eq!(
        (
            client.queue_delete(&one).await?,
            client.queue_delete(&other).await?
        ),
        (0, 0)
    );
    Ok(client.close().await?)
}

/// The prefetch count applies to all the queues together, and can be changed. The messages of each
/// queue that are beyond it are buffered.
pub async fn several_queues_share_a_prefetch_count<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let (one, other) = (
        world.filled_queue(&client, 5).await?,
        world.filled_queue(&client, 5).await?,
    );
    let mut consumer = client
        .basic_consume_multi([&one, &other])
        .prefetch_count(3)
        .await?;
    let ready = async || {
        Ok::<_, Error>(world.ready(&client, &one).await? + world.ready(&client, &other).await?)
    };
    // The declares wait until the deliveries before them have arrived.
    let mut unsettled = Vec::new();
    for _ in 0..3 {
        unsettled.push(next(&mut consumer).await?);
    }
    while ready().await? != 4 {}
    assert_no_delivery(&mut consumer).await;
    client.basic_qos(&consumer, 4).await?;
    unsettled.push(next(&mut consumer).await?);
    while ready().await? != 0 {}
    assert_no_delivery(&mut consumer).await;
    unsettled.remove(0).ack()?;
    unsettled.push(next(&mut consumer).await?);
    assert_no_delivery(&mut consumer).await;
    drop((unsettled, consumer));
    while ready().await? < 9 {}
    Ok(client.close().await?)
}

async fn assert_no_delivery(consumer: &mut Consumer) {
    let delivery = ready_now(&mut Box::pin(consumer.next())).await;
    assert!(
        delivery.is_none(),
        "more deliveries than the prefetch count"
    );
}

/// If one queue is missing, none is consumed, and the client continues to work.
pub async fn either_all_queues_are_consumed_or_none<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.filled_queue(&client, 1).await?;
    let missing = world.name("missing");
    assert_error!(
        client.basic_consume_multi([&queue, &missing]).await,
        Error::NotFound(_)
    );
    let none: [&str; 0] = [];
    assert_error!(
        client.basic_consume_multi(none).await,
        Error::InvalidArgument { .. }
    );
    world.until_ready(&client, &queue, 1).await?;
    assert_eq!(
        client
            .queue_declare(&queue)
            .passive(true)
            .await?
            .consumer_count,
        0
    );
    Ok(client.close().await?)
}

/// The consumer continues without a deleted queue, and ends with the last one.
pub async fn consumer_ends_with_its_last_queue<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let (one, other) = (world.queue(&client).await?, world.queue(&client).await?);
    let mut consumer = client
        .basic_consume_multi([&one, &other])
        .prefetch_count(10)
        .await?;
    client.queue_delete(&one).await?;
    client.basic_publish("", &other, "still here").await?;
    let delivery = next(&mut consumer).await?;
    assert_eq!(
        (delivery.queue(), delivery.body()),
        (Some(other.as_str()), &b"still here"[..])
    );
    delivery.ack()?;
    client.queue_delete(&other).await?;
    let end = consumer
        .next()
        .await
        .ok_or("the consumer has ended without an error")?;
    assert_error!(end, Error::ConsumerCancelled(_));
    assert!(consumer.next().await.is_none());
    assert!(matches!(consumer.ended(), Some(Ended::CancelledByServer)));
    Ok(client.close().await?)
}
