//! Limits: at a limit `try_send` returns `Full`, `.await` and `submit` wait for their turn, and
//! nothing is lost.
//!
//! The case polls the driver, and does not poll it while it fills the capacity.

use crate::cases::assert_error;
use crate::taking::{ack, take};
use crate::world::Io;
use crate::{Outcome, Runtime, Task, World, ready_now};
use futures_lite::FutureExt;
use puka::{Client, Driver, Error, Options, Promise};
use std::future::Future;
use std::pin::pin;

type Standing<R> = Driver<Box<dyn Io>, <R as Runtime>::Clock>;

/// Returns an open connection with a queue and a channel to publish to it, and the driver, which is
/// no longer polled.
async fn standing_still<R: Runtime>(
    world: &World<R>,
    set: impl FnOnce(Options) -> Options,
) -> Result<(Client, Standing<R>, String), Error> {
    let (client, mut driver) = world.open(set).await?;
    let queue = world.name("bounded");
    driving::<R, _>(&mut driver, async {
        client.connect().await?;
        client.queue_declare(&queue).exclusive(true).await?;
        client
            .basic_publish("", &queue, "the channel is open")
            .await
    })
    .await?;
    Ok((client, driver, queue))
}

/// Does some work while the driver is polled.
async fn driving<R: Runtime, T>(driver: &mut Standing<R>, work: impl Future<Output = T>) -> T {
    let driven = async {
        drop(driver.await);
        std::future::pending().await
    };
    work.or(driven).await
}

/// With a limit of two publishes in flight, the third waits.
pub async fn publishes_in_flight_are_bounded<R: Runtime>(world: &World<R>) -> Outcome {
    let set = |options: Options| options.max_publishes_in_flight(2);
    let (client, mut driver, queue) = standing_still(world, set).await?;
    let publish = || client.basic_publish("", &queue, "x").mandatory(true);
    let sent = [publish().try_send()?, publish().try_send()?];
    assert_error!(publish().try_send(), Error::Full);
    assert_error!(publish().send().await, Error::Full);
    let mut submitted = pin!(publish().submit());
    let mut awaited = pin!(publish().into_future());
    assert!(ready_now(&mut submitted).await.is_none() && ready_now(&mut awaited).await.is_none());
    // Requests have their own limit.
    let declared = client.queue_declare(&queue).passive(true).try_send()?;
    driving::<R, Outcome>(&mut driver, async {
        for publish in sent {
            publish.await?;
        }
        submitted.await?.await?;
        awaited.await?;
        assert!(declared.await?.message_count <= 5);
        world.until_ready(&client, &queue, 5).await?;
        Ok(client.close().await?)
    })
    .await
}

/// The outgoing bytes are limited. A message waits for capacity; one larger than the limit is sent
/// when nothing else is queued.
pub async fn outgoing_bytes_are_bounded<R: Runtime>(world: &World<R>) -> Outcome {
    let set = |options: Options| options.max_outgoing_bytes(10_000);
    let (client, mut driver, queue) = standing_still(world, set).await?;
    let publish = || client.basic_publish("", &queue, vec![0; 4000]);
    let mut sent: Vec<Promise<()>> = Vec::new();
    while let Ok(promise) = publish().try_send() {
        sent.push(promise);
    }
    assert_eq!(sent.len(), 3);
    assert_error!(publish().try_send(), Error::Full);
    assert_error!(
        client.queue_declare(&queue).passive(true).try_send(),
        Error::Full
    );
    let mut large = pin!(
        client
            .basic_publish("", &queue, vec![0; 1_000_000])
            .into_future()
    );
    let mut declare = pin!(client.queue_declare(&queue).passive(true).into_future());
    assert!(ready_now(&mut large).await.is_none() && ready_now(&mut declare).await.is_none());
    driving::<R, Outcome>(&mut driver, async {
        large.await?;
        declare.await?;
        for publish in sent {
            publish.await?;
        }
        world.until_ready(&client, &queue, 5).await?;
        Ok(client.close().await?)
    })
    .await
}

/// A `basic.recover` without capacity fails, and the deliveries of the consumer can still be read.
pub async fn refused_recover_keeps_deliveries<R: Runtime>(world: &World<R>) -> Outcome {
    let set = |options: Options| options.max_requests(1).request_channels(1);
    let (client, mut driver, queue) = standing_still(world, set).await?;
    let (mut consumer, first) =
        driving::<R, Result<_, Box<dyn std::error::Error>>>(&mut driver, async {
            client.basic_publish("", &queue, "x").await?;
            client.basic_publish("", &queue, "x").await?;
            let mut consumer = client.basic_consume(&queue).prefetch_count(3).await?;
            world.until_ready(&client, &queue, 0).await?;
            let first = take(&mut consumer, 1).await?;
            Ok((consumer, first))
        })
        .await?;
    let mut sent = Vec::new();
    while let Ok(promise) = client.queue_declare(&queue).passive(true).try_send() {
        sent.push(promise);
    }
    assert_error!(consumer.recover().await, Error::Full);
    driving::<R, Outcome>(&mut driver, async {
        ack(first)?;
        ack(take(&mut consumer, 2).await?)?;
        for declare in sent {
            declare.await?;
        }
        Ok(client.close().await?)
    })
    .await
}

