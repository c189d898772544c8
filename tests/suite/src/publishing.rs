//! Publishing: every publish has its own outcome, and a message arrives as it was sent.

use crate::cases::assert_error;
use crate::{Outcome, Runtime, World};
use puka::protocol::{Array, Properties, ShortStr, Table, Value};
use puka::{Error, Notice, Returned};
use std::time::{Duration, SystemTime};

/// A missing exchange fails only the publishes to it, and leaks no channel.
pub async fn a_missing_exchange_fails_only_its_own_publishes<R: Runtime>(
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

/// Every property arrives as it was sent, and those that were not set are absent.
pub async fn every_property_arrives<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.queue(&client).await?;
    let second = Duration::from_secs(1_700_000_000);
    let publish = client
        .basic_publish("", &queue, "all")
        .content_type("a/b")
        .content_encoding("gzip");
    let publish = publish
        .persistent(false)
        .priority(7)
        .correlation_id("c")
        .reply_to("r")
        .message_id("m");
    let publish = publish
        .expiration(Duration::from_secs(60))
        .timestamp(SystemTime::UNIX_EPOCH + second);
    let publish = publish
        .message_type("t")
        .user_id("guest")
        .app_id("ä")
        .cluster_id("")
        .header("h", true);
    publish.await?;
    client.basic_publish("", &queue, "none").await?;

    let all = client
        .basic_get(&queue)
        .no_ack(true)
        .await?
        .ok_or("empty")?;
    let mut headers = Table::new();
    headers.insert("h", true)?;
    let text = |text| ShortStr::new(text).ok();
    let mut expected = Properties::default();
    (expected.content_type, expected.content_encoding) = (text("a/b"), text("gzip"));
    (expected.delivery_mode, expected.priority) = (Some(1), Some(7));
    (
        expected.correlation_id,
        expected.reply_to,
        expected.message_id,
    ) = (text("c"), text("r"), text("m"));
    (expected.expiration, expected.timestamp) = (text("60000"), Some(second.as_secs()));
    (expected.r#type, expected.user_id, expected.app_id) = (text("t"), text("guest"), text("ä"));
    (expected.cluster_id, expected.headers) = (text(""), Some(headers.as_ref().into()));
    assert_eq!(all.properties(), expected);
    let none = client
        .basic_get(&queue)
        .no_ack(true)
        .await?
        .ok_or("empty")?;
    assert_eq!(none.properties(), Properties::default());
    // The properties of one message can be used for another.
    client
        .basic_publish("", &queue, "again")
        .properties(all.properties())
        .await?;
    let again = client
        .basic_get(&queue)
        .no_ack(true)
        .await?
        .ok_or("empty")?;
    assert_eq!(again.properties(), expected);
    Ok(client.close().await?)
}

/// Returns a table with every type of value, alone and nested.
fn every_value() -> Result<Table, Error> {
    let mut inner = Table::new();
    inner.insert("deep", "value")?;
    let mut array = Array::new();
    for value in [
        Value::I32(-1),
        Value::String(b"two"),
        Value::Void,
        Value::Table(inner.as_ref()),
    ] {
        array.push(value)?;
    }
    let mut table = Table::new();
    table.insert("bool", true)?;
    table.insert("i8", i8::MIN)?;
    table.insert("u8", u8::MAX)?;
    table.insert("i16", i16::MIN)?;
    table.insert("u16", u16::MAX)?;
    table.insert("i32", i32::MIN)?;
    table.insert("u32", u32::MAX)?;
    table.insert("i64", i64::MIN)?;
    table.insert("f32", 1.5_f32)?;
    table.insert("f64", -2.25_f64)?;
    table.insert(
        "decimal",
        Value::Decimal {
            scale: 2,
            mantissa: 31_415,
        },
    )?;
    table.insert("timestamp", Value::Timestamp(1_700_000_000))?;
    table.insert("string", "süß")?;
    table.insert("not UTF-8", Value::String(&[0xFF, 0, 0xFE]))?;
    table.insert("bytes", &[0_u8, 1, 255][..])?;
    table.insert("array", &array)?;
    table.insert("table", &inner)?;
    table.insert("void", ())?;
    table.insert("", "the name is empty")?;
    Ok(table)
}

/// Headers of every type arrive as they were sent, alone and nested.
pub async fn headers_of_every_type_arrive<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.queue(&client).await?;
    let mut headers = every_value()?;
    let flat = headers.clone();
    headers.insert("nested", &flat)?;
    client
        .basic_publish("", &queue, "")
        .headers(&headers)
        .await?;
    let arrived = client
        .basic_get(&queue)
        .no_ack(true)
        .await?
        .ok_or("empty")?;
    assert_eq!(arrived.headers()?.to_table(), headers);
    Ok(client.close().await?)
}

