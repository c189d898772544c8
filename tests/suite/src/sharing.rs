//! Several consumers of one queue: which one receives a message, which one takes over, and how each
//! ends.

use crate::cases::assert_error;
use crate::taking::{next, take};
use crate::{Outcome, Runtime, World, ready_now};
use futures_lite::StreamExt;
use puka::{Client, Consumer, Ended, Error};

async fn declare_single_active<R: Runtime>(
    world: &World<R>,
    client: &Client,
) -> Result<String, Error> {
    let queue = world.name("single");
    Ok(client
        .queue_declare(&queue)
        .exclusive(true)
        .single_active_consumer(true)
        .await?
        .name)
}

/// Publishes a message, and checks that this consumer receives it.
async fn goes_to(
    client: &Client,
    queue: &str,
    body: &'static str,
    consumer: &mut Consumer,
) -> Result<puka::Delivery, Box<dyn std::error::Error>> {
    client
        .basic_publish("", queue, body)
        .mandatory(true)
        .await?;
    let delivery = next(consumer).await?;
    assert_eq!(delivery.body(), body.as_bytes());
    Ok(delivery)
}

/// Consumers of higher priority receive messages first, and others only when those are at their
/// prefetch limit.
pub async fn consumers_of_higher_priority_are_served_first<R: Runtime>(
    world: &World<R>,
) -> Outcome {
    let client = world.client().await?;
    let queue = world.queue(&client).await?;
    let consume = || client.basic_consume(&queue).prefetch_count(1);
    let mut low = consume().priority(-5).await?;
    let mut usual = consume().await?;
    let mut high = consume().priority(10).await?;
    let held = goes_to(&client, &queue, "first", &mut high).await?;
    let also_held = goes_to(&client, &queue, "second", &mut usual).await?;
    let last_held = goes_to(&client, &queue, "third", &mut low).await?;
    // A consumer that has credit again receives the next message.
    also_held.ack()?;
    let also_held = goes_to(&client, &queue, "fourth", &mut usual).await?;
    drop((held, also_held, last_held));
    Ok(client.close().await?)
}

/// A priority must be a number.
pub async fn non_numeric_priority_is_refused<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.queue(&client).await?;
    let refused = client
        .basic_consume(&queue)
        .argument("x-priority", "high")
        .await
        .map(drop);
    assert_error!(refused, Error::PreconditionFailed(fault) if fault.text.contains("x-priority"));
    drop(
        client
            .basic_consume(&queue)
            .argument("x-priority", 7_u8)
            .await?,
    );
    Ok(client.close().await?)
}

/// With a single active consumer, the first one receives everything, and the next one takes over
/// when it ends: by a cancel, by a drop, or with its connection.
pub async fn next_consumer_replaces_the_single_active_one<R: Runtime>(world: &World<R>) -> Outcome {
    let owner = world.client().await?;
    let other = world.client().await?;
    let queue = world.name("single");
    owner
        .queue_declare(&queue)
        .single_active_consumer(true)
        .await?;
    let mut first = owner.basic_consume(&queue).prefetch_count(10).await?;
    let mut second = owner.basic_consume(&queue).prefetch_count(10).await?;
    let mut third = other.basic_consume(&queue).prefetch_count(10).await?;
    let mut last = owner.basic_consume(&queue).prefetch_count(10).await?;

    goes_to(&owner, &queue, "one", &mut first).await?.ack()?;
    goes_to(&owner, &queue, "two", &mut first).await?.ack()?;
    for waiting in [&mut second, &mut last] {
        assert!(
            ready_now(&mut StreamExt::next(waiting)).await.is_none(),
            "the consumer must not be active"
        );
    }
    first.cancel().await?;
    goes_to(&owner, &queue, "three", &mut second).await?.ack()?;
    drop(second);
    goes_to(&owner, &queue, "four", &mut third).await?.ack()?;
    drop(goes_to(&owner, &queue, "five", &mut third).await?);
    let again = next(&mut third).await?;
    assert!(again.redelivered() && again.body() == b"five");
    other.close().await?;
    let again = next(&mut last).await?;
    assert!(again.redelivered() && again.body() == b"five");
    again.ack()?;
    goes_to(&owner, &queue, "six", &mut last).await?.ack()?;
    Ok(owner.close().await?)
}

