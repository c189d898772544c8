//! Faults of the broker, and its refusals: for the broker in memory, which can be made to fail.

use crate::cases::assert_error;
use crate::taking::take;
use crate::{Outcome, Runtime, World, ready_now};
use futures_lite::future::yield_now;
use puka::protocol::ReplyCode;
use puka::{Broken, Client, Delivery, Ended, Error, Notice, Promise};
use puka_test_broker::Server;
use std::time::Duration;

fn server<R: Runtime>(world: &World<R>) -> Result<&Server, &'static str> {
    world
        .in_memory()
        .ok_or("this case needs the broker in memory")
}

/// Raises an alarm, and publishes a message that makes the broker block the connection. Returns the
/// promise of that publish.
async fn block<R: Runtime>(
    world: &World<R>,
    client: &Client,
    reason: &str,
) -> Result<Promise<()>, Box<dyn std::error::Error>> {
    server(world)?.with(|broker| broker.block(reason));
    let noticed = client.basic_publish("", "nowhere", "noticed").send();
    while client.blocked().is_none() {
        yield_now().await;
    }
    assert_eq!(client.blocked().as_deref(), Some(reason));
    Ok(noticed)
}

/// The client reports why its publishes are blocked; other connections continue, and all messages
/// are sent after the alarm.
pub async fn blocked_connection_continues_after_the_alarm<R: Runtime>(world: &World<R>) -> Outcome {
    let (client, other, server) = (world.client().await?, world.client().await?, server(world)?);
    let queue = world.filled_queue(&client, 1).await?;
    let got = client.basic_get(&queue).await?.ok_or("empty")?;
    let mut notices = client.notices();
    let noticed = block(world, &client, "low on memory").await?;
    let mut held: Vec<_> = (0..5)
        .map(|_| client.basic_publish("", &queue, "held").send())
        .collect();
    got.ack()?;
    let declare = client.queue_declare(&queue).passive(true).send();
    assert!(other.queue_declare(&queue).passive(true).await.is_ok());
    assert!(other.blocked().is_none());
    for publish in &mut held {
        assert!(ready_now(publish).await.is_none());
    }
    let now = server.now();
    server.with(|broker| broker.unblock(now));
    noticed.await?;
    for publish in held {
        publish.await?;
    }
    // The declare was sent while publishes were blocked, and so was the ack.
    assert_eq!(declare.await?.message_count, 0);
    assert!(client.blocked().is_none());
    assert!(matches!(notices.next().await, Some(Notice::Blocked(why)) if &*why == "low on memory"));
    assert!(matches!(notices.next().await, Some(Notice::Unblocked)));
    assert_eq!(world.ready(&client, &queue).await?, 5);
    client.close().await?;
    assert_eq!(world.ready(&other, &queue).await?, 5);
    Ok(other.close().await?)
}

/// Closing a blocked connection has a deadline; the unsent publishes were never sent.
pub async fn blocked_connection_can_be_closed<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world
        .client_with(|options| options.close_timeout(Duration::from_millis(400)))
        .await?;
    let noticed = block(world, &client, "low on disk").await?;
    let held = client.basic_publish("", "nowhere", "held").send();
    assert_error!(client.close().await, Error::Timeout { .. });
    assert_error!(noticed.await, Error::Unconfirmed(_));
    assert_error!(held.await, Error::Closed);
    Ok(())
}

/// Everything pending completes with the broker's text after a forced close.
pub async fn forced_close_ends_everything_with_its_text<R: Runtime>(world: &World<R>) -> Outcome {
    let (client, server) = (world.client().await?, server(world)?);
    let queue = world.filled_queue(&client, 1).await?;
    let held = client.basic_get(&queue).await?.ok_or("empty")?;
    let mut consumer = client.basic_consume(&queue).await?;
    let now = server.now();
    server.with(|broker| {
        for id in broker.connections() {
            broker.close_connection(
                now,
                id,
                ReplyCode::CONNECTION_FORCED,
                "CONNECTION_FORCED - flooded",
            );
        }
    });
    let end = consumer
        .next()
        .await
        .ok_or("the consumer has ended without an error")?;
    assert_error!(end, Error::ConnectionForced(fault) if fault.text.contains("flooded"));
    assert!(matches!(
        consumer.ended(),
        Some(Ended::ConnectionBroken(Error::ConnectionForced(_)))
    ));
    assert_error!(client.queue_declare("x").await, Error::ConnectionForced(_));
    assert_error!(client.close().await, Error::ConnectionForced(_));
    assert_error!(held.ack(), Error::Stale);
    Ok(())
}

/// A lost transport completes everything pending.
pub async fn cut_transport_ends_everything<R: Runtime>(world: &World<R>) -> Outcome {
    let (client, server) = (world.client().await?, server(world)?);
    let queue = world.queue(&client).await?;
    let mut consumer = client.basic_consume(&queue).await?;
    let now = server.now();
    server.with(|broker| {
        for id in broker.connections() {
            broker.drop_connection(now, id);
        }
    });
    let end = consumer
        .next()
        .await
        .ok_or("the consumer has ended without an error")?;
    assert_error!(end, Error::ConnectionBroken(Broken::Eof | Broken::Io(_)));
    assert_error!(
        client.basic_publish("", &queue, "").await,
        Error::ConnectionBroken(_)
    );
    assert_error!(client.close().await, Error::ConnectionBroken(_));
    Ok(())
}

