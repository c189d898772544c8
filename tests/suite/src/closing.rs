//! Closing: accepted messages are sent, unsettled ones are delivered again, and everything pending
//! completes.

use crate::cases::assert_error;
use crate::{Outcome, Runtime, World};
use futures_lite::FutureExt;
use futures_lite::future::try_zip;
use puka::{Broken, Ended, Error};

/// Unsettled messages are delivered again after the close.
pub async fn close_requeues_unsettled_messages<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.filled_queue(&client, 3).await?;
    let mut consumer = client.basic_consume(&queue).prefetch_count(2).await?;
    let held = consumer.next().await.ok_or("ended")??;
    client.close().await?;
    let client = world.client().await?;
    world.until_ready(&client, &queue, 3).await?;
    for redelivered in [true, true, false] {
        let again = client
            .basic_get(&queue)
            .no_ack(true)
            .await?
            .ok_or("empty")?;
        assert_eq!(again.redelivered(), redelivered);
    }
    drop(held);
    Ok(client.close().await?)
}

/// Publishes and acks whose promises were dropped are sent before the close.
pub async fn close_flushes_accepted_messages<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.filled_queue(&client, 100).await?;
    let mut consumer = client.basic_consume(&queue).prefetch_count(100).await?;
    let mut held = Vec::new();
    for _ in 0..100 {
        held.push(consumer.next().await.ok_or("ended")??);
    }
    drop(consumer);
    let closed = {
        for n in 0..500 {
            drop(
                client
                    .basic_publish("", &queue, format!("late {n}"))
                    .mandatory(n % 2 == 0)
                    .send(),
            );
        }
        held.into_iter().try_for_each(puka::Delivery::ack)?;
        client.close()
    };
    closed.await?;
    let client = world.client().await?;
    world.until_ready(&client, &queue, 500).await?;
    assert_eq!(client.queue_delete(&queue).await?, 500);
    Ok(client.close().await?)
}

/// Promises that are pending when the close begins complete with their own results.
pub async fn close_waits_for_pending_promises<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.filled_queue(&client, 1).await?;
    let declare = client.queue_declare(&queue).passive(true).send();
    let publishes: Vec<_> = (0..100)
        .map(|_| client.basic_publish("", &queue, "late").send())
        .collect();
    let lost = client
        .basic_publish(world.name("missing"), "", "lost")
        .send();
    let returned = client
        .basic_publish("", world.name("missing"), "back")
        .mandatory(true)
        .send();
    let closed = client.close();
    assert_error!(client.queue_declare("late").send().await, Error::Closed);
    closed.await?;
    assert_eq!(declare.await?.name, queue);
    for publish in publishes {
        publish.await?;
    }
    assert_error!(lost.await, Error::NotFound(_));
    assert_error!(returned.await, Error::NoRoute(_));
    Ok(())
}

/// After the close, requests fail with `Closed`, another close succeeds, and consumers have ended
/// without an error.
pub async fn closed_client_returns_closed<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.queue(&client).await?;
    let mut consumer = client.basic_consume(&queue).await?;
    let (first, second) = (client.close(), client.close());
    first.await?;
    second.await?;
    client.close().await?;
    assert!(consumer.next().await.is_none());
    assert!(matches!(
        consumer.ended(),
        Some(Ended::ConnectionBroken(Error::Closed))
    ));
    assert!(matches!(client.why_closed(), Some(Error::Closed)));
    assert_error!(client.queue_declare("x").await, Error::Closed);
    assert_error!(client.basic_publish("", "x", "").await, Error::Closed);
    assert_error!(client.basic_consume("x").submit().await, Error::Closed);
    assert_error!(client.basic_get("x").try_send(), Error::Closed);
    assert_error!(client.connect().await, Error::Closed);
    assert_error!(consumer.cancel().await, Error::Closed | Error::Stale);
    Ok(())
}

/// A connection whose last handle is dropped closes gracefully, and accepted messages are sent.
pub async fn dropping_the_last_handle_closes_gracefully<R: Runtime>(world: &World<R>) -> Outcome {
    let other = world.client().await?;
    let kept = world.shared_queue(&other).await?;
    let (client, driver) = world.open(|options| options).await?;
    let own = world.name("own");
    let work = async {
        client.connect().await?;
        client.queue_declare(&own).exclusive(true).await?;
        let consumer = client.basic_consume(&own).await?;
        let clone = client.clone();
        drop(client);
        // The clone and the consumer still keep the connection open.
        clone
            .basic_publish("", &own, "for the consumer")
            .mandatory(true)
            .await?;
        for n in 0..100 {
            drop(clone.basic_publish("", &kept, n.to_string()).send());
        }
        drop(clone);
        drop(consumer);
        Ok::<(), Error>(())
    };
    // The driver ends by itself, without an error.
    try_zip(work, driver).await?;
    world.until_ready(&other, &kept, 100).await?;
    // The exclusive queue is deleted with its connection.
    while let Err(Error::ResourceLocked(_)) = other.queue_declare(&own).exclusive(true).await {}
    if let Some(server) = world.in_memory() {
        assert_eq!(server.with(|broker| broker.connections().len()), 1);
    }
    Ok(other.close().await?)
}

