//! Consumers: their deliveries, and how they end.

use crate::cases::assert_error;
use crate::taking::{ack, next, take};
use crate::{Outcome, Runtime, World};
use puka::{Client, Consumer, Ended, Error};

/// A consumer is a stream of deliveries in the order of the queue, with a recognisable tag.
pub async fn consumer_is_a_stream_of_deliveries<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.filled_queue(&client, 100).await?;
    let mut consumer = client
        .basic_consume(&queue)
        .consumer_tag("invoices")
        .prefetch_count(10)
        .await?;
    assert!(consumer.tag().contains("invoices"), "{}", consumer.tag());
    assert!(consumer.ended().is_none());
    for n in 0..100 {
        let delivery = next(&mut consumer).await?;
        assert_eq!(
            (delivery.body(), delivery.message_count()),
            (n.to_string().as_bytes(), None)
        );
        delivery.ack()?;
    }
    client.close().await?;
    let client = world.client().await?;
    assert_eq!(client.queue_delete(&queue).await?, 0);
    Ok(client.close().await?)
}

/// A missing queue is `NotFound`, and a second exclusive consumer `AccessRefused`.
pub async fn failed_consume_affects_nothing_else<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    assert_error!(
        client.basic_consume(world.name("missing")).await,
        Error::NotFound(_)
    );
    let queue = world.queue(&client).await?;
    let mut only = client.basic_consume(&queue).exclusive(true).await?;
    assert_error!(client.basic_consume(&queue).await, Error::AccessRefused(_));
    assert_error!(
        client.basic_consume(&queue).exclusive(true).await,
        Error::AccessRefused(_)
    );
    client.basic_publish("", &queue, "for the only one").await?;
    next(&mut only).await?.ack()?;
    only.cancel().await?;
    let shared = client.basic_consume(&queue).await?;
    assert_error!(
        client.basic_consume(&queue).exclusive(true).await,
        Error::AccessRefused(_)
    );
    drop(shared);
    Ok(client.close().await?)
}

/// Deliveries can be settled after the cancel; buffered ones are returned to the queue.
pub async fn cancel_requeues_buffered_deliveries<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.filled_queue(&client, 10).await?;
    let mut consumer = client.basic_consume(&queue).prefetch_count(6).await?;
    let held = take(&mut consumer, 2).await?;
    assert_eq!(consumer.cancel().await?, consumer.tag());
    world.until_ready(&client, &queue, 8).await?;
    assert!(Consumer::next(&mut consumer).await.is_none());
    assert!(matches!(consumer.ended(), Some(Ended::Cancelled)));
    assert_error!(consumer.cancel().await, Error::Stale);
    assert_error!(client.basic_qos(&consumer, 7).await, Error::Stale);
    ack(held)?;
    let back = client.basic_get(&queue).await?.ok_or("empty")?;
    assert_eq!((back.body(), back.redelivered()), (&b"2"[..], true));
    back.ack()?;
    client.close().await?;
    let client = world.client().await?;
    assert_eq!(client.queue_delete(&queue).await?, 7);
    Ok(client.close().await?)
}

/// A dropped consumer is cancelled: its buffered deliveries are returned to the queue, and earlier
/// ones can still be settled.
pub async fn m03_dropped_consumer_requeues_buffered_deliveries<R: Runtime>(
    world: &World<R>,
) -> Outcome {
    let client = world.client().await?;
    let queue = world.filled_queue(&client, 10).await?;
    let mut consumer = client.basic_consume(&queue).prefetch_count(5).await?;
    let held = next(&mut consumer).await?;
    drop(consumer);
    world.until_ready(&client, &queue, 9).await?;
    while client
        .queue_declare(&queue)
        .passive(true)
        .await?
        .consumer_count
        != 0
    {}
    held.ack()?;
    let back = client
        .basic_get(&queue)
        .no_ack(true)
        .await?
        .ok_or("empty")?;
    assert_eq!(back.body(), b"1");
    drop(client.basic_consume(&queue).send());
    while client
        .queue_declare(&queue)
        .passive(true)
        .await?
        .consumer_count
        != 0
    {}
    world.until_ready(&client, &queue, 8).await?;
    Ok(client.close().await?)
}

/// Deliveries without acknowledgements would be lost, so they can be taken after the cancel.
pub async fn cancel_keeps_buffered_no_ack_deliveries<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.filled_queue(&client, 200).await?;
    let mut consumer = client.basic_consume(&queue).no_ack(true).await?;
    drop(next(&mut consumer).await?);
    world.until_ready(&client, &queue, 0).await?;
    consumer.cancel().await?;
    let mut rest = Vec::new();
    while let Some(delivery) = Consumer::next(&mut consumer).await {
        rest.push(String::from_utf8_lossy(delivery?.body()).parse::<u32>()?);
    }
    assert_eq!(rest, (1..200).collect::<Vec<_>>());
    assert!(matches!(consumer.ended(), Some(Ended::Cancelled)));
    Ok(client.close().await?)
}

