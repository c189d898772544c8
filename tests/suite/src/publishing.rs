//! Publishing: every publish has its own outcome, and a message arrives as it was sent.

use crate::cases::assert_error;
use crate::{Outcome, Runtime, World};
use puka::protocol::{Array, Properties, ShortStr, Value};
use puka::{Error, Notice, Returned};
use std::time::Duration;

/// A missing exchange fails only the publishes to it, and leaks no channel.
pub async fn missing_exchange_fails_only_its_own_publishes<R: Runtime>(
    world: &World<R>,
) -> Outcome {
    let client = world.client_with(|options| options.channel_max(5)).await?;
    let queue = world.queue(&client).await?;
    let missing = world.name("missing");
    for _ in 0..20 {
        let before = client
            .basic_publish("", &queue, "fine")
            .mandatory(true)
            .send();
        let twice = [0, 1].map(|_| client.basic_publish(&missing, "", "lost").send());
        let other = client.basic_publish("amq.fanout", "", "fine").send();
        let after = client
            .basic_publish("", &queue, "fine")
            .mandatory(true)
            .send();
        before.await?;
        for lost in twice {
            assert_error!(lost.await, Error::NotFound(fault) if fault.text.contains(&missing));
        }
        other.await?;
        after.await?;
    }
    assert_eq!(world.ready(&client, &queue).await?, 40);
    client.exchange_declare(&missing).await?;
    client.basic_publish(&missing, "", "found").await?;
    if let Some(server) = world.in_memory() {
        let channels = server.with(|broker| {
            broker
                .connections()
                .iter()
                .map(|id| broker.channels(*id))
                .sum::<usize>()
        });
        assert!(channels <= 5, "{channels} channels");
    }
    Ok(client.close().await?)
}

/// An unroutable mandatory message is returned complete, and without the internal header.
pub async fn unroutable_message_is_returned_complete<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.name("nowhere");
    let publish = || {
        let publish = client
            .basic_publish("", &queue, "come back")
            .mandatory(true)
            .content_type("text/plain");
        publish
            .correlation_id("17")
            .persistent(true)
            .header("colour", "red")
            .header("size", 5)
    };
    let error = publish().await.err().ok_or("the message was routed")?;
    let Error::NoRoute(returned) = &error else {
        return Err(error.into());
    };
    let Returned {
        reply_code,
        reply_text,
        message,
    } = &**returned;
    assert_eq!((reply_code.value(), reply_text.as_str()), (312, "NO_ROUTE"));
    assert_eq!(
        (message.exchange(), message.routing_key()),
        ("".into(), queue.as_str().into())
    );
    assert_eq!(message.body(), b"come back");
    let properties = message.properties();
    assert_eq!(
        properties.content_type.and_then(ShortStr::as_str),
        Some("text/plain")
    );
    assert_eq!(
        properties.correlation_id.and_then(ShortStr::as_str),
        Some("17")
    );
    assert_eq!(properties.delivery_mode, Some(2));
    let headers: Vec<_> = message
        .headers()?
        .iter()
        .map(|(name, value)| (name.to_str_lossy(), value))
        .collect();
    assert_eq!(
        headers,
        [
            ("colour".into(), Value::String(b"red")),
            ("size".into(), Value::I32(5))
        ]
    );

    client.queue_declare(&queue).exclusive(true).await?;
    publish().await?;
    let arrived = client
        .basic_get(&queue)
        .no_ack(true)
        .await?
        .ok_or("empty")?;
    assert_eq!(arrived.headers()?.get("size"), Some(Value::I32(5)));
    Ok(client.close().await?)
}

/// A message without headers is returned without headers, and an empty one empty.
pub async fn return_without_headers_has_no_headers<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let error = client
        .basic_publish("amq.direct", world.name("x"), "")
        .mandatory(true)
        .await
        .err();
    let Some(Error::NoRoute(returned)) = error else {
        return Err(format!("{error:?}").into());
    };
    assert_eq!(returned.message.properties(), Properties::default());
    assert_eq!(
        (returned.message.body(), returned.message.exchange()),
        (&b""[..], "amq.direct".into())
    );
    Ok(client.close().await?)
}

/// Without `mandatory`, an unroutable message is confirmed.
pub async fn unroutable_message_is_confirmed_unless_mandatory<R: Runtime>(
    world: &World<R>,
) -> Outcome {
    let client = world.client().await?;
    let queue = world.name("nowhere");
    client.basic_publish("", &queue, "gone").await?;
    client.queue_declare(&queue).exclusive(true).await?;
    client
        .basic_publish("", &queue, "kept")
        .mandatory(true)
        .await?;
    assert_eq!(world.ready(&client, &queue).await?, 1);
    Ok(client.close().await?)
}

/// A publish to a full queue with `reject-publish` is `Nacked`.
pub async fn publish_to_a_refusing_queue_is_nacked<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.name("full");
    let declare = client
        .queue_declare(&queue)
        .exclusive(true)
        .argument("x-max-length", 1);
    declare.argument("x-overflow", "reject-publish").await?;
    client.basic_publish("", &queue, "fits").await?;
    assert_error!(
        client.basic_publish("", &queue, "too much").await,
        Error::Nacked
    );
    client.queue_purge(&queue).await?;
    client.basic_publish("", &queue, "fits again").await?;
    Ok(client.close().await?)
}

