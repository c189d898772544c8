//! Messages: properties, headers and bodies of every kind arrive as they were sent, and invalid
//! ones are refused.

use crate::cases::assert_error;
use crate::connecting::SMALL_FRAME_MAX;
use crate::{Outcome, Runtime, World};
use puka::Error;
use puka::protocol::{Array, Properties, ShortStr, Table, Value};
use std::time::{Duration, SystemTime};

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

/// Setting all properties also replaces an invalid one.
pub async fn properties_replace_an_invalid_value<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.queue(&client).await?;
    let invalid = "x".repeat(256);
    let publish = client.basic_publish("", &queue, "x").app_id(&invalid);
    assert_error!(
        publish.clone().await,
        Error::InvalidArgument { what: "app_id", .. }
    );
    publish.properties(Properties::default()).await?;
    Ok(client.close().await?)
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
    assert_error!(
        publish().immediate(true).await,
        Error::InvalidArgument {
            what: "immediate",
            ..
        }
    );
    client
        .basic_publish("", &queue, vec![0; 1000])
        .user_id("guest")
        .mandatory(true)
        .await?;
    assert_eq!(world.ready(&client, &queue).await?, 1);
    Ok(client.close().await?)
}

/// Headers that do not fit into a frame are refused before anything is sent, and the next publish
/// succeeds.
pub async fn headers_larger_than_a_frame_are_refused<R: Runtime>(world: &World<R>) -> Outcome {
    let frame_max = SMALL_FRAME_MAX as usize;
    let client = world
        .client_with(|options| options.frame_max(SMALL_FRAME_MAX))
        .await?;
    let queue = world.queue(&client).await?;
    for size in frame_max - 86..frame_max - 16 {
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
        assert_eq!(
            fits(&plain),
            around + size <= frame_max,
            "{size}: {plain:?}"
        );
        fine.await?;
    }
    Ok(client.close().await?)
}
