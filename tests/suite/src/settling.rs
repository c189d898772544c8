//! Settling: acknowledging, rejecting, requeueing; one delivery or all before it.

use crate::cases::assert_error;
use crate::taking::take;
use crate::{Outcome, Runtime, World};
use puka::protocol::Value;
use puka::{Client, Delivery, Error};

async fn get(client: &Client, queue: &str) -> Result<Delivery, Box<dyn std::error::Error>> {
    Ok(client.basic_get(queue).await?.ok_or("the queue is empty")?)
}

/// Closes the connection, which requeues unsettled messages, and returns how many messages the
/// queue then has.
async fn left<R: Runtime>(world: &World<R>, client: Client, queue: &str) -> Result<u32, Error> {
    client.close().await?;
    let client = world.client().await?;
    let left = client.queue_delete(queue).await?;
    client.close().await?;
    Ok(left)
}

/// A message that was rejected with `requeue` is delivered again, marked as redelivered.
pub async fn requeued_message_is_delivered_again<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.filled_queue(&client, 1).await?;
    get(&client, &queue).await?.reject(true)?;
    world.until_ready(&client, &queue, 1).await?;
    let again = get(&client, &queue).await?;
    assert!(again.redelivered());
    again.nack(false, true)?;
    let mut consumer = client.basic_consume(&queue).prefetch_count(1).await?;
    let again = take(&mut consumer, 1).await?.remove(0);
    assert!(again.redelivered());
    client.basic_reject(again, true)?;
    client.basic_ack(take(&mut consumer, 1).await?.remove(0))?;
    assert_eq!(left(world, client, &queue).await?, 0);
    Ok(())
}

/// A message that is rejected without `requeue` is removed.
pub async fn message_rejected_without_requeue_is_removed<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.filled_queue(&client, 3).await?;
    get(&client, &queue).await?.reject(false)?;
    get(&client, &queue).await?.nack(false, false)?;
    let last = get(&client, &queue).await?;
    client.basic_nack(last, false, false)?;
    assert_eq!(left(world, client, &queue).await?, 0);
    Ok(())
}

/// A rejected message goes to the dead-letter exchange, with an `x-death` header.
pub async fn refused_message_is_dead_lettered<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let (queue, dead_letters) = (world.name("mortal"), world.queue(&client).await?);
    let declare = client
        .queue_declare(&queue)
        .exclusive(true)
        .argument("x-dead-letter-exchange", "");
    declare
        .argument("x-dead-letter-routing-key", &dead_letters)
        .await?;
    client
        .basic_publish("", &queue, "mortal")
        .header("colour", "red")
        .await?;
    get(&client, &queue).await?.reject(false)?;
    world.until_ready(&client, &dead_letters, 1).await?;
    let dead = get(&client, &dead_letters).await?;
    assert_eq!(
        (dead.body(), dead.routing_key()),
        (&b"mortal"[..], dead_letters.as_str().into())
    );
    let headers = dead.headers()?;
    assert_eq!(headers.get("colour"), Some(Value::String(b"red")));
    let Some(Value::Array(deaths)) = headers.get("x-death") else {
        return Err(format!("{headers:?}").into());
    };
    let Some(Value::Table(death)) = deaths.iter().next() else {
        return Err(format!("{deaths:?}").into());
    };
    assert_eq!(
        death.get("queue").and_then(Value::as_str),
        Some(queue.as_str())
    );
    assert_eq!(
        death.get("reason").and_then(Value::as_str),
        Some("rejected")
    );
    assert_eq!(death.get("count").and_then(Value::as_i64), Some(1));
    assert_eq!(death.get("exchange").and_then(Value::as_str), Some(""));
    assert!(matches!(death.get("time"), Some(Value::Timestamp(_))));
    dead.ack()?;
    Ok(client.close().await?)
}

/// `nack` with `multiple` rejects all earlier deliveries of the consumer, and no others.
pub async fn multiple_nack_refuses_everything_before<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.filled_queue(&client, 6).await?;
    let got = get(&client, &queue).await?;
    let mut consumer = client.basic_consume(&queue).prefetch_count(5).await?;
    let mut held = take(&mut consumer, 5).await?;
    // Out of order.
    held.remove(1).ack()?;
    held.remove(2).nack(true, false)?;
    // The two before it were settled with it; the one after it and the one from the get were not.
    let last = held.pop().ok_or("there is no delivery")?;
    for settled in held {
        assert_error!(settled.ack(), Error::Stale);
    }
    assert_eq!((got.body(), last.body()), (&b"0"[..], &b"5"[..]));
    got.ack()?;
    last.nack(true, true)?;
    let again = take(&mut consumer, 1).await?.remove(0);
    assert!(again.redelivered() && again.body() == b"5");
    drop(again);
    assert_eq!(left(world, client, &queue).await?, 1);
    Ok(())
}