/// A foreign `user_id` that is allowed by the options is refused by the broker, and fails one
/// publish.
pub async fn foreign_user_id_fails_its_own_publish<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world
        .client_with(|options| options.allow_foreign_user_id(true))
        .await?;
    let queue = world.queue(&client).await?;
    let refused = client
        .basic_publish("", &queue, "x")
        .user_id("somebody")
        .await;
    assert_error!(refused, Error::PreconditionFailed(fault) if fault.text.contains("somebody"));
    client
        .basic_publish("", &queue, "x")
        .user_id("guest")
        .mandatory(true)
        .await?;
    Ok(client.close().await?)
}

/// `CC` and `BCC` route copies, and `BCC` is removed.
pub async fn cc_and_bcc_route_copies<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queues = [
        world.queue(&client).await?,
        world.queue(&client).await?,
        world.queue(&client).await?,
    ];
    let (mut cc, mut bcc) = (Array::new(), Array::new());
    cc.push(&queues[1])?;
    bcc.push(&queues[2])?;
    client
        .basic_publish("", &queues[0], "copied")
        .header("CC", &cc)
        .header("BCC", &bcc)
        .await?;
    for queue in &queues {
        let message = client.basic_get(queue).no_ack(true).await?.ok_or("empty")?;
        assert_eq!(message.headers()?.get("CC"), Some((&cc).into()));
        assert_eq!(message.headers()?.get("BCC"), None);
    }
    Ok(client.close().await?)
}

/// Publishes to an exchange keep their order, mandatory or not, awaited or not.
pub async fn order_of_publishes_is_kept<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.queue(&client).await?;
    let mut promises = Vec::new();
    for n in 0..1000_u32 {
        let publish = client
            .basic_publish("", &queue, n.to_be_bytes().to_vec())
            .mandatory(n % 3 == 0);
        // Dropping a promise does not undo its publish.
        promises.extend(Some(publish.send()).filter(|_| n % 2 == 0));
    }
    for promise in promises {
        promise.await?;
    }
    world.until_ready(&client, &queue, 1000).await?;
    let mut consumer = client.basic_consume(&queue).no_ack(true).await?;
    for n in 0..1000_u32 {
        let delivery = consumer.next().await.ok_or("ended")??;
        assert_eq!(delivery.body(), n.to_be_bytes());
    }
    Ok(client.close().await?)
}

/// Messages without confirms arrive in order, interleaved with confirmed ones, and a close loses
/// none.
pub async fn unconfirmed_messages_arrive_in_order_before_the_close<R: Runtime>(
    world: &World<R>,
) -> Outcome {
    let client = world.client().await?;
    let other = world.client().await?;
    let (queue, confirmed) = (
        world.shared_queue(&other).await?,
        world.queue(&other).await?,
    );
    for n in 0..3000_u32 {
        client
            .basic_publish("", &queue, n.to_be_bytes().to_vec())
            .confirm(false)
            .await?;
        if n % 1000 == 0 {
            client
                .basic_publish("", &confirmed, "x")
                .mandatory(true)
                .await?;
        }
    }
    client.close().await?;
    assert_eq!(world.ready(&other, &confirmed).await?, 3);
    world.until_ready(&other, &queue, 3000).await?;
    let mut consumer = other.basic_consume(&queue).no_ack(true).await?;
    for n in 0..3000_u32 {
        let delivery = consumer.next().await.ok_or("ended")??;
        assert_eq!(delivery.body(), n.to_be_bytes());
    }
    drop(consumer);
    other.queue_delete(&queue).await?;
    Ok(other.close().await?)
}

/// Without a confirm, only listeners are notified that an exchange is missing, and nothing else is
/// affected.
pub async fn unconfirmed_message_to_a_missing_exchange_is_lost<R: Runtime>(
    world: &World<R>,
) -> Outcome {
    let client = world.client().await?;
    let mut notices = client.notices();
    let (exchange, queue) = (world.name("late"), world.queue(&client).await?);
    for _ in 0..3 {
        client
            .basic_publish(&exchange, "", "lost")
            .confirm(false)
            .await?;
        match notices.next().await {
            Some(Notice::ChannelClosed(Error::NotFound(fault))) => {
                assert!(fault.text.contains(&exchange))
            }
            other => return Err(format!("{other:?}").into()),
        }
    }
    let refused = client
        .basic_publish("", &queue, "x")
        .confirm(false)
        .mandatory(true)
        .await;
    assert_error!(
        refused,
        Error::InvalidArgument {
            what: "mandatory",
            ..
        }
    );
    client
        .exchange_declare(&exchange)
        .exchange_type("fanout")
        .await?;
    client.queue_bind(&queue, &exchange).await?;
    client
        .basic_publish(&exchange, "", "found")
        .confirm(false)
        .await?;
    client
        .basic_publish("", &queue, "found, too")
        .confirm(false)
        .await?;
    world.until_ready(&client, &queue, 2).await?;
    client.exchange_delete(&exchange).await?;
    Ok(client.close().await?)
}

