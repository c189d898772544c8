//! Streams: positions within a stream, and filters.

use crate::{connect, next, publish, version, with_client};
use puka::{BasicConsume, Client, QueueType, StreamOffset};
use puka_test_rabbitmq::{Proxy, shared_node, unique};
use puka_test_soak::{Failure, Outcome};
use std::time::{Duration, SystemTime};

/// Declares a stream. Returns its name.
async fn stream(client: &Client) -> Result<String, Failure> {
    let declare = client.queue_declare(unique("stream")).durable(true);
    Ok(declare.queue_type(QueueType::Stream).await?.name)
}

/// Returns the bodies that a consumer receives, up to the body `end`.
async fn read_to_end(
    client: &Client,
    stream: &str,
    set: impl FnOnce(BasicConsume<'_>) -> BasicConsume<'_>,
) -> Result<Vec<String>, Failure> {
    let mut consumer = set(client.basic_consume(stream).prefetch_count(100)).await?;
    let mut bodies = Vec::new();
    while bodies.last().is_none_or(|last| last != "end") {
        let delivery = next(&mut consumer).await?;
        bodies.push(String::from_utf8(delivery.body().to_vec())?);
        delivery.ack()?;
    }
    Ok(bodies)
}

#[test]
fn stream_is_read_from_a_point_in_time() -> Outcome {
    with_client(async |client| {
        let stream = stream(client).await?;
        publish(client, &stream, "early").await?;
        // Positions are whole seconds, so the times need more than a second between them.
        smol::Timer::after(Duration::from_millis(1100)).await;
        let between = SystemTime::now();
        smol::Timer::after(Duration::from_millis(2100)).await;
        publish(client, &stream, "late").await?;
        publish(client, &stream, "end").await?;
        let read_from = async |offset: StreamOffset| {
            read_to_end(client, &stream, |it| it.stream_offset(offset)).await
        };
        let late = ["late", "end"];
        assert_eq!(read_from(StreamOffset::Timestamp(between)).await?, late);
        let ago = StreamOffset::Ago(between.elapsed()?);
        assert_eq!(read_from(ago).await?, late);
        let all = ["early", "late", "end"];
        let before = between - Duration::from_secs(60);
        assert_eq!(read_from(StreamOffset::Timestamp(before)).await?, all);
        assert_eq!(read_from(StreamOffset::Ago(before.elapsed()?)).await?, all);
        client.queue_delete(&stream).await?;
        Ok(())
    })
}

/// The messages of a filtered stream. The name of a color is its filter value.
const COLORS: [&str; 7] = ["red", "blue", "none", "red", "blue", "none", "end"];

/// Publishes messages with and without a filter value. Each is confirmed before the next, so each
/// has its own chunk, and chunks are filtered as a whole.
async fn fill(client: &Client, stream: &str) -> Outcome {
    for body in COLORS {
        let publish = client.basic_publish("", stream, body);
        match body {
            "none" => publish.await?,
            "end" => publish.stream_filter_value("red").await?,
            color => publish.stream_filter_value(color).await?,
        }
    }
    Ok(())
}

#[test]
fn stream_filter_skips_other_messages() -> Outcome {
    with_client(async |client| {
        let stream = stream(client).await?;
        fill(client, &stream).await?;
        let read = async |set: fn(BasicConsume<'_>) -> BasicConsume<'_>| {
            read_to_end(client, &stream, |it| {
                set(it.stream_offset(StreamOffset::First))
            })
            .await
        };
        let red = read(|it| it.stream_filter(&["red"])).await?;
        let either = read(|it| it.stream_filter(&["red", "blue"])).await?;
        let red_or_none = read(|it| it.stream_filter(&["red"]).stream_match_unfiltered(true));
        let red_or_none = red_or_none.await?;
        if version(client)? < (3, 13) {
            // The argument is ignored.
            assert_eq!([red, either, red_or_none], [COLORS; 3]);
        } else {
            assert_eq!(red, ["red", "red", "end"]);
            assert_eq!(either, ["red", "blue", "red", "blue", "end"]);
            assert_eq!(red_or_none, ["red", "none", "red", "none", "end"]);
        }
        client.queue_delete(&stream).await?;
        Ok(())
    })
}

#[test]
fn filtered_stream_continues_after_a_reconnect() -> Outcome {
    with_client(async |client| {
        if version(client)? < (3, 13) {
            // There are no filters.
            return Ok(());
        }
        let stream = stream(client).await?;
        fill(client, &stream).await?;
        let proxy = Proxy::start(shared_node()?.port())?;
        let reader = connect(&proxy.url()).await?;
        let consume = reader.basic_consume(&stream).prefetch_count(1);
        let consume = consume.stream_offset(StreamOffset::First);
        let mut consumer = consume.stream_filter(&["blue"]).await?;
        let first = next(&mut consumer).await?;
        assert_eq!(first.stream_offset(), Some(1));
        first.ack()?;
        proxy.reset();
        let second = next(&mut consumer).await?;
        assert_eq!(second.stream_offset(), Some(4));
        second.ack()?;
        reader.close().await?;
        client.queue_delete(&stream).await?;
        Ok(())
    })
}