/// The driver of a connection that is closed resolves to `Ok`.
pub async fn driver_ends_with_the_connection<R: Runtime>(world: &World<R>) -> Outcome {
    let (client, driver) = world.open(|options| options).await?;
    let work = async {
        client.connect().await?;
        client.close().await
    };
    try_zip(work, driver).await?;
    Ok(())
}

/// Dropping the driver completes everything pending with a broken connection.
pub async fn dropping_the_driver_breaks_the_connection<R: Runtime>(world: &World<R>) -> Outcome {
    let (client, mut driver) = world.open(|options| options).await?;
    let queue = world.name("own");
    let prepared = async {
        client.connect().await?;
        client.queue_declare(&queue).exclusive(true).await?;
        client.basic_publish("", &queue, "").await?;
        let got = client.basic_get(&queue).await?;
        Ok::<_, Error>((got, client.basic_consume(&queue).await?))
    };
    let driven = async { Err((&mut driver).await.err().unwrap_or(Error::Closed)) };
    let (got, mut consumer) = prepared.or(driven).await?;

    let declare = client.queue_declare(&queue).send();
    let get = client.basic_get(&queue).send();
    let consume = client.basic_consume(&queue).send();
    let publishes = [false, true].map(|mandatory| {
        client
            .basic_publish("", &queue, "")
            .mandatory(mandatory)
            .send()
    });
    let held = client
        .basic_publish(world.name("another exchange"), "", "")
        .send();
    let qos = client.basic_qos(&consumer, 5).send();
    let cancel = consumer.cancel();
    drop(driver);
    let dropped = |error: &Error| matches!(error, Error::ConnectionBroken(Broken::DriverDropped));
    assert_error!(declare.await, error if dropped(error));
    assert_error!(get.await, error if dropped(error));
    assert_error!(consume.await, error if dropped(error));
    assert_error!(qos.await, error if dropped(error));
    assert_error!(cancel.await, error if dropped(error));
    for publish in publishes.into_iter().chain([held]) {
        let error = publish.await.err().ok_or("the publish was confirmed")?;
        assert!(error.is_connection_broken(), "{error:?}");
        assert!(
            matches!(&error, Error::Unconfirmed(cause) if dropped(cause)),
            "{error:?}"
        );
    }
    let end = consumer
        .next()
        .await
        .ok_or("the consumer has ended without an error")?;
    assert_error!(end, error if dropped(error));
    assert!(matches!(consumer.ended(), Some(Ended::ConnectionBroken(_))));
    assert_error!(got.ok_or("empty")?.ack(), Error::Stale);
    assert_error!(client.queue_declare(&queue).await, error if dropped(error));
    assert_error!(client.close().await, error if dropped(error));
    assert_error!(client.connect().await, error if dropped(error));
    Ok(())
}

/// The same for a driver that is dropped before the handshake is complete.
pub async fn dropping_the_driver_ends_the_handshake<R: Runtime>(world: &World<R>) -> Outcome {
    let (client, driver) = world.open(|options| options).await?;
    let (connect, declare) = (client.connect(), client.queue_declare("early").send());
    let publish = client.basic_publish("", "early", "").send();
    drop(driver);
    assert_error!(
        connect.await,
        Error::ConnectionBroken(Broken::DriverDropped)
    );
    assert_error!(
        declare.await,
        Error::ConnectionBroken(Broken::DriverDropped)
    );
    // It was never sent, so its outcome is certain.
    assert_error!(
        publish.await,
        Error::ConnectionBroken(Broken::DriverDropped)
    );
    Ok(())
}

/// Twenty connections are opened and closed, one after the other.
pub async fn many_connections_open_and_close<R: Runtime>(world: &World<R>) -> Outcome {
    for _ in 0..20 {
        let client = world.client().await?;
        let queue = world.queue(&client).await?;
        client
            .basic_publish("", &queue, "x")
            .mandatory(true)
            .await?;
        client.close().await?;
    }
    Ok(())
}

/// A publish that waits for capacity when the connection is closed ends with `Closed`, and was not
/// sent.
pub async fn waiting_for_capacity_ends_with_the_connection<R: Runtime>(
    world: &World<R>,
) -> Outcome {
    let (client, mut driver) = world
        .open(|options| options.max_publishes_in_flight(1))
        .await?;
    let connected = async { client.connect().await.map(drop) };
    let driven = async { (&mut driver).await.and(Err(Error::Closed)) };
    connected.or(driven).await?;
    let sent = client.basic_publish("", "nowhere", "sent").send();
    let mut waiting = Box::pin(client.basic_publish("", "nowhere", "waiting").into_future());
    let mut submitting = Box::pin(client.basic_publish("", "nowhere", "waiting").submit());
    assert!(crate::ready_now(&mut waiting).await.is_none());
    assert!(crate::ready_now(&mut submitting).await.is_none());
    let closed = client.close();
    let work = async {
        assert_error!(waiting.await, Error::Closed);
        assert_error!(submitting.await, Error::Closed);
        sent.await?;
        closed.await
    };
    try_zip(work, driver).await?;
    Ok(())
}
