//! Opening a connection: the server's properties, its refusals, and the negotiated limits.

use crate::cases::assert_error;
use crate::{Outcome, Runtime, World};
use puka::{AuthMechanism, Error};

/// The smallest `frame_max` that every version of RabbitMQ accepts. The spec allows 4096, which
/// RabbitMQ refuses since 4.1.
pub(crate) const SMALL_FRAME_MAX: u32 = 8192;

/// `connect` returns the server's properties, any number of times.
pub async fn connect_returns_the_server_properties<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let server = client.connect().await?;
    let product = if world.in_memory().is_some() {
        "puka-test-broker"
    } else {
        "RabbitMQ"
    };
    assert_eq!(server.product(), product);
    assert!(server.version().split('.').count() >= 3, "{server:?}");
    assert!(server.has_capability("publisher_confirms") && !server.has_capability("telepathy"));
    assert_eq!(client.server_properties(), server);
    assert!(client.why_closed().is_none() && client.blocked().is_none());
    Ok(client.close().await?)
}

/// A message makes the whole way: declare, publish, consume, ack, close.
pub async fn message_is_published_and_consumed<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.queue(&client).await?;
    client
        .basic_publish("", &queue, "Hello world!")
        .persistent(true)
        .await?;
    let mut consumer = client.basic_consume(&queue).prefetch_count(10).await?;
    let delivery = consumer.next().await.ok_or("the consumer has ended")??;
    assert_eq!(delivery.body(), b"Hello world!");
    assert_eq!(
        (delivery.exchange(), delivery.routing_key()),
        ("".into(), queue.as_str().into())
    );
    assert!(!delivery.redelivered());
    delivery.ack()?;
    Ok(client.close().await?)
}

/// A wrong password is `AccessRefused`, and the error does not contain it.
pub async fn wrong_password_is_refused<R: Runtime>(world: &World<R>) -> Outcome {
    let refused = world
        .client_with(|options| options.credentials("guest", "opensesame"))
        .await;
    let error = refused.err().ok_or("the password was accepted")?;
    assert!(matches!(error, Error::AccessRefused(_)), "{error:?}");
    assert_eq!(error.fault().map(|fault| fault.code.value()), Some(403));
    assert!(!format!("{error} {error:?}").contains("opensesame"));
    Ok(())
}

/// An unknown virtual host is `NotAllowed`.
pub async fn unknown_virtual_host_is_not_allowed<R: Runtime>(world: &World<R>) -> Outcome {
    assert_error!(
        world.client_with(|options| options.virtual_host("nowhere")).await,
        Error::NotAllowed(fault) if fault.text.contains("nowhere")
    );
    Ok(())
}

/// AMQPLAIN works like PLAIN.
pub async fn either_mechanism_logs_in<R: Runtime>(world: &World<R>) -> Outcome {
    for mechanism in [AuthMechanism::Plain, AuthMechanism::Amqplain] {
        let client = world
            .client_with(|options| options.auth_mechanisms(&[mechanism]))
            .await?;
        client.close().await?;
    }
    Ok(())
}

/// Requests made before the handshake is complete are sent after it.
pub async fn requests_do_not_wait_for_the_handshake<R: Runtime>(world: &World<R>) -> Outcome {
    let (client, driver) = world.open(|options| options).await?;
    let queue = world.name("early");
    let declared = client.queue_declare(&queue).exclusive(true).send();
    let published = client.basic_publish("amq.fanout", "", "early").send();
    let returned = client
        .basic_publish("", world.name("nowhere"), "early")
        .mandatory(true)
        .send();
    let work = async {
        assert_eq!(declared.await?.name, queue);
        published.await?;
        assert_error!(returned.await, Error::NoRoute(_));
        client.close().await
    };
    futures_lite::future::try_zip(work, driver).await?;
    Ok(())
}

/// The smallest frames and four channels are enough for everything.
pub async fn small_frames_and_few_channels_are_enough<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world
        .client_with(|options| options.frame_max(SMALL_FRAME_MAX).channel_max(4))
        .await?;
    let names: Vec<_> = (0..100).map(|_| world.name("few")).collect();
    let declares: Vec<_> = names
        .iter()
        .map(|name| client.queue_declare(name).exclusive(true).send())
        .collect();
    for (declare, name) in declares.into_iter().zip(&names) {
        assert_eq!(&declare.await?.name, name);
    }
    let body: Vec<u8> = (0..100_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    client
        .basic_publish("", &names[0], &body)
        .mandatory(true)
        .await?;
    let delivery = client.basic_get(&names[0]).await?.ok_or("no message")?;
    assert!(delivery.body() == body);
    delivery.ack()?;
    Ok(client.close().await?)
}

/// A frame limit below AMQP's minimum is refused before anything is sent.
pub async fn frame_limit_below_the_minimum_is_refused<R: Runtime>(world: &World<R>) -> Outcome {
    assert_error!(
        world.client_with(|options| options.frame_max(4095)).await,
        Error::InvalidArgument {
            what: "frame_max",
            ..
        }
    );
    Ok(())
}

/// Limits of zero leave the choice to the server.
pub async fn limits_can_be_left_to_the_server<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world
        .client_with(|options| options.frame_max(0).channel_max(0).heartbeat(0))
        .await?;
    let queue = world.queue(&client).await?;
    let body = vec![7; 1 << 20];
    client
        .basic_publish("", &queue, &body)
        .mandatory(true)
        .await?;
    assert!(
        client
            .basic_get(&queue)
            .no_ack(true)
            .await?
            .ok_or("empty")?
            .body()
            == body
    );
    Ok(client.close().await?)
}

/// With a single channel, requests and publishes take turns.
pub async fn single_channel_is_enough<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client_with(|options| options.channel_max(1)).await?;
    let queue = world.queue(&client).await?;
    for _ in 0..3 {
        let publish = client.basic_publish("", &queue, "x").mandatory(true).send();
        let declare = client.queue_declare(&queue).passive(true).send();
        let other = client.basic_publish("amq.fanout", "", "x").send();
        publish.await?;
        declare.await?;
        other.await?;
    }
    let mut consumer = client.basic_consume(&queue).prefetch_count(3).await?;
    for _ in 0..3 {
        consumer.next().await.ok_or("ended")??.ack()?;
    }
    consumer.cancel().await?;
    assert_eq!(world.ready(&client, &queue).await?, 0);
    Ok(client.close().await?)
}
