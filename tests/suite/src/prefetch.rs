//! The prefetch count of a consumer, and changes of it.

use crate::cases::assert_error;
use crate::taking::{ack, next, take};
use crate::{Outcome, Runtime, World, ready_now};
use futures_lite::StreamExt;
use puka::{Delivery, Error};

/// No more deliveries than the prefetch count are unsettled, and an ack allows another.
pub async fn prefetch_is_respected<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.filled_queue(&client, 6).await?;
    let mut consumer = client.basic_consume(&queue).prefetch_count(2).await?;
    let mut held = take(&mut consumer, 2).await?;
    assert_eq!(world.ready(&client, &queue).await?, 4);
    assert!(
        ready_now(&mut StreamExt::next(&mut consumer))
            .await
            .is_none()
    );
    held.remove(0).ack()?;
    held.push(next(&mut consumer).await?);
    assert_eq!(world.ready(&client, &queue).await?, 3);
    assert_eq!(
        held.iter().map(Delivery::body).collect::<Vec<_>>(),
        [b"1", b"2"]
    );
    ack(held)?;
    Ok(client.close().await?)
}

/// Raising the prefetch count by one allows one more delivery.
pub async fn higher_prefetch_count_allows_exactly_more<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.filled_queue(&client, 10).await?;
    let mut consumer = client.basic_consume(&queue).prefetch_count(1).await?;
    let mut held = take(&mut consumer, 1).await?;
    assert_eq!(world.ready(&client, &queue).await?, 9);
    client.basic_qos(&consumer, 2).await?;
    held.push(next(&mut consumer).await?);
    assert_eq!(world.ready(&client, &queue).await?, 8);
    client.basic_qos(&consumer, 5).await?;
    held.extend(take(&mut consumer, 3).await?);
    assert_eq!(world.ready(&client, &queue).await?, 5);
    client.basic_qos(&consumer, 5).await?;
    ack(held)?;
    ack(take(&mut consumer, 5).await?)?;
    assert_eq!(consumer.cancel().await?, consumer.tag());
    client.close().await?;
    let client = world.client().await?;
    assert_eq!(client.queue_delete(&queue).await?, 0);
    Ok(client.close().await?)
}

/// After lowering the prefetch count, fewer messages are delivered, and none is lost or delivered
/// twice.
pub async fn lower_prefetch_count_limits_later_deliveries<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.filled_queue(&client, 10).await?;
    let mut consumer = client.basic_consume(&queue).prefetch_count(3).await?;
    ack(take(&mut consumer, 1).await?)?;
    let held = take(&mut consumer, 3).await?;
    client.basic_qos(&consumer, 1).await?;
    ack(held)?;
    for n in 4..10 {
        let delivery = next(&mut consumer).await?;
        assert_eq!(delivery.body(), n.to_string().as_bytes());
        assert_eq!(world.ready(&client, &queue).await?, 9 - n);
        delivery.ack()?;
    }
    Ok(client.close().await?)
}

/// No limit can be changed to a limit, and a limit to none.
pub async fn prefetch_count_of_zero_is_no_limit<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.filled_queue(&client, 50).await?;
    let mut consumer = client.basic_consume(&queue).prefetch_count(1).await?;
    let mut held = take(&mut consumer, 1).await?;
    client.basic_qos(&consumer, 0).await?;
    held.extend(take(&mut consumer, 49).await?);
    client.basic_qos(&consumer, 1).await?;
    ack(held)?;
    for _ in 0..3 {
        client.basic_publish("", &queue, "more").await?;
    }
    let one = next(&mut consumer).await?;
    assert_eq!(world.ready(&client, &queue).await?, 2);
    one.ack()?;
    Ok(client.close().await?)
}