/// The number of requests is limited.
pub async fn requests_are_bounded<R: Runtime>(world: &World<R>) -> Outcome {
    let set = |options: Options| options.max_requests(5).request_channels(1);
    let (client, mut driver, queue) = standing_still(world, set).await?;
    let declare = || client.queue_declare(&queue).passive(true);
    let mut sent = Vec::new();
    while let Ok(promise) = declare().try_send() {
        sent.push(promise);
    }
    assert!((5..=6).contains(&sent.len()), "{}", sent.len());
    assert_error!(declare().send().await, Error::Full);
    assert_error!(client.basic_consume(&queue).try_send(), Error::Full);
    let mut waiting: Vec<_> = (0..10).map(|_| declare().into_future()).collect();
    for request in &mut waiting {
        assert!(ready_now(request).await.is_none());
    }
    let published = client.basic_publish("", &queue, "x").try_send()?;
    driving::<R, Outcome>(&mut driver, async {
        for declare in sent {
            assert_eq!(declare.await?.name, queue);
        }
        for declare in waiting {
            assert_eq!(declare.await?.name, queue);
        }
        published.await?;
        Ok(client.close().await?)
    })
    .await
}

/// A future that is dropped while it waits for capacity sends nothing, and the next one has its
/// turn.
pub async fn dropped_future_passes_its_turn_on<R: Runtime>(world: &World<R>) -> Outcome {
    let set = |options: Options| options.max_publishes_in_flight(1);
    let (client, mut driver, queue) = standing_still(world, set).await?;
    let sent = client.basic_publish("", &queue, "sent").try_send()?;
    let mut first = Box::pin(client.basic_publish("", &queue, "never").into_future());
    let mut second = Box::pin(client.basic_publish("", &queue, "never").submit());
    let mut third = Box::pin(client.basic_publish("", &queue, "third").into_future());
    assert!(ready_now(&mut first).await.is_none() && ready_now(&mut second).await.is_none());
    assert!(ready_now(&mut third).await.is_none());
    drop(first);
    driving::<R, Outcome>(&mut driver, async {
        // The second is not polled when it is its turn. It is dropped, so the turn is the third's.
        sent.await?;
        drop(second);
        third.await?;
        assert_eq!(world.ready(&client, &queue).await?, 3);
        Ok(client.close().await?)
    })
    .await
}

/// Twenty tasks that publish with a capacity of three all complete.
pub async fn tasks_waiting_for_capacity_all_complete<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world
        .client_with(|options| options.max_publishes_in_flight(3).max_outgoing_bytes(2000))
        .await?;
    let queue = world.queue(&client).await?;
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let (client, queue) = (client.clone(), queue.clone());
            Task::spawn::<R>(async move {
                for n in 0..20 {
                    client
                        .basic_publish("", &queue, vec![0; 50 * n])
                        .mandatory(true)
                        .await?;
                    client.queue_declare(&queue).passive(true).await?;
                }
                Ok::<(), Error>(())
            })
        })
        .collect();
    for task in tasks {
        task.await?;
    }
    assert_eq!(world.ready(&client, &queue).await?, 400);
    Ok(client.close().await?)
}

/// The buffered deliveries are limited: reading pauses, continues when they are taken, and nothing
/// is lost.
pub async fn buffered_deliveries_are_bounded<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world
        .client_with(|options| options.max_buffered_deliveries(10).max_buffered_bytes(1000))
        .await?;
    let queue = world.filled_queue(&client, 500).await?;
    let mut consumer = client.basic_consume(&queue).await?;
    for n in 0..500 {
        let delivery = consumer.next().await.ok_or("ended")??;
        assert_eq!(delivery.body(), n.to_string().as_bytes());
        delivery.ack()?;
    }
    Ok(client.close().await?)
}

/// A body above the limit is an error of its message, which can be settled.
pub async fn too_large_message_is_an_error<R: Runtime>(world: &World<R>) -> Outcome {
    let sender = world.client().await?;
    let queue = world.shared_queue(&sender).await?;
    for size in [1000, 200_000, 1001, 10] {
        sender
            .basic_publish("", &queue, vec![7; size])
            .header("size", size as i64)
            .await?;
    }
    let client = world
        .client_with(|options| options.max_message_size(1000))
        .await?;
    let mut consumer = client.basic_consume(&queue).await?;
    for size in [1000, 200_000, 1001, 10] {
        let delivery = consumer.next().await.ok_or("ended")??;
        assert_eq!(
            delivery
                .headers()?
                .get("size")
                .and_then(|size| size.as_i64()),
            Some(size)
        );
        let too_large = (size > 1000).then_some(size.unsigned_abs());
        assert_eq!(delivery.message().too_large_body(), too_large);
        assert_eq!(
            delivery.body().len(),
            if size > 1000 { 0 } else { size as usize }
        );
        delivery.reject(false)?;
    }
    drop(consumer);
    let got = client.basic_get(&queue).await?;
    assert!(got.is_none());
    client.close().await?;
    assert_eq!(sender.queue_delete(&queue).await?, 0);
    Ok(sender.close().await?)
}
