//! Getting single messages.

use crate::{Outcome, Runtime, World};

/// A get returns how many messages are left, and its message is removed by the ack.
pub async fn message_from_get_is_acknowledged<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.filled_queue(&client, 3).await?;
    let first = client.basic_get(&queue).await?.ok_or("empty")?;
    assert_eq!(
        (first.body(), first.message_count(), first.redelivered()),
        (&b"0"[..], Some(2), false)
    );
    let second = client.basic_get(&queue).await?.ok_or("empty")?;
    assert_eq!(
        (second.body(), second.message_count()),
        (&b"1"[..], Some(1))
    );
    second.ack()?;
    first.ack()?;
    client.close().await?;
    let client = world.client().await?;
    assert_eq!(client.queue_delete(&queue).await?, 1);
    Ok(client.close().await?)
}

/// A get from an empty queue returns `None`.
pub async fn get_from_an_empty_queue_is_none<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.queue(&client).await?;
    assert!(client.basic_get(&queue).await?.is_none());
    let gets: Vec<_> = (0..100).map(|_| client.basic_get(&queue).send()).collect();
    for get in gets {
        assert!(get.await?.is_none());
    }
    Ok(client.close().await?)
}

/// With `no_ack` the message is removed at once, and settling or dropping it has no effect.
pub async fn no_ack_has_nothing_to_settle<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.filled_queue(&client, 2).await?;
    drop(
        client
            .basic_get(&queue)
            .no_ack(true)
            .await?
            .ok_or("empty")?,
    );
    let last = client
        .basic_get(&queue)
        .no_ack(true)
        .await?
        .ok_or("empty")?;
    assert_eq!(last.body(), b"1");
    client.close().await?;
    let client = world.client().await?;
    assert_eq!(client.queue_delete(&queue).await?, 0);
    Ok(client.close().await?)
}

/// A dropped promise requeues its message.
pub async fn dropped_get_requeues_its_message<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.filled_queue(&client, 3).await?;
    drop(client.basic_get(&queue).send());
    drop(client.basic_get(&queue).send());
    // The queue does not show whether the gets have arrived already.
    let mut delivery = client.basic_get(&queue).await?;
    while delivery
        .as_ref()
        .is_none_or(|delivery| !delivery.redelivered())
    {
        drop(delivery);
        delivery = client.basic_get(&queue).await?;
    }
    drop(delivery);
    // The other dropped get may not have arrived yet. The close waits for it.
    client.close().await?;
    let client = world.client().await?;
    world.until_ready(&client, &queue, 3).await?;
    assert_eq!(client.queue_delete(&queue).await?, 3);
    Ok(client.close().await?)
}

/// Many concurrent gets return every message once.
pub async fn concurrent_gets_return_every_message_once<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.filled_queue(&client, 200).await?;
    let gets: Vec<_> = (0..201).map(|_| client.basic_get(&queue).send()).collect();
    let mut bodies = Vec::new();
    let mut none = 0;
    for get in gets {
        match get.await? {
            Some(delivery) => {
                bodies.push(String::from_utf8_lossy(delivery.body()).parse::<u32>()?);
                delivery.ack()?;
            }
            None => none += 1,
        }
    }
    bodies.sort_unstable();
    assert_eq!((bodies, none), ((0..200).collect(), 1));
    Ok(client.close().await?)
}
