//! Notices: events of the connection that are not the result of a request.

use crate::taking::{next, take};
use crate::{Outcome, Runtime, World};
use puka::{Error, Notice};

/// Every listener is notified that the broker has cancelled a consumer, closed a channel, and that
/// the connection has ended, in that order.
pub async fn notices_report_events_in_order<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let (mut one, mut other) = (client.notices(), client.notices());
    let queue = world.shared_queue(&client).await?;
    let consumer = client.basic_consume(&queue).await?;
    let tag = consumer.tag().to_owned();
    client.queue_delete(&queue).await?;
    let mut next = one.next().await;
    // With recovery, a refused restart shows that the queue does not exist.
    if matches!(next, Some(Notice::ConsumerInterrupted { .. })) {
        next = one.next().await;
    }
    match next {
        Some(Notice::ConsumerCancelled(cancelled)) => assert_eq!(*cancelled, *tag),
        other => return Err(format!("{other:?}").into()),
    }
    let refused = client.queue_declare(&queue).passive(true).await;
    assert!(matches!(refused, Err(Error::NotFound(_))));
    client.close().await?;
    drop(consumer);
    for notices in [&mut one, &mut other] {
        let mut told = Vec::new();
        while let Some(notice) = notices.next().await {
            told.push(notice);
        }
        let [
            ..,
            Notice::ChannelClosed(Error::NotFound(_)),
            Notice::Closed(Error::Closed),
        ] = &told[..]
        else {
            return Err(format!("{told:?}").into());
        };
        assert!(notices.next().await.is_none());
    }
    let late = client.notices().next().await;
    assert!(
        matches!(late, Some(Notice::Closed(Error::Closed))),
        "{late:?}"
    );
    Ok(())
}

/// A listener does not keep the connection open.
pub async fn listener_alone_lets_the_connection_close<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let mut notices = client.notices();
    drop(client);
    assert!(matches!(
        notices.next().await,
        Some(Notice::Closed(Error::Closed))
    ));
    assert!(notices.next().await.is_none());
    Ok(())
}

/// The secret of an open connection can be updated. RabbitMQ only checks it if an authentication
/// backend has expiring secrets.
pub async fn s61_secret_is_renewed<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    client.update_secret("guest", "a day has passed").await?;
    let refused = client.update_secret("x", &"long".repeat(100)).await;
    assert!(
        matches!(refused, Err(Error::InvalidArgument { what: "reason", .. })),
        "{refused:?}"
    );
    let refused = client.update_secret("x".repeat(200_000), "").await;
    assert!(
        matches!(
            refused,
            Err(Error::InvalidArgument {
                what: "new_secret",
                ..
            })
        ),
        "{refused:?}"
    );
    client.queue_declare("").exclusive(true).await?;
    Ok(client.close().await?)
}

/// The unsettled deliveries of a consumer can be requeued on demand, and are delivered again.
pub async fn recovered_deliveries_are_delivered_again<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.filled_queue(&client, 10).await?;
    let mut consumer = client.basic_consume(&queue).prefetch_count(8).await?;
    let mut held = take(&mut consumer, 3).await?;
    held.pop().ok_or("none")?.ack_multiple()?;
    let held = take(&mut consumer, 2).await?;
    consumer.recover().await?;
    for delivery in held {
        assert!(matches!(delivery.ack(), Err(Error::Stale)));
    }
    let mut again = Vec::new();
    for _ in 3..10 {
        let delivery = next(&mut consumer).await?;
        again.push((
            String::from_utf8_lossy(delivery.body()).into_owned(),
            delivery.redelivered(),
        ));
        delivery.ack()?;
    }
    again.sort();
    let bodies: Vec<_> = again.iter().map(|(body, _)| &**body).collect();
    assert_eq!(bodies, ["3", "4", "5", "6", "7", "8", "9"]);
    assert!(again.iter().take(2).all(|(_, redelivered)| *redelivered));
    consumer.cancel().await?;
    assert_eq!(client.queue_delete(&queue).await?, 0);
    Ok(client.close().await?)
}
