//! Queues: declaring, counting, purging, deleting, and access to them.

use crate::cases::assert_error;
use crate::{Outcome, Runtime, World};
use puka::Error;

/// A declare returns the number of messages and consumers.
pub async fn declare_returns_message_and_consumer_counts<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let name = world.name("counted");
    let queue = client.queue_declare(&name).exclusive(true).await?;
    assert_eq!(
        (
            queue.name.as_str(),
            queue.message_count,
            queue.consumer_count
        ),
        (name.as_str(), 0, 0)
    );
    for body in ["one", "two"] {
        client.basic_publish("", &name, body).await?;
    }
    assert_eq!(
        client
            .queue_declare(&name)
            .exclusive(true)
            .await?
            .message_count,
        2
    );
    let mut consumer = client.basic_consume(&name).prefetch_count(1).await?;
    let held = consumer.next().await.ok_or("ended")??;
    let queue = client.queue_declare(&name).passive(true).await?;
    assert_eq!((queue.message_count, queue.consumer_count), (1, 1));
    held.ack()?;
    Ok(client.close().await?)
}

/// The server generates a name for an empty one.
pub async fn server_names_queues_without_a_name<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let first = client.queue_declare("").exclusive(true).await?.name;
    let second = client.queue_declare("").exclusive(true).await?.name;
    assert!(
        first.starts_with("amq.gen-") && second.starts_with("amq.gen-"),
        "{first} {second}"
    );
    assert_ne!(first, second);
    client
        .basic_publish("", &first, "hello")
        .mandatory(true)
        .await?;
    assert_eq!(world.ready(&client, &first).await?, 1);
    Ok(client.close().await?)
}

/// A thousand requests are pending at once, and each has its own result.
pub async fn thousand_queues_are_declared_at_once<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let names: Vec<_> = (0..1000).map(|n| world.name(&format!("a{n:04}"))).collect();
    let declares: Vec<_> = names
        .iter()
        .map(|name| client.queue_declare(name).send())
        .collect();
    for (declare, name) in declares.into_iter().zip(&names) {
        assert_eq!(&declare.await?.name, name);
    }
    let deletes: Vec<_> = names
        .iter()
        .map(|name| client.queue_delete(name).send())
        .collect();
    for delete in deletes {
        assert_eq!(delete.await?, 0);
    }
    assert_error!(
        client.queue_declare(&names[999]).passive(true).await,
        Error::NotFound(_)
    );
    Ok(client.close().await?)
}

/// Delete and purge return the number of removed messages.
pub async fn delete_and_purge_return_message_counts<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.filled_queue(&client, 5).await?;
    let held = client.basic_get(&queue).await?.ok_or("empty")?;
    assert_eq!(client.queue_purge(&queue).await?, 4);
    assert_eq!(client.queue_purge(&queue).await?, 0);
    held.reject(true)?;
    world.until_ready(&client, &queue, 1).await?;
    assert_eq!(client.queue_delete(&queue).await?, 1);
    assert_eq!(client.queue_delete(&queue).await?, 0);
    assert_error!(client.queue_purge(&queue).await, Error::NotFound(_));
    Ok(client.close().await?)
}

/// `if_unused` and `if_empty` make a delete conditional.
pub async fn delete_accepts_conditions<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.filled_queue(&client, 1).await?;
    assert_error!(
        client.queue_delete(&queue).if_empty(true).await,
        Error::PreconditionFailed(_)
    );
    let mut consumer = client.basic_consume(&queue).await?;
    consumer.next().await.ok_or("ended")??.ack()?;
    assert_error!(
        client.queue_delete(&queue).if_unused(true).await,
        Error::PreconditionFailed(_)
    );
    consumer.cancel().await?;
    assert_eq!(
        client
            .queue_delete(&queue)
            .if_unused(true)
            .if_empty(true)
            .await?,
        0
    );
    Ok(client.close().await?)
}

/// A missing queue is `NotFound`, with the broker's reply, and the client continues to work.
pub async fn missing_queue_is_not_found<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let name = world.name("missing");
    let error = client
        .queue_declare(&name)
        .passive(true)
        .await
        .err()
        .ok_or("the queue was found")?;
    assert!(matches!(error, Error::NotFound(_)), "{error:?}");
    let fault = error.fault().ok_or("the error has no fault")?;
    assert_eq!(
        (fault.code.value(), fault.found_by),
        (404, puka::Peer::Server)
    );
    assert_eq!((fault.method.class, fault.method.method), (50, 10));
    assert!(fault.text.contains(&name), "{error}");
    assert_error!(client.basic_get(&name).await, Error::NotFound(_));
    assert_eq!(
        client.queue_declare(&name).exclusive(true).await?.name,
        name
    );
    assert_eq!(
        client
            .queue_declare(&name)
            .passive(true)
            .await?
            .message_count,
        0
    );
    Ok(client.close().await?)
}

