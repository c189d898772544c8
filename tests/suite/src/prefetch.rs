//! How many messages are under way to a consumer, and changing that while it lives.

use crate::cases::assert_error;
use crate::taking::{ack, next, take};
use crate::{Outcome, Runtime, World, ready_now};
use futures_lite::StreamExt;
use puka::{Delivery, Error};

/// No more than the prefetch count is under way, and an ack makes room for one.
pub async fn prefetch_is_respected<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.filled_queue(&client, 6).await?;
    let mut consumer = client.basic_consume(&queue).prefetch_count(2).await?;
    let mut held = take(&mut consumer, 2).await?;
    assert_eq!(world.ready(&client, &queue).await?, 4);
    assert!(ready_now(&mut StreamExt::next(&mut consumer)).await.is_none());
    held.remove(0).ack()?;
    held.push(next(&mut consumer).await?);
    assert_eq!(world.ready(&client, &queue).await?, 3);
    assert_eq!(held.iter().map(Delivery::body).collect::<Vec<_>>(), [b"1", b"2"]);
    ack(held)?;
    Ok(client.close().await?)
}

/// Raising the prefetch count by one has one more delivered.
pub async fn a_higher_prefetch_count_raises_by_just_that<R: Runtime>(world: &World<R>) -> Outcome {
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

/// After lowering the prefetch count, fewer are delivered, and nothing is lost or delivered twice.
pub async fn a_lower_prefetch_count_holds_for_what_comes_next<R: Runtime>(world: &World<R>) -> Outcome {
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

/// No limit can become one, and one none.
pub async fn a_prefetch_count_of_zero_is_no_limit<R: Runtime>(world: &World<R>) -> Outcome {
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

/// An exclusive consumer keeps its prefetch count, for no other may start beside it.
pub async fn an_exclusive_consumer_keeps_its_prefetch_count<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.filled_queue(&client, 3).await?;
    let mut consumer = client.basic_consume(&queue).exclusive(true).prefetch_count(1).await?;
    assert_error!(client.basic_qos(&consumer, 2).await, Error::InvalidArgument { .. });
    client.basic_qos(&consumer, 1).await?;
    for _ in 0..3 {
        next(&mut consumer).await?.ack()?;
    }
    Ok(client.close().await?)
}

/// A change of the prefetch count in the middle of a stream of messages loses none and delivers none twice.
pub async fn changing_the_prefetch_count_in_full_flow_loses_nothing<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.filled_queue(&client, 2000).await?;
    let mut consumer = client.basic_consume(&queue).prefetch_count(50).await?;
    let mut seen = vec![0; 2000];
    let mut changes = Vec::new();
    let mut count = 0;
    while count < 2000 {
        let delivery = next(&mut consumer).await?;
        let number: usize = String::from_utf8_lossy(delivery.body()).parse()?;
        // What was under way to a tag that was cancelled may come again.
        assert!(seen[number] == 0 || delivery.redelivered(), "{number} came twice");
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
pub async fn a_cancel_right_behind_a_change_of_the_prefetch_count_ends_one_consumer<R: Runtime>(
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
        // Done or too late, but answered.
        assert!(matches!(changed.await, Ok(()) | Err(Error::Stale)));
    }
    while client.queue_declare(&queue).passive(true).await?.consumer_count != 0 {}
    world.until_ready(&client, &queue, 20).await?;
    assert!(client.why_closed().is_none());
    Ok(client.close().await?)
}

/// Changes of the prefetch count that do not wait for each other end with the last one's.
pub async fn the_last_of_several_prefetch_counts_holds<R: Runtime>(world: &World<R>) -> Outcome {
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
    // What the passing ones have had delivered goes first.
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