/// `ack_multiple` settles all earlier deliveries, which are stale then, and dropping those has no
/// effect.
pub async fn s56_multiple_ack_settles_everything_before<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.filled_queue(&client, 10).await?;
    let mut consumer = client.basic_consume(&queue).prefetch_count(8).await?;
    let mut held = take(&mut consumer, 8).await?;
    held.remove(5).ack_multiple()?;
    let behind = held.split_off(5);
    for (n, settled) in held.into_iter().enumerate() {
        match n {
            0 => assert_error!(settled.ack(), Error::Stale),
            1 => assert_error!(settled.reject(true), Error::Stale),
            2 => assert_error!(settled.ack_multiple(), Error::Stale),
            _ => drop(settled),
        }
    }
    assert_eq!(
        behind.iter().map(Delivery::body).collect::<Vec<_>>(),
        [b"6", b"7"]
    );
    drop(behind);
    drop(consumer);
    assert_eq!(left(world, client, &queue).await?, 4);
    Ok(())
}

/// A delivery that is dropped unsettled is requeued at once.
pub async fn dropped_delivery_is_requeued<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.filled_queue(&client, 2).await?;
    let mut consumer = client.basic_consume(&queue).prefetch_count(1).await?;
    drop(take(&mut consumer, 1).await?);
    let again = take(&mut consumer, 1).await?.remove(0);
    assert!(again.redelivered() && again.body() == b"0");
    again.ack()?;
    take(&mut consumer, 1).await?.remove(0).ack()?;
    assert_eq!(left(world, client, &queue).await?, 0);
    Ok(())
}

/// Acks in any order settle exactly their own deliveries.
pub async fn acks_in_any_order_settle_their_own<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.filled_queue(&client, 300).await?;
    let mut consumer = client.basic_consume(&queue).prefetch_count(300).await?;
    let mut held: Vec<_> = take(&mut consumer, 300)
        .await?
        .into_iter()
        .map(Some)
        .collect();
    let mut refused = Vec::new();
    for n in 0..300 {
        // 7 and 300 are coprime, so each has its turn.
        let place = n * 7 % 300;
        let delivery = held[place].take().ok_or("the delivery was settled twice")?;
        match n % 3 {
            0 => delivery.ack()?,
            1 => delivery.reject(false)?,
            _ => {
                refused.push(place);
                drop(delivery);
            }
        }
    }
    // A third was dropped, and is delivered again.
    refused.sort_unstable();
    let mut again: Vec<usize> = Vec::new();
    for delivery in take(&mut consumer, 100).await? {
        assert!(delivery.redelivered());
        again.push(String::from_utf8_lossy(delivery.body()).parse()?);
        delivery.ack()?;
    }
    again.sort_unstable();
    assert_eq!(again, refused);
    assert_eq!(left(world, client, &queue).await?, 0);
    Ok(())
}

/// An ack is sent before its channel serves another request, which may fail and close the channel.
pub async fn ack_is_not_lost_with_its_channel<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world
        .client_with(|options| options.request_channels(1))
        .await?;
    let queue = world.filled_queue(&client, 3).await?;
    for _ in 0..3 {
        get(&client, &queue).await?.ack()?;
        assert_error!(
            client
                .queue_declare(world.name("missing"))
                .passive(true)
                .await,
            Error::NotFound(_)
        );
    }
    assert_eq!(left(world, client, &queue).await?, 0);
    Ok(())
}

/// Two threads with clones of the client settle deliveries of one consumer.
pub async fn deliveries_are_settled_on_any_thread<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.filled_queue(&client, 100).await?;
    let mut consumer = client.basic_consume(&queue).prefetch_count(100).await?;
    let mut halves = [
        take(&mut consumer, 50).await?,
        take(&mut consumer, 50).await?,
    ];
    halves[0].reverse();
    std::thread::scope(|scope| {
        let threads = halves.map(|half| {
            let client = client.clone();
            scope.spawn(move || {
                half.into_iter()
                    .try_for_each(|delivery| client.basic_ack(delivery))
            })
        });
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or(Err(Error::Stale)))
    })?;
    assert_eq!(left(world, client, &queue).await?, 0);
    Ok(())
}

/// A delivery of a lost connection is stale: nothing is sent, and the broker delivers it again.
pub async fn delivery_of_a_lost_connection_is_stale<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.filled_queue(&client, 3).await?;
    let (first, second, third) = (
        get(&client, &queue).await?,
        get(&client, &queue).await?,
        get(&client, &queue).await?,
    );
    client.close().await?;
    assert_error!(first.ack(), Error::Stale);
    assert_error!(second.reject(false), Error::Stale);
    drop(third);
    let client = world.client().await?;
    world.until_ready(&client, &queue, 3).await?;
    assert!(get(&client, &queue).await?.redelivered());
    Ok(client.close().await?)
}
