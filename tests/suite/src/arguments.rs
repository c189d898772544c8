//! The well-known arguments: the typed methods set the arguments that the broker knows.

use crate::cases::assert_error;
use crate::{Outcome, Runtime, World};
use puka::protocol::Value;
use puka::{Error, HeadersMatch, Overflow};
use std::time::Duration;

/// A queue declared with typed arguments is equivalent to one declared with their names.
pub async fn typed_arguments_are_the_brokers_own<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.name("typed");
    client
        .queue_declare(&queue)
        .auto_delete(true)
        .message_ttl(Duration::from_secs(60))
        .expires(Duration::from_secs(600))
        .max_length(10)
        .max_length_bytes(100_000)
        .overflow(Overflow::RejectPublish)
        .dead_letter("amq.fanout", "dead")
        .max_priority(5)
        .single_active_consumer(true)
        .await?;
    let untyped = |length: i32| {
        client
            .queue_declare(&queue)
            .auto_delete(true)
            .argument("x-message-ttl", 60_000)
            .argument("x-expires", 600_000)
            .argument("x-max-length", length)
            .argument("x-max-length-bytes", 100_000)
            .argument("x-overflow", "reject-publish")
            .argument("x-dead-letter-exchange", "amq.fanout")
            .argument("x-dead-letter-routing-key", "dead")
            .argument("x-max-priority", 5)
            .argument("x-single-active-consumer", true)
    };
    untyped(10).await?;
    assert_error!(untyped(11).await, Error::PreconditionFailed(_));
    client.queue_delete(&queue).await?;
    Ok(client.close().await?)
}

/// A full queue with `reject-publish` refuses a publish instead of losing it.
pub async fn full_queue_refuses_the_publish<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.name("full");
    client
        .queue_declare(&queue)
        .exclusive(true)
        .max_length(1)
        .overflow(Overflow::RejectPublish)
        .await?;
    client.basic_publish("", &queue, "fits").await?;
    // The broker may accept one more before it applies the limit.
    let mut refused = false;
    for _ in 0..5 {
        match client.basic_publish("", &queue, "does not").await {
            Err(Error::Nacked) => refused = true,
            other => other?,
        }
    }
    assert!(refused);
    client.queue_delete(&queue).await?;
    Ok(client.close().await?)
}

/// Messages are also routed by CC and BCC, and BCC is removed.
pub async fn copies_are_routed_to_more_queues<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let (to, cc, bcc) = (
        world.queue(&client).await?,
        world.queue(&client).await?,
        world.queue(&client).await?,
    );
    client
        .basic_publish("", &to, "to all")
        .cc(&[&cc])
        .bcc(&[&bcc])
        .await?;
    for queue in [&to, &cc, &bcc] {
        let delivery = client
            .basic_get(queue.as_str())
            .await?
            .ok_or("nothing came")?;
        assert!(matches!(
            delivery.headers()?.get("CC"),
            Some(Value::Array(_))
        ));
        assert_eq!(delivery.headers()?.get("BCC"), None);
        delivery.ack()?;
    }
    Ok(client.close().await?)
}

/// A binding of a headers exchange can match any of its headers.
pub async fn binding_matches_any_header<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.queue(&client).await?;
    let bind = client
        .queue_bind(&queue, "amq.headers")
        .headers_match(HeadersMatch::Any);
    bind.argument("colour", "red").argument("size", 3).await?;
    client
        .basic_publish("amq.headers", "", "red")
        .header("colour", "red")
        .await?;
    client
        .basic_publish("amq.headers", "", "three")
        .header("size", 3)
        .mandatory(true)
        .await?;
    let blue = client
        .basic_publish("amq.headers", "", "blue")
        .header("colour", "blue")
        .mandatory(true)
        .await;
    assert_error!(blue, Error::NoRoute(_));
    assert_eq!(client.queue_purge(&queue).await?, 2);
    Ok(client.close().await?)
}