/// Bodies of every size arrive: empty, one frame, one byte more, many frames.
pub async fn s50_bodies_of_every_size_arrive<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.queue(&client).await?;
    let frame_max = 131_072;
    for size in [0, 1, frame_max - 8, frame_max - 7, 1 << 20, 16 << 20] {
        let body: Vec<u8> = (0..size as u32)
            .map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3])
            .collect();
        client
            .basic_publish("", &queue, body.clone())
            .mandatory(true)
            .await?;
        let arrived = client.basic_get(&queue).await?.ok_or("empty")?;
        assert_eq!(arrived.body().len(), size);
        assert!(arrived.body() == body, "a body of {size} bytes has changed");
        arrived.ack()?;
        client.basic_publish("", &queue, &body).await?;
        let arrived = client
            .basic_get(&queue)
            .no_ack(true)
            .await?
            .ok_or("empty")?;
        assert!(
            arrived.message().body_bytes() == body,
            "a body of {size} bytes has changed"
        );
    }
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

/// Messages for which the broker would close a channel are refused before they are sent.
pub async fn invalid_messages_are_refused_locally<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world
        .client_with(|options| options.max_message_size(1000))
        .await?;
    let queue = world.queue(&client).await?;
    let publish = || client.basic_publish("", &queue, "x");
    assert_error!(
        publish().user_id("somebody").await,
        Error::InvalidArgument {
            what: "user_id",
            ..
        }
    );
    assert_error!(
        publish().reply_to("amq.rabbitmq.reply-to").await,
        Error::InvalidArgument {
            what: "reply_to",
            ..
        }
    );
    assert_error!(
        publish().header("CC", "not an array").await,
        Error::InvalidArgument {
            what: "headers",
            ..
        }
    );
    assert_error!(
        publish().header("x", f32::INFINITY).await,
        Error::InvalidArgument {
            what: "headers",
            ..
        }
    );
    assert_error!(
        publish().app_id(&"a".repeat(256)).await,
        Error::InvalidArgument { what: "app_id", .. }
    );
    let mut properties = Properties::default();
    properties.expiration = ShortStr::new("soon").ok();
    assert_error!(
        publish().properties(properties).await,
        Error::InvalidArgument {
            what: "expiration",
            ..
        }
    );
    assert_error!(
        client.basic_publish("", &queue, vec![0; 1001]).try_send(),
        Error::InvalidArgument { what: "body", .. }
    );
    if world.in_memory().is_none() {
        assert_error!(
            publish().immediate(true).await,
            Error::InvalidArgument {
                what: "immediate",
                ..
            }
        );
    }
    client
        .basic_publish("", &queue, vec![0; 1000])
        .user_id("guest")
        .mandatory(true)
        .await?;
    assert_eq!(world.ready(&client, &queue).await?, 1);
    Ok(client.close().await?)
}

/// A foreign `user_id` that is allowed by the options is refused by the broker, and fails one
/// publish.
pub async fn a_foreign_user_id_fails_its_own_publish<R: Runtime>(world: &World<R>) -> Outcome {
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
pub async fn the_order_of_publishes_is_kept<R: Runtime>(world: &World<R>) -> Outcome {
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
pub async fn a_message_expires<R: Runtime>(world: &World<R>) -> Outcome {
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

/// Headers that do not fit into a frame are refused before anything is sent, and the next publish
/// succeeds.
pub async fn headers_larger_than_a_frame_are_refused<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client_with(|options| options.frame_max(4096)).await?;
    let queue = world.queue(&client).await?;
    for size in 4010..4080 {
        let text = "h".repeat(size);
        let publish = || client.basic_publish("", &queue, "x").header("h", &text);
        let (plain, mandatory) = (publish().send(), publish().mandatory(true).send());
        let fine = client
            .basic_publish("", &queue, "fine")
            .mandatory(true)
            .send();
        let (plain, mandatory) = (plain.await, mandatory.await);
        // The internal header of a mandatory publish takes space, too.
        let fits = |outcome: &Result<(), Error>| {
            assert!(
                matches!(outcome, Ok(()) | Err(Error::InvalidArgument { .. })),
                "{size}: {outcome:?}"
            );
            outcome.is_ok()
        };
        assert!(fits(&plain) || !fits(&mandatory), "{size}");
        // The other bytes of the frame: its header and end, class, weight and size, flags, the
        // length of the table, name, tag, length.
        let around = 8 + 12 + 2 + 4 + 2 + 1 + 4;
        assert_eq!(fits(&plain), around + size <= 4096, "{size}: {plain:?}");
        fine.await?;
    }
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