/// A message expires in its queue.
pub async fn message_expires<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.queue(&client).await?;
    client
        .basic_publish("", &queue, "short")
        .expiration(Duration::from_millis(1))
        .await?;
    client
        .basic_publish("", &queue, "long")
        .expiration(Duration::from_secs(600))
        .await?;
    world.until_ready(&client, &queue, 1).await?;
    let left = client
        .basic_get(&queue)
        .no_ack(true)
        .await?
        .ok_or("empty")?;
    assert_eq!(left.body(), b"long");
    Ok(client.close().await?)
}

/// A delivered message can be published again with its headers, mandatory again, and a return still
/// finds its own publish.
pub async fn forwarded_message_has_its_own_outcome<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.queue(&client).await?;
    client
        .basic_publish("", &queue, "on")
        .mandatory(true)
        .header("colour", "red")
        .await?;
    let got = client
        .basic_get(&queue)
        .no_ack(true)
        .await?
        .ok_or("empty")?;
    let nowhere = world.name("nowhere");
    let publish = |key| {
        client
            .basic_publish("", key, got.body())
            .properties(got.properties())
            .mandatory(true)
    };
    let outcomes = [
        publish(&queue).send(),
        publish(&nowhere).send(),
        publish(&queue).send(),
        publish(&nowhere).send(),
    ];
    for (n, outcome) in outcomes.into_iter().enumerate() {
        match (n % 2, outcome.await) {
            (0, Ok(())) => {}
            (1, Err(Error::NoRoute(returned))) => {
                assert_eq!(
                    returned.message.headers()?.get("colour"),
                    Some(Value::String(b"red"))
                );
            }
            (_, outcome) => return Err(format!("publish {n}: {outcome:?}").into()),
        }
    }
    Ok(client.close().await?)
}

/// An error that may be caused by any of several publishes completes each that was in flight, and
/// later ones succeed.
pub async fn channel_error_leaves_other_publishes_unconfirmed<R: Runtime>(
    world: &World<R>,
) -> Outcome {
    let client = world
        .client_with(|options| options.allow_foreign_user_id(true))
        .await?;
    let queue = world.queue(&client).await?;
    for _ in 0..5 {
        let before = client.basic_publish("", &queue, "x").send();
        let bad = client
            .basic_publish("", &queue, "x")
            .user_id("somebody")
            .send();
        let after = client.basic_publish("", &queue, "x").send();
        let elsewhere = client.basic_publish("amq.fanout", "", "x").send();
        let refused = |error: &Error| error.fault().is_some_and(|fault| fault.code.value() == 406);
        let before = before.await;
        assert!(before.as_ref().err().is_none_or(refused), "{before:?}");
        assert_error!(bad.await, error if refused(error));
        // The broker ignores later publishes; one that was sent after it had closed the channel is
        // on the next channel.
        let after = after.await;
        assert!(
            matches!(&after, Ok(()))
                || matches!(&after, Err(Error::Unconfirmed(error)) if refused(error)),
            "{after:?}"
        );
        elsewhere.await?;
        client
            .basic_publish("", &queue, "fine")
            .mandatory(true)
            .await?;
    }
    Ok(client.close().await?)
}

/// With more exchanges than channels, each publish has its turn and its own outcome.
pub async fn more_exchanges_than_channels_are_published_to<R: Runtime>(
    world: &World<R>,
) -> Outcome {
    let client = world
        .client_with(|options| options.publish_channels(3))
        .await?;
    let queue = world.queue(&client).await?;
    let exchanges: Vec<_> = (0..30).map(|_| world.name("many")).collect();
    for exchange in exchanges.iter().step_by(2) {
        client
            .exchange_declare(exchange)
            .exchange_type("fanout")
            .await?;
        client.queue_bind(&queue, exchange).await?;
    }
    let promises: Vec<_> = (0..10)
        .flat_map(|_| &exchanges)
        .map(|exchange| {
            client
                .basic_publish(exchange, "", "x")
                .mandatory(true)
                .send()
        })
        .collect();
    for (n, promise) in promises.into_iter().enumerate() {
        match (n % 2, promise.await) {
            (0, Ok(())) | (1, Err(Error::NotFound(_))) => {}
            (_, outcome) => return Err(format!("publish {n}: {outcome:?}").into()),
        }
    }
    assert_eq!(world.ready(&client, &queue).await?, 150);
    Ok(client.close().await?)
}

/// An exchange that is deleted between two publishes fails the second, and one that is declared
/// again accepts the third.
pub async fn exchange_can_be_deleted_and_declared_again<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let exchange = world.name("fickle");
    for _ in 0..5 {
        client.exchange_declare(&exchange).await?;
        client.basic_publish(&exchange, "", "x").await?;
        client.exchange_delete(&exchange).await?;
        assert_error!(
            client.basic_publish(&exchange, "", "x").await,
            Error::NotFound(_)
        );
    }
    Ok(client.close().await?)
}