/// `basic_cancel` ends a consumer, too, and deliveries that it has already taken from the
/// connection can be read.
pub async fn basic_cancel_ends_a_consumer<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.filled_queue(&client, 5).await?;
    let mut consumer = client.basic_consume(&queue).prefetch_count(5).await?;
    let held = next(&mut consumer).await?;
    assert_eq!(client.basic_cancel(&consumer).await?, consumer.tag());
    let mut count = 1;
    held.ack()?;
    while let Some(delivery) = Consumer::next(&mut consumer).await {
        count += 1;
        delivery?.ack()?;
    }
    assert!(matches!(consumer.ended(), Some(Ended::Cancelled)));
    world.until_ready(&client, &queue, 5 - count).await?;
    Ok(client.close().await?)
}

/// Deleting the queue ends the stream with `ConsumerCancelled`, after the earlier deliveries.
pub async fn s57_deleting_the_queue_ends_its_consumers<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.filled_queue(&client, 3).await?;
    let mut consumer = client.basic_consume(&queue).prefetch_count(2).await?;
    let held = next(&mut consumer).await?;
    let tag = consumer.tag().to_owned();
    client.queue_delete(&queue).await?;
    assert_eq!(next(&mut consumer).await?.body(), b"1");
    assert!(consumer.ended().is_none());
    let end = Consumer::next(&mut consumer)
        .await
        .ok_or("the consumer has ended without an error")?;
    assert_error!(end, Error::ConsumerCancelled(cancelled) if *cancelled == tag);
    assert!(matches!(consumer.ended(), Some(Ended::CancelledByServer)));
    assert!(Consumer::next(&mut consumer).await.is_none());
    drop(held.ack());
    assert_error!(consumer.cancel().await, Error::Stale);
    client.queue_declare(&queue).await?;
    Ok(client.close().await?)
}

/// Two consumers of a queue each have their own prefetch, and every message is delivered to one of
/// them.
pub async fn consumers_of_a_queue_share_its_messages<R: Runtime>(world: &World<R>) -> Outcome {
    let clients: [Client; 2] = [world.client().await?, world.client().await?];
    let queue = world.shared_queue(&clients[0]).await?;
    let mut first = clients[0].basic_consume(&queue).prefetch_count(3).await?;
    let mut second = clients[1].basic_consume(&queue).prefetch_count(2).await?;
    for n in 0..7_u8 {
        clients[0].basic_publish("", &queue, vec![n]).await?;
    }
    let mut held = take(&mut first, 3).await?;
    held.extend(take(&mut second, 2).await?);
    assert_eq!(world.ready(&clients[0], &queue).await?, 2);
    let mut bodies: Vec<_> = held
        .iter()
        .map(|delivery| delivery.body().to_vec())
        .collect();
    bodies.sort();
    assert_eq!(bodies, (0..5).map(|n| vec![n]).collect::<Vec<_>>());
    for client in clients {
        client.close().await?;
    }
    Ok(())
}

/// A hundred consumers share one connection, each with its own queue.
pub async fn hundred_consumers_share_one_connection<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let mut consumers = Vec::new();
    for _ in 0..100 {
        let queue = world.queue(&client).await?;
        consumers.push((client.basic_consume(&queue).prefetch_count(1).await?, queue));
    }
    let publishes: Vec<_> = consumers
        .iter()
        .map(|(_, queue)| {
            client
                .basic_publish("", queue, queue)
                .mandatory(true)
                .send()
        })
        .collect();
    for publish in publishes {
        publish.await?;
    }
    for (consumer, queue) in &mut consumers {
        let delivery = next(consumer).await?;
        assert_eq!(delivery.body(), queue.as_bytes());
        delivery.ack()?;
    }
    Ok(client.close().await?)
}

/// A consumer above the channel limit is refused. It waits if another consumer is about to end.
pub async fn consumer_beyond_the_channels_is_refused<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client_with(|options| options.channel_max(5)).await?;
    let queue = world.queue(&client).await?;
    let mut consumers = Vec::new();
    for _ in 0..3 {
        consumers.push(client.basic_consume(&queue).prefetch_count(1).await?);
    }
    assert_error!(client.basic_consume(&queue).await, Error::ChannelLimit);
    // Requests and publishes continue meanwhile.
    for _ in 0..10 {
        client
            .basic_publish("", &queue, "x")
            .mandatory(true)
            .await?;
        client.queue_declare(&queue).passive(true).await?;
    }
    drop(consumers.pop());
    let mut fourth = client.basic_consume(&queue).prefetch_count(1).await?;
    next(&mut fourth).await?.ack()?;
    Ok(client.close().await?)
}
