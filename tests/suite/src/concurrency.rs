//! Concurrency: every outcome belongs to its own request, and an error of one does not affect
//! others.

use crate::cases::assert_error;
use crate::{Outcome, Runtime, Task, World, ready_now};
use puka::{Client, Error, Overflow};
use std::collections::BTreeSet;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The number of publishes of each of eight threads.
const PUBLISHES: usize = 3000;

/// Returns `true` if this publish goes to a missing exchange.
fn is_missing(n: usize) -> bool {
    n % 100 == 99
}

fn is_unroutable(n: usize) -> bool {
    n % 3 == 1
}

/// Publishes with each possible outcome in turn, many in flight, and checks that each has its own.
async fn mixed_publishes(client: Client, queue: String, thread: usize) -> Result<(), Failure> {
    let missing = format!("{queue}-missing");
    let mut promises = Vec::new();
    for n in 0..PUBLISHES {
        let body = format!("{thread}/{n}");
        let key = if is_unroutable(n) { &missing } else { &queue };
        let exchange = if is_missing(n) { missing.as_str() } else { "" };
        let publish = client
            .basic_publish(exchange, key, body.clone())
            .mandatory(n % 3 != 2);
        promises.push((n, body, publish.submit().await?));
    }
    for (n, body, promise) in promises {
        match promise.await {
            Err(Error::NotFound(fault)) if is_missing(n) => assert!(fault.text.contains(&missing)),
            Err(Error::NoRoute(returned)) if is_unroutable(n) && !is_missing(n) => {
                assert_eq!(returned.message.body(), body.as_bytes());
                assert_eq!(returned.message.routing_key(), missing);
            }
            Ok(()) if !is_unroutable(n) && !is_missing(n) => {}
            outcome => return Err(format!("publish {n} of thread {thread}: {outcome:?}").into()),
        }
    }
    Ok(())
}

/// Eight threads publish 24 000 messages at once: a third is returned, a hundredth goes to a
/// missing exchange, and the broker has exactly the confirmed ones.
pub async fn m01_publishes_of_eight_threads_have_own_outcomes<R: Runtime>(
    world: &World<R>,
) -> Outcome {
    let client = world.client().await?;
    let queue = world.queue(&client).await?;
    let threads: Vec<_> = (0..8)
        .map(|thread| Task::on_a_thread(mixed_publishes(client.clone(), queue.clone(), thread)))
        .collect();
    for thread in threads {
        thread.await.map_err(|error| error.to_string())?;
    }
    let mut expected: BTreeSet<_> = (0..8)
        .flat_map(|thread| (0..PUBLISHES).map(move |n| (thread, n)))
        .filter(|(_, n)| !is_unroutable(*n) && !is_missing(*n))
        .map(|(thread, n)| format!("{thread}/{n}").into_bytes())
        .collect();
    assert_eq!(world.ready(&client, &queue).await? as usize, expected.len());
    let mut consumer = client.basic_consume(&queue).no_ack(true).await?;
    while !expected.is_empty() {
        let delivery = consumer.next().await.ok_or("the consumer has ended")??;
        assert!(
            expected.remove(delivery.body()),
            "{:?} was not confirmed, or was delivered twice",
            delivery.body()
        );
    }
    Ok(client.close().await?)
}

/// Of many publishes in flight to a full queue with `reject-publish`, exactly those are confirmed
/// that the queue has.
pub async fn s53_full_queue_contains_exactly_the_confirmed_messages<R: Runtime>(
    world: &World<R>,
) -> Outcome {
    let client = world.client().await?;
    let queue = world.name("full");
    let declare = client.queue_declare(&queue).exclusive(true).max_length(100);
    declare.overflow(Overflow::RejectPublish).await?;
    let promises: Vec<_> = (0..1000)
        .map(|n| {
            client
                .basic_publish("", &queue, n.to_string())
                .mandatory(n % 2 == 0)
                .send()
        })
        .collect();
    let mut confirmed = BTreeSet::new();
    for (n, promise) in promises.into_iter().enumerate() {
        match promise.await {
            Ok(()) => drop(confirmed.insert(n.to_string().into_bytes())),
            Err(Error::Nacked) => {}
            outcome => return Err(format!("publish {n}: {outcome:?}").into()),
        }
    }
    assert!(
        confirmed.len() >= 100 && confirmed.len() < 1000,
        "{}",
        confirmed.len()
    );
    while let Some(message) = client.basic_get(&queue).no_ack(true).await? {
        assert!(
            confirmed.remove(message.body()),
            "{:?} was refused, or was delivered twice",
            message.body()
        );
    }
    assert!(
        confirmed.is_empty(),
        "the broker has lost confirmed messages: {confirmed:?}"
    );
    Ok(client.close().await?)
}