/// A user without permission is refused request by request, and can continue with what it may
/// access.
pub async fn permissions_are_checked_request_by_request<R: Runtime>(world: &World<R>) -> Outcome {
    let owner = world.client().await?;
    let closed = world.filled_queue(&owner, 1).await?;
    let client = world
        .client_with(|options| options.credentials("limited", "limited"))
        .await?;
    let open = world.name("open");
    client.queue_declare(&open).await?;
    client.exchange_declare(&open).await?;
    client.queue_bind(&open, &open).await?;
    for _ in 0..3 {
        assert_error!(
            client.queue_declare(world.name("closed")).await,
            Error::AccessRefused(_)
        );
        assert_error!(client.basic_get(&closed).await, Error::AccessRefused(_));
        assert_error!(client.basic_consume(&closed).await, Error::AccessRefused(_));
        assert_error!(client.queue_purge(&closed).await, Error::AccessRefused(_));
        let [first, second] = [0, 1].map(|_| client.basic_publish("amq.fanout", "", "").send());
        assert_error!(first.await, Error::AccessRefused(_));
        assert_error!(second.await, Error::AccessRefused(_));
        client
            .basic_publish(&open, "", "fine")
            .mandatory(true)
            .await?;
    }
    assert_eq!(world.ready(&client, &open).await?, 3);
    client.close().await?;
    Ok(owner.close().await?)
}

/// After everything is closed, the broker has no state of the client left.
pub async fn nothing_is_left_at_the_broker<R: Runtime>(world: &World<R>) -> Outcome {
    let (client, server) = (world.client().await?, server(world)?);
    let queue = world.queue(&client).await?;
    let consumer = client.basic_consume(&queue).prefetch_count(1).await?;
    client.basic_publish("", &queue, "x").await?;
    assert_eq!(server.with(|broker| broker.connections().len()), 1);
    drop(consumer);
    client.close().await?;
    while server.with(|broker| broker.connections().len()) != 0 {
        yield_now().await;
    }
    assert!(server.with(|broker| broker.queues().is_empty()));
    Ok(())
}

/// Returns how often each message of a queue was delivered.
fn deliveries(server: &Server, queue: &str) -> Vec<u32> {
    let view = server.with(|broker| broker.queue("/", queue));
    view.iter()
        .flat_map(|view| &view.ready)
        .map(|message| message.deliveries)
        .collect()
}

/// A consumer that is cancelled or dropped receives no message a second time.
pub async fn ended_consumer_is_delivered_nothing_again<R: Runtime>(world: &World<R>) -> Outcome {
    let (client, server) = (world.client().await?, server(world)?);
    for is_dropped in [false, true] {
        let queue = world.filled_queue(&client, 60).await?;
        let mut consumer = client.basic_consume(&queue).prefetch_count(20).await?;
        take(&mut consumer, 1).await?.remove(0).ack()?;
        if is_dropped {
            drop(consumer);
        } else {
            consumer.cancel().await?;
        }
        world.until_ready(&client, &queue, 59).await?;
        let counts = deliveries(server, &queue);
        assert!(counts.iter().all(|count| *count <= 1), "{counts:?}");
    }
    Ok(client.close().await?)
}

/// A consumer that RabbitMQ 4.3 ends for its late acks loses no message of the queue to the
/// delivery limit.
pub async fn consumer_that_timed_out_empties_no_queue<R: Runtime>(world: &World<R>) -> Outcome {
    let (client, server) = (world.client().await?, server(world)?);
    let queue = world.filled_queue(&client, 100).await?;
    let mut consumer = client.basic_consume(&queue).prefetch_count(10).await?;
    let held = take(&mut consumer, 3).await?;
    let now = server.now();
    assert_eq!(
        server.with(|broker| broker.time_out_consumers(now, "/", &queue)),
        1
    );
    let mut rest = Vec::new();
    let end = loop {
        match consumer
            .next()
            .await
            .ok_or("the consumer has ended without an error")?
        {
            Ok(delivery) => rest.push(delivery),
            Err(error) => break error,
        }
    };
    assert!(matches!(&end, Error::ConsumerCancelled(_)), "{end:?}");
    assert!(matches!(consumer.ended(), Some(Ended::CancelledByServer)));
    // Earlier deliveries can be settled; later ones are discarded.
    held.into_iter().chain(rest).try_for_each(Delivery::ack)?;
    drop(consumer);
    while server
        .with(|broker| broker.queue("/", &queue))
        .is_none_or(|view| view.unacked > 0 || view.consumers > 0)
    {
        yield_now().await;
    }
    let counts = deliveries(server, &queue);
    assert!(
        counts.len() >= 80 && counts.iter().all(|count| *count <= 1),
        "{counts:?}"
    );
    Ok(client.close().await?)
}
