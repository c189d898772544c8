//! Exchanges, bindings and routing.

use crate::cases::assert_error;
use crate::{Outcome, Runtime, World};
use puka::protocol::Table;
use puka::{Client, Error};

/// Publishes under each key, and returns the keys of the messages in the queue, in order.
async fn arrive(
    client: &Client,
    exchange: &str,
    queue: &str,
    keys: &[&str],
) -> Result<Vec<String>, Error> {
    for key in keys {
        client.basic_publish(exchange, *key, "").await?;
    }
    let mut arrived = Vec::new();
    while let Some(message) = client.basic_get(queue).no_ack(true).await? {
        arrived.push(message.routing_key().into_owned());
    }
    Ok(arrived)
}

async fn exchange<R: Runtime>(
    world: &World<R>,
    client: &Client,
    kind: &str,
) -> Result<String, Error> {
    let name = world.name(kind);
    client.exchange_declare(&name).exchange_type(kind).await?;
    Ok(name)
}

/// A direct exchange routes to bindings with an equal key.
pub async fn direct_exchange_routes_by_the_key<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let (exchange, queue) = (
        exchange(world, &client, "direct").await?,
        world.queue(&client).await?,
    );
    client
        .queue_bind(&queue, &exchange)
        .routing_key("a")
        .await?;
    client
        .queue_bind(&queue, &exchange)
        .routing_key("b")
        .await?;
    client
        .queue_bind(&queue, &exchange)
        .routing_key("b")
        .await?;
    assert_eq!(
        arrive(&client, &exchange, &queue, &["a", "b", "c", ""]).await?,
        ["a", "b"]
    );
    client
        .queue_unbind(&queue, &exchange)
        .routing_key("a")
        .await?;
    client
        .queue_unbind(&queue, &exchange)
        .routing_key("never bound")
        .await?;
    assert_eq!(
        arrive(&client, &exchange, &queue, &["a", "b", "c"]).await?,
        ["b"]
    );
    Ok(client.close().await?)
}

/// A fanout exchange routes every message to every queue.
pub async fn fanout_exchange_routes_to_all<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let exchange = exchange(world, &client, "fanout").await?;
    let queues = [world.queue(&client).await?, world.queue(&client).await?];
    for queue in &queues {
        client.queue_bind(queue, &exchange).await?;
    }
    client
        .basic_publish(&exchange, "any", "to all")
        .mandatory(true)
        .await?;
    for queue in &queues {
        let message = client.basic_get(queue).no_ack(true).await?.ok_or("empty")?;
        assert_eq!(
            (message.body(), message.exchange()),
            (&b"to all"[..], exchange.as_str().into())
        );
    }
    Ok(client.close().await?)
}

/// In patterns of a topic exchange, `*` is one word and `#` any number of words.
pub async fn topic_exchange_routes_by_patterns<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let exchange = exchange(world, &client, "topic").await?;
    let keys = [
        "stock.usd.nyse",
        "stock.nyse",
        "stock",
        "usd.stock.nyse.x",
        "",
    ];
    for (pattern, expected) in [
        ("stock.*", vec!["stock.nyse"]),
        ("stock.#", vec!["stock.usd.nyse", "stock.nyse", "stock"]),
        ("#.nyse", vec!["stock.usd.nyse", "stock.nyse"]),
        ("*.*.*", vec!["stock.usd.nyse"]),
        ("#", keys.to_vec()),
    ] {
        let queue = world.queue(&client).await?;
        client
            .queue_bind(&queue, &exchange)
            .routing_key(pattern)
            .await?;
        assert_eq!(
            arrive(&client, &exchange, &queue, &keys).await?,
            expected,
            "{pattern}"
        );
        client.queue_delete(&queue).await?;
    }
    Ok(client.close().await?)
}

/// A headers exchange requires all headers of the binding, or any.
pub async fn headers_exchange_routes_by_headers<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let exchange = exchange(world, &client, "headers").await?;
    let (all, any) = (world.queue(&client).await?, world.queue(&client).await?);
    for (queue, how) in [(&all, "all"), (&any, "any")] {
        let bind = client.queue_bind(queue, &exchange).argument("x-match", how);
        bind.argument("colour", "red").argument("size", 5).await?;
    }
    let mut both = Table::new();
    both.insert("colour", "red")?;
    both.insert("size", 5)?;
    client
        .basic_publish(&exchange, "both", "")
        .headers(&both)
        .await?;
    client
        .basic_publish(&exchange, "one", "")
        .header("colour", "red")
        .header("size", 6)
        .await?;
    client
        .basic_publish(&exchange, "none", "")
        .header("colour", "blue")
        .await?;
    client.basic_publish(&exchange, "no headers", "").await?;
    assert_eq!(arrive(&client, &exchange, &all, &[]).await?, ["both"]);
    assert_eq!(
        arrive(&client, &exchange, &any, &[]).await?,
        ["both", "one"]
    );
    Ok(client.close().await?)
}

/// Messages that one exchange routes to another are routed on from there, until it is unbound.
pub async fn exchanges_are_bound_to_exchanges<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let source = exchange(world, &client, "topic").await?;
    let destination = exchange(world, &client, "fanout").await?;
    let queue = world.queue(&client).await?;
    client.queue_bind(&queue, &destination).await?;
    client
        .exchange_bind(&destination, &source)
        .routing_key("a.*")
        .await?;
    assert_eq!(
        arrive(&client, &source, &queue, &["a.b", "b.a"]).await?,
        ["a.b"]
    );
    client
        .exchange_unbind(&destination, &source)
        .routing_key("a.*")
        .await?;
    assert_eq!(
        arrive(&client, &source, &queue, &["a.b", "b.a"]).await?,
        [""; 0]
    );
    assert_error!(
        client
            .exchange_bind(&destination, world.name("missing"))
            .await,
        Error::NotFound(_)
    );
    Ok(client.close().await?)
}