/// Eight tasks each work with their own queue: declare, publish, get, ack, purge, delete.
pub async fn m02_requests_of_eight_tasks_stay_separate<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world
        .client_with(|options| options.request_channels(3))
        .await?;
    let tasks: Vec<_> = (0..8_u32)
        .map(|task| {
            let (client, queue) = (client.clone(), world.name("own"));
            Task::spawn::<R>(async move {
                for round in 0..20 {
                    assert_eq!(
                        client.queue_declare(&queue).exclusive(true).await?.name,
                        queue
                    );
                    for _ in 0..=task {
                        client
                            .basic_publish("", &queue, format!("{queue} {round}"))
                            .mandatory(true)
                            .await?;
                    }
                    let got = client.basic_get(&queue).await?.ok_or("empty")?;
                    assert_eq!(got.body(), format!("{queue} {round}").as_bytes());
                    got.ack()?;
                    assert_eq!(client.queue_purge(&queue).await?, task);
                    assert_eq!(client.queue_delete(&queue).await?, 0);
                    assert_error!(
                        client.queue_declare(&queue).passive(true).await,
                        Error::NotFound(_)
                    );
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

/// Futures that are dropped at any point are harmless: the next request gets its own result.
pub async fn m02_m03_dropped_futures_are_harmless<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world
        .client_with(|options| options.request_channels(2))
        .await?;
    let queue = world.filled_queue(&client, 10).await?;
    for n in 0..200_usize {
        let polls = n % 3;
        let mut declare = Box::pin(
            client
                .queue_declare(format!("{queue}-{n}"))
                .exclusive(true)
                .into_future(),
        );
        let mut get = Box::pin(client.basic_get(&queue).into_future());
        let mut publish = Box::pin(
            client
                .basic_publish("", "nowhere", "x")
                .mandatory(true)
                .into_future(),
        );
        let mut consume = Box::pin(client.basic_consume(&queue).prefetch_count(3).into_future());
        for _ in 0..polls {
            drop(ready_now(&mut declare).await);
            // A future that is complete must not be polled again.
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
    // All messages are requeued.
    while client
        .queue_declare(&queue)
        .passive(true)
        .await?
        .consumer_count
        != 0
    {}
    world.until_ready(&client, &queue, 10).await?;
    Ok(client.close().await?)
}

/// A publish to a missing exchange, a passive declare of a missing queue, and a refused consume
/// among 10 000 publishes and deliveries do not affect anything else.
pub async fn errors_among_ten_thousand_messages_stay_separate<R: Runtime>(
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
                return Err(format!("expected {n}, found {:?}", delivery.body()).into());
            }
            delivery.ack()?;
        }
        Ok::<(), Failure>(())
    });
    let missing = world.name("missing");
    let mut publishes = Vec::new();
    let mut troubles = Vec::new();
    for n in 0..MESSAGES {
        let publish = client
            .basic_publish("", &queue, n.to_be_bytes().to_vec())
            .mandatory(n % 2 == 0);
        publishes.push(publish.submit().await?);
        if n % 1000 == 500 {
            let publish = client.basic_publish(&missing, "", "lost").send();
            let declare = client.queue_declare(&missing).passive(true).send();
            let consume = client.basic_consume(&forbidden).send();
            let back = client
                .basic_publish("", &missing, "back")
                .mandatory(true)
                .send();
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