/// An exclusive consumer keeps its prefetch count, because no other consumer can be started beside
/// it.
pub async fn exclusive_consumer_keeps_its_prefetch_count<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.filled_queue(&client, 3).await?;
    let mut consumer = client
        .basic_consume(&queue)
        .exclusive(true)
        .prefetch_count(1)
        .await?;
    assert_error!(
        client.basic_qos(&consumer, 2).await,
        Error::InvalidArgument { .. }
    );
    client.basic_qos(&consumer, 1).await?;
    for _ in 0..3 {
        next(&mut consumer).await?.ack()?;
    }
    Ok(client.close().await?)
}

/// Changing the prefetch count while messages are delivered loses none and delivers none twice.
pub async fn changing_the_prefetch_count_loses_nothing<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.filled_queue(&client, 2000).await?;
    let mut consumer = client.basic_consume(&queue).prefetch_count(50).await?;
    let mut seen = vec![0; 2000];
    let mut changes = Vec::new();
    let mut count = 0;
    while count < 2000 {
        let delivery = next(&mut consumer).await?;
        let number: usize = String::from_utf8_lossy(delivery.body()).parse()?;
        // The deliveries to a cancelled tag may be delivered again.
        assert!(
            seen[number] == 0 || delivery.redelivered(),
            "{number} was delivered twice"
        );
        count += usize::from(seen[number] == 0);
        seen[number] += 1;
        delivery.ack()?;
        if count % 100 == 0 && changes.len() < count / 100 {
            let prefetch = [10, 100, 1, 0, 30][count / 100 % 5];
            changes.push(client.basic_qos(&consumer, prefetch).send());
        }
    }
    for change in changes {
        change.await?;
    }
    consumer.cancel().await?;
    client.close().await?;
    let client = world.client().await?;
    assert_eq!(client.queue_delete(&queue).await?, 0);
    Ok(client.close().await?)
}

/// A consumer that is cancelled or dropped while its prefetch count is being changed ends alone.
pub async fn cancel_during_a_prefetch_change_ends_one_consumer<R: Runtime>(
    world: &World<R>,
) -> Outcome {
    let client = world.client().await?;
    let queue = world.filled_queue(&client, 20).await?;
    for (n, prefetch) in [5, 1, 0, 5, 1, 0].into_iter().enumerate() {
        let mut consumer = client.basic_consume(&queue).prefetch_count(2).await?;
        drop(next(&mut consumer).await?);
        let changed = client.basic_qos(&consumer, prefetch).send();
        if n % 2 == 0 {
            assert_eq!(consumer.cancel().await?, consumer.tag());
        }
        drop(consumer);
        // Successful or too late, but the promise completes.
        assert!(matches!(changed.await, Ok(()) | Err(Error::Stale)));
    }
    while client
        .queue_declare(&queue)
        .passive(true)
        .await?
        .consumer_count
        != 0
    {}
    world.until_ready(&client, &queue, 20).await?;
    assert!(client.why_closed().is_none());
    Ok(client.close().await?)
}

/// Of several pending changes of the prefetch count, the last one applies.
pub async fn last_of_several_prefetch_counts_applies<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.filled_queue(&client, 30).await?;
    let mut consumer = client.basic_consume(&queue).prefetch_count(1).await?;
    let held = take(&mut consumer, 1).await?;
    for counts in [[3, 7, 5], [0, 2, 4], [9, 1, 3], [2, 3, 1]] {
        let changes = counts.map(|count| client.basic_qos(&consumer, count).send());
        for change in changes {
            change.await?;
        }
    }
    ack(held)?;
    // The deliveries to the intermediate consumers come first.
    while world.ready(&client, &queue).await? > 0 {
        next(&mut consumer).await?.ack()?;
    }
    for _ in 0..10 {
        client.basic_publish("", &queue, "late").await?;
    }
    let mut late = next(&mut consumer).await?;
    while late.body() != b"late" {
        late.ack()?;
        late = next(&mut consumer).await?;
    }
    assert_eq!(world.ready(&client, &queue).await?, 9);
    late.ack()?;
    Ok(client.close().await?)
}