/// The unsettled deliveries of an active consumer stay its own after its cancel.
pub async fn takeover_keeps_unsettled_deliveries<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = declare_single_active(world, &client).await?;
    let mut first = client.basic_consume(&queue).prefetch_count(2).await?;
    let mut second = client.basic_consume(&queue).prefetch_count(10).await?;
    for body in ["0", "1", "2"] {
        client.basic_publish("", &queue, body).await?;
    }
    let mut held = take(&mut first, 2).await?;
    first.cancel().await?;
    held.remove(1).ack()?;
    // RabbitMQ 3.10 delivers the ready messages to the next consumer not at the cancel, but when
    // another message is published or requeued.
    held.remove(0).reject(true)?;
    for delivery in take(&mut second, 2).await? {
        assert!(
            delivery.body() == b"0" || delivery.body() == b"2",
            "{:?}",
            delivery.body()
        );
        assert_eq!(delivery.redelivered(), delivery.body() == b"0");
        delivery.ack()?;
    }
    Ok(client.close().await?)
}

/// An exclusive consumer and a single active one exclude each other.
pub async fn single_active_consumer_can_not_be_exclusive<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = declare_single_active(world, &client).await?;
    let refused = client.basic_consume(&queue).exclusive(true).await.map(drop);
    assert_error!(refused, Error::AccessRefused(_));
    drop(client.basic_consume(&queue).await?);
    Ok(client.close().await?)
}

/// The end of a consumer shows its reason: cancelled by the client, by the broker, or ended with
/// the connection.
pub async fn m13_each_end_of_a_consumer_has_its_reason<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let (queue, deleted_queue) = (world.queue(&client).await?, world.queue(&client).await?);
    let [mut cancelled, mut closed] = [
        client.basic_consume(&queue).await?,
        client.basic_consume(&queue).await?,
    ];
    let mut deleted = client.basic_consume(&deleted_queue).await?;
    assert!(
        [&cancelled, &deleted, &closed]
            .iter()
            .all(|consumer| consumer.ended().is_none())
    );

    cancelled.cancel().await?;
    assert!(cancelled.next().await.is_none());
    assert!(matches!(cancelled.ended(), Some(Ended::Cancelled)));

    client.queue_delete(&deleted_queue).await?;
    let tag = deleted.tag().to_owned();
    let end = deleted
        .next()
        .await
        .ok_or("the consumer has ended without an error")?;
    assert_error!(end, Error::ConsumerCancelled(found) if *found == tag);
    assert!(deleted.next().await.is_none());
    assert!(matches!(deleted.ended(), Some(Ended::CancelledByServer)));

    client.close().await?;
    assert!(closed.next().await.is_none());
    assert!(matches!(
        closed.ended(),
        Some(Ended::ConnectionBroken(Error::Closed))
    ));

    let (client, driver) = world.open(|options| options).await?;
    let work = async {
        let queue = client.queue_declare("").exclusive(true).await?.name;
        client.basic_consume(&queue).await
    };
    let mut driver = Some(driver);
    let mut consumer = {
        let driven = async {
            if let Some(driver) = &mut driver {
                drop(driver.await);
            }
            Err(Error::Closed)
        };
        futures_lite::FutureExt::or(work, driven).await?
    };
    drop(driver);
    let end = consumer
        .next()
        .await
        .ok_or("the consumer has ended without an error")?;
    assert_error!(end, Error::ConnectionBroken(puka::Broken::DriverDropped));
    assert!(matches!(
        consumer.ended(),
        Some(Ended::ConnectionBroken(Error::ConnectionBroken(_)))
    ));
    Ok(())
}

/// Headers larger than a frame reach a consumer with small frames, because RabbitMQ does not split
/// headers.
pub async fn m08_headers_larger_than_a_frame_arrive<R: Runtime>(world: &World<R>) -> Outcome {
    let sender = world.client().await?;
    let receiver = world.client_with(|options| options.frame_max(8192)).await?;
    let queue = world.shared_queue(&sender).await?;
    let text = "h".repeat(100_000);
    sender
        .basic_publish("", &queue, "large headers")
        .header("h", &text)
        .await?;
    sender.basic_publish("", &queue, "after").await?;
    let mut consumer = receiver.basic_consume(&queue).prefetch_count(10).await?;
    let large = next(&mut consumer).await?;
    assert_eq!(
        large.headers()?.get("h").and_then(|value| value.as_str()),
        Some(text.as_str())
    );
    assert_eq!(next(&mut consumer).await?.body(), b"after");
    drop(large);
    sender.close().await?;
    Ok(receiver.close().await?)
}