/// Unroutable messages go to the alternate exchange, and are not returned.
pub async fn alternate_exchange_receives_unroutable_messages<R: Runtime>(
    world: &World<R>,
) -> Outcome {
    let client = world.client().await?;
    let alternate = exchange(world, &client, "fanout").await?;
    let name = world.name("main");
    client
        .exchange_declare(&name)
        .argument("alternate-exchange", &alternate)
        .await?;
    let queue = world.queue(&client).await?;
    assert_error!(
        client.basic_publish(&name, "x", "").mandatory(true).await,
        Error::NoRoute(_)
    );
    client.queue_bind(&queue, &alternate).await?;
    client.basic_publish(&name, "y", "").mandatory(true).await?;
    assert_eq!(arrive(&client, &name, &queue, &[]).await?, ["y"]);
    Ok(client.close().await?)
}

/// A missing exchange is `NotFound`, a declare with other properties `PreconditionFailed`, and the
/// client continues to work.
pub async fn exchange_is_declared_again_only_identically<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let name = world.name("again");
    assert_error!(
        client.exchange_declare(&name).passive(true).await,
        Error::NotFound(_)
    );
    client
        .exchange_declare(&name)
        .exchange_type("topic")
        .durable(true)
        .await?;
    client
        .exchange_declare(&name)
        .exchange_type("topic")
        .durable(true)
        .await?;
    client.exchange_declare(&name).passive(true).await?;
    assert_error!(
        client.exchange_declare(&name).exchange_type("topic").await,
        Error::PreconditionFailed(_)
    );
    assert_error!(
        client
            .exchange_declare(&name)
            .exchange_type("fanout")
            .durable(true)
            .await,
        Error::PreconditionFailed(_)
    );
    client.exchange_delete(&name).await?;
    Ok(client.close().await?)
}

/// A delete can be conditional on the absence of bindings. Deleting a missing exchange is not an
/// error; the default exchange cannot be deleted.
pub async fn exchanges_are_deleted<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let (exchange, queue) = (
        exchange(world, &client, "direct").await?,
        world.queue(&client).await?,
    );
    client.queue_bind(&queue, &exchange).await?;
    assert_error!(
        client.exchange_delete(&exchange).if_unused(true).await,
        Error::PreconditionFailed(_)
    );
    client.exchange_delete(&exchange).await?;
    client.exchange_delete(&exchange).await?;
    assert_error!(
        client.exchange_declare(&exchange).passive(true).await,
        Error::NotFound(_)
    );
    assert_error!(client.exchange_delete("").await, Error::AccessRefused(_));
    assert_error!(
        client.exchange_delete("amq.direct").await,
        Error::AccessRefused(_)
    );
    Ok(client.close().await?)
}

/// An auto-delete exchange is deleted with its last binding.
pub async fn auto_delete_exchange_ends_with_its_last_binding<R: Runtime>(
    world: &World<R>,
) -> Outcome {
    let client = world.client().await?;
    let (name, queue) = (world.name("auto"), world.queue(&client).await?);
    client.exchange_declare(&name).auto_delete(true).await?;
    client.queue_bind(&queue, &name).await?;
    client.exchange_declare(&name).passive(true).await?;
    client.queue_unbind(&queue, &name).await?;
    assert_error!(
        client.exchange_declare(&name).passive(true).await,
        Error::NotFound(_)
    );
    Ok(client.close().await?)
}

/// A binding of something missing is `NotFound`.
pub async fn binding_needs_both_ends<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let (exchange, queue) = (
        exchange(world, &client, "direct").await?,
        world.queue(&client).await?,
    );
    assert_error!(
        client.queue_bind(&queue, world.name("missing")).await,
        Error::NotFound(_)
    );
    assert_error!(
        client.queue_bind(world.name("missing"), &exchange).await,
        Error::NotFound(_)
    );
    assert_error!(client.queue_bind(&queue, "").await, Error::AccessRefused(_));
    client.queue_bind(&queue, &exchange).await?;
    Ok(client.close().await?)
}

/// An internal exchange accepts messages from other exchanges only.
pub async fn internal_exchange_refuses_publishes<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let name = world.name("internal");
    client
        .exchange_declare(&name)
        .exchange_type("fanout")
        .internal(true)
        .await?;
    assert_error!(
        client.basic_publish(&name, "", "").await,
        Error::AccessRefused(_)
    );
    let (source, queue) = (
        exchange(world, &client, "fanout").await?,
        world.queue(&client).await?,
    );
    client.exchange_bind(&name, &source).await?;
    client.queue_bind(&queue, &name).await?;
    assert_eq!(
        arrive(&client, &source, &queue, &["through"]).await?,
        ["through"]
    );
    Ok(client.close().await?)
}

/// A broker closes the connection if a declare has an unknown exchange type, or, since RabbitMQ
/// 3.13.3, refuses only the declare. The declare fails either way. A client that can reconnect
/// continues, and one with a single stream ends.
pub async fn unknown_type_is_an_error<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let declared = client
        .exchange_declare(world.name("odd"))
        .exchange_type("odd")
        .await;
    if let Err(Error::CommandInvalid(_)) = declared {
        if client.why_closed().is_none() {
            client.queue_declare("").exclusive(true).await?;
            return Ok(client.close().await?);
        }
        assert_error!(client.queue_declare("").await, Error::CommandInvalid(_));
        assert!(matches!(
            client.why_closed(),
            Some(Error::CommandInvalid(_))
        ));
        assert_error!(client.close().await, Error::CommandInvalid(_));
        return Ok(());
    }
    assert_error!(declared, Error::PreconditionFailed(_));
    Ok(client.close().await?)
}