/// A declare with the same properties succeeds; one with others is `PreconditionFailed`.
pub async fn queue_is_declared_again_only_identically<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.name("again");
    let declare = || {
        client
            .queue_declare(&queue)
            .auto_delete(true)
            .argument("x-max-length", 10)
    };
    declare().await?;
    declare().await?;
    assert_error!(declare().durable(true).await, Error::PreconditionFailed(_));
    assert_error!(
        declare().argument("x-message-ttl", 1000).await,
        Error::PreconditionFailed(_)
    );
    declare().await?;
    client.queue_delete(&queue).await?;
    Ok(client.close().await?)
}

/// An exclusive queue is `ResourceLocked` for other connections, and is deleted with its own.
pub async fn exclusive_queue_is_locked_for_others<R: Runtime>(world: &World<R>) -> Outcome {
    let owner = world.client().await?;
    let other = world.client().await?;
    let queue = world.queue(&owner).await?;
    assert_error!(
        other.queue_declare(&queue).passive(true).await,
        Error::ResourceLocked(_)
    );
    assert_error!(
        other.queue_declare(&queue).exclusive(true).await,
        Error::ResourceLocked(_)
    );
    assert_error!(other.queue_purge(&queue).await, Error::ResourceLocked(_));
    assert_error!(other.queue_delete(&queue).await, Error::ResourceLocked(_));
    assert_error!(other.basic_get(&queue).await, Error::ResourceLocked(_));
    assert_error!(other.basic_consume(&queue).await, Error::ResourceLocked(_));
    other
        .basic_publish("", &queue, "anyone may")
        .mandatory(true)
        .await?;
    assert_eq!(world.ready(&owner, &queue).await?, 1);
    owner.close().await?;
    // RabbitMQ deletes it after it has noticed the close, and keeps it locked until then.
    while let Err(Error::ResourceLocked(_)) = other.queue_declare(&queue).exclusive(true).await {}
    assert_eq!(world.ready(&other, &queue).await?, 0);
    Ok(other.close().await?)
}

/// An auto-delete queue is deleted with its last consumer.
pub async fn e45_auto_delete_queue_ends_with_its_last_consumer<R: Runtime>(
    world: &World<R>,
) -> Outcome {
    let client = world.client().await?;
    let queue = world.name("auto");
    client.queue_declare(&queue).auto_delete(true).await?;
    let mut first = client.basic_consume(&queue).await?;
    let mut second = client.basic_consume(&queue).await?;
    first.cancel().await?;
    assert_eq!(
        client
            .queue_declare(&queue)
            .passive(true)
            .await?
            .consumer_count,
        1
    );
    second.cancel().await?;
    while client.queue_declare(&queue).passive(true).await.is_ok() {}
    assert_error!(
        client.queue_declare(&queue).passive(true).await,
        Error::NotFound(_)
    );
    Ok(client.close().await?)
}

/// Names with the prefix `amq.` are reserved for the broker.
pub async fn reserved_names_are_refused<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    assert_error!(
        client.queue_declare("amq.mine").await,
        Error::AccessRefused(_)
    );
    assert_error!(
        client.exchange_declare("amq.mine").await,
        Error::AccessRefused(_)
    );
    Ok(client.close().await?)
}

/// Values that cannot be encoded are refused before anything is sent.
pub async fn invalid_arguments_are_refused_locally<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let long = "n".repeat(256);
    assert_error!(
        client.queue_declare(&long).await,
        Error::InvalidArgument { what: "queue", .. }
    );
    assert_error!(
        client.queue_declare("q").argument(&long, 1).try_send(),
        Error::InvalidArgument {
            what: "arguments",
            ..
        }
    );
    assert_error!(
        client.queue_declare("q").argument("x", f64::NAN).await,
        Error::InvalidArgument { .. }
    );
    assert_error!(
        client.queue_bind("q", &long).send().await,
        Error::InvalidArgument {
            what: "exchange",
            ..
        }
    );
    let longest = &long[..255];
    client.queue_declare(longest).exclusive(true).await?;
    client.queue_delete(longest).await?;
    Ok(client.close().await?)
}

/// A full queue that drops its head keeps the newest messages.
pub async fn limited_queue_keeps_the_newest_messages<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.name("limited");
    client
        .queue_declare(&queue)
        .exclusive(true)
        .argument("x-max-length", 2)
        .await?;
    for body in ["1", "2", "3"] {
        client.basic_publish("", &queue, body).await?;
    }
    let oldest = client
        .basic_get(&queue)
        .no_ack(true)
        .await?
        .ok_or("empty")?;
    assert_eq!(
        (oldest.body(), oldest.message_count()),
        (&b"2"[..], Some(1))
    );
    Ok(client.close().await?)
}

/// Names may be any text.
pub async fn names_may_be_any_text<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.name("süß ☃ / ? # \u{7f}");
    assert_eq!(
        client.queue_declare(&queue).exclusive(true).await?.name,
        queue
    );
    client.basic_publish("", &queue, "").mandatory(true).await?;
    let got = client.basic_get(&queue).await?.ok_or("empty")?;
    assert_eq!(got.routing_key(), queue);
    got.ack()?;
    let error = client
        .basic_get(format!("{queue}ß"))
        .await
        .err()
        .ok_or("the queue was found")?;
    assert!(error.to_string().contains("süß ☃"), "{error}");
    Ok(client.close().await?)
}
