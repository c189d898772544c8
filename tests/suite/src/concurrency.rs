//! Many at once: every outcome belongs to its own request, and one's trouble is nobody else's.

use crate::cases::assert_error;
use crate::{Outcome, Runtime, Task, World, ready_now};
use puka::{Client, Error};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Publishes with each outcome there is in turn, many in flight, and checks that each has its own.
async fn mixed_publishes(client: Client, queue: String, task: usize) -> Result<(), Failure> {
    let missing = format!("{queue}-missing-{task}");
    let mut promises = Vec::new();
    for n in 0..200 {
        let body = format!("{task}/{n}");
        let key = if n % 3 == 1 { &missing } else { &queue };
        let exchange = if n % 50 == 49 { missing.as_str() } else { "" };
        let publish = client.basic_publish(exchange, key, body.clone()).mandatory(n % 3 != 2);
        promises.push((n, body, publish.submit().await?));
    }
    for (n, body, promise) in promises {
        match (n, promise.await) {
            (n, Err(Error::NotFound(fault))) if n % 50 == 49 => assert!(fault.text.contains(&missing)),
            (n, Err(Error::NoRoute(returned))) if n % 3 == 1 => {
                assert_eq!(returned.message.body(), body.as_bytes());
            }
            (n, Ok(())) if n % 3 != 1 && n % 50 != 49 => {}
            (n, outcome) => return Err(format!("publish {n} of task {task}: {outcome:?}").into()),
        }
    }
    Ok(())
}

/// Eight tasks publish at once, with all kinds of outcomes mixed.
pub async fn every_publish_of_eight_tasks_has_its_own_outcome<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.queue(&client).await?;
    let tasks: Vec<_> =
        (0..8).map(|task| Task::spawn::<R>(mixed_publishes(client.clone(), queue.clone(), task))).collect();
    for task in tasks {
        task.await.map_err(|error| error.to_string())?;
    }
    let kept = (0..200).filter(|n| n % 3 != 1 && n % 50 != 49).count();
    assert_eq!(world.ready(&client, &queue).await? as usize, 8 * kept);
    Ok(client.close().await?)
}

/// Eight tasks each work with a queue of their own: declare, publish, get, ack, purge, delete.
pub async fn requests_of_eight_tasks_do_not_get_mixed_up<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client_with(|options| options.request_channels(3)).await?;
    let tasks: Vec<_> = (0..8_u32)
        .map(|task| {
            let (client, queue) = (client.clone(), world.name("own"));
            Task::spawn::<R>(async move {
                for round in 0..20 {
                    assert_eq!(client.queue_declare(&queue).exclusive(true).await?.name, queue);
                    for _ in 0..=task {
                        client.basic_publish("", &queue, format!("{queue} {round}")).mandatory(true).await?;
                    }
                    let got = client.basic_get(&queue).await?.ok_or("empty")?;
                    assert_eq!(got.body(), format!("{queue} {round}").as_bytes());
                    got.ack()?;
                    assert_eq!(client.queue_purge(&queue).await?, task);
                    assert_eq!(client.queue_delete(&queue).await?, 0);
                    assert_error!(client.queue_declare(&queue).passive(true).await, Error::NotFound(_));
                }
                Ok::<(), Failure>(())
            })
        })
        .collect();
    for task in tasks {
        task.await.map_err(|error| error.to_string())?;
    }
    Ok(client.close().await?)
}

/// Futures that are dropped anywhere harm nobody: the next request gets its own answer.
pub async fn dropped_futures_harm_nobody<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client_with(|options| options.request_channels(2)).await?;
    let queue = world.filled_queue(&client, 10).await?;
    for n in 0..200_usize {
        let polls = n % 3;
        let mut declare =
            Box::pin(client.queue_declare(format!("{queue}-{n}")).exclusive(true).into_future());
        let mut get = Box::pin(client.basic_get(&queue).into_future());
        let mut publish = Box::pin(client.basic_publish("", "nowhere", "x").mandatory(true).into_future());
        let mut consume = Box::pin(client.basic_consume(&queue).prefetch_count(3).into_future());
        for _ in 0..polls {
            drop(ready_now(&mut declare).await);
            // What it resolved to, it must not be polled again for.
            if ready_now(&mut get).await.is_some() || ready_now(&mut publish).await.is_some() {
                break;
            }
            if ready_now(&mut consume).await.is_some() {
                break;
            }
        }
        drop((declare, get, publish, consume));
        if n % 20 == 0 {
            let own = format!("{queue}-own-{n}");
            assert_eq!(client.queue_declare(&own).exclusive(true).await?.name, own);
            assert_error!(
                client
                    .basic_publish("", &own, own.clone())
                    .mandatory(true)
                    .await
                    .and(Err::<(), _>(Error::Full)),
                Error::Full
            );
            let got = client.basic_get(&own).no_ack(true).await?.ok_or("empty")?;
            assert_eq!(got.body(), own.as_bytes());
        }
    }
    // Everything goes back.
    while client.queue_declare(&queue).passive(true).await?.consumer_count != 0 {}
    world.until_ready(&client, &queue, 10).await?;
    Ok(client.close().await?)
}

/// A publish to a missing exchange, a passive declare of a missing queue, a consume of a forbidden one, in the middle of
/// 10 000 publishes and deliveries, disturb nothing else.
pub async fn an_error_in_the_middle_of_ten_thousand_messages_disturbs_nothing<R: Runtime>(
    world: &World<R>,
) -> Outcome {
    const MESSAGES: u32 = 10_000;
    let owner = world.client().await?;
    let forbidden = world.queue(&owner).await?;
    let client = world.client().await?;
    let queue = world.queue(&client).await?;
    let mut consumer = client.basic_consume(&queue).prefetch_count(500).await?;
    let consuming = Task::spawn::<R>(async move {
        for n in 0..MESSAGES {
            let delivery = consumer.next().await.ok_or("the consumer has ended")??;
            if delivery.body() != n.to_be_bytes() || delivery.redelivered() {
                return Err(format!("{:?} in place of {n}", delivery.body()).into());
            }
            delivery.ack()?;
        }
        Ok::<(), Failure>(())
    });
    let missing = world.name("missing");
    let mut publishes = Vec::new();
    let mut troubles = Vec::new();
    for n in 0..MESSAGES {
        let publish = client.basic_publish("", &queue, n.to_be_bytes().to_vec()).mandatory(n % 2 == 0);
        publishes.push(publish.submit().await?);
        if n % 1000 == 500 {
            let publish = client.basic_publish(&missing, "", "lost").send();
            let declare = client.queue_declare(&missing).passive(true).send();
            let consume = client.basic_consume(&forbidden).send();
            let back = client.basic_publish("", &missing, "back").mandatory(true).send();
            troubles.push((publish, declare, consume, back));
        }
    }
    for (publish, declare, consume, back) in troubles {
        assert_error!(publish.await, Error::NotFound(_));
        assert_error!(declare.await, Error::NotFound(_));
        assert_error!(consume.await, Error::ResourceLocked(_));
        assert_error!(back.await, Error::NoRoute(_));
    }
    for publish in publishes {
        publish.await?;
    }
    consuming.await.map_err(|error| error.to_string())?;
    assert_eq!(world.ready(&client, &queue).await?, 0);
    client.close().await?;
    Ok(owner.close().await?)
}
