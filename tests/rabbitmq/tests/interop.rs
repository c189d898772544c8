//! Interoperability: rabbitmq-c's tools and Python's pika exchange messages with puka on the same
//! node.

use puka::protocol::{Array, Properties, ShortStr, Table, Value};
use puka::{Client, Delivery, Error};
use puka_test_rabbitmq::{shared_url, unique};
use std::env;
use std::error::Error as StdError;
use std::future::Future;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

type Failure = Box<dyn StdError>;
type Outcome = Result<(), Failure>;

/// Runs a case with its own client and queue, which is deleted at the end.
fn run<F: Future<Output = Outcome>>(case: impl FnOnce(Client, String) -> F) -> Outcome {
    let url = shared_url()?;
    smol::block_on(async {
        let client = puka_smol::connect(&url).await?;
        // The queue is not exclusive, because the other clients have their own connections.
        let queue = client.queue_declare(unique("interop")).await?.name;
        let outcome = case(client.clone(), queue.clone()).await;
        client.queue_delete(&queue).await?;
        client.close().await?;
        outcome
    })
}

async fn get(client: &Client, queue: &str) -> Result<Delivery, Failure> {
    Ok(client.basic_get(queue).await?.ok_or("the queue is empty")?)
}

/// Runs a program with this input. Returns its output. The error of a missing program says what to
/// install.
fn output_of(command: &mut Command, package: &str, input: &[u8]) -> Result<Vec<u8>, Failure> {
    let program = command.get_program().to_string_lossy().into_owned();
    let spawned = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(format!("{program} is missing: install the package {package}").into());
        }
        Err(error) => return Err(error.into()),
    };
    let mut stdin = child.stdin.take().ok_or("no stdin")?;
    let output = std::thread::scope(|scope| {
        // A program may print before it has read all input. One that reads nothing breaks the pipe.
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output()
    })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let problem = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!("{program} failed ({}): {problem}", output.status).into())
}

/// Runs one of rabbitmq-c's tools.
fn tool(name: &str, arguments: &[&str], input: &[u8]) -> Result<Vec<u8>, Failure> {
    let url = shared_url()?;
    // The tool takes the path of the URI as the virtual host. Without a path, it uses the default
    // one.
    let url = url.trim_end_matches('/');
    output_of(
        Command::new(name)
            .arg(format!("--url={url}"))
            .args(arguments),
        "amqp-tools",
        input,
    )
}

/// Runs a Python script after `interop.py`, which opens a channel and defines the values.
fn pika(script: &str, queue: &str, input: &[u8]) -> Result<Vec<u8>, Failure> {
    const PRELUDE: &str = include_str!("interop.py");
    let chosen = env::var("PUKA_TEST_PYTHON").ok();
    let python = chosen
        .as_deref()
        .unwrap_or(if Path::new("/usr/bin/python3").exists() {
            "/usr/bin/python3"
        } else {
            "python3"
        });
    let script = format!("{PRELUDE}\n{script}\nconnection.close()\n");
    let mut command = Command::new(python);
    command.args(["-c", &script, &shared_url()?, queue]);
    output_of(&mut command, "python3-pika", input).map_err(|error| {
        let text = error.to_string();
        let missing = text.contains("No module named 'pika'");
        if missing {
            format!("{python} has no pika: install the package python3-pika").into()
        } else {
            error
        }
    })
}

/// Returns a body that contains every byte.
fn bytes(size: u32) -> Vec<u8> {
    (0..size)
        .map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3])
        .collect()
}

#[test]
fn amqp_publish_is_understood() -> Outcome {
    run(|client, queue| async move {
        let arguments = [
            "-r",
            &queue,
            "-C",
            "text/plain",
            "-E",
            "none",
            "-p",
            "-t",
            "answers",
            "-H",
            "colour: red",
        ];
        tool("amqp-publish", &arguments, b"from rabbitmq-c")?;
        tool("amqp-publish", &["-r", &queue, "-b", ""], b"")?;
        tool("amqp-publish", &["-r", &queue], &bytes(1_000_000))?;
        let first = get(&client, &queue).await?;
        assert_eq!(first.body(), b"from rabbitmq-c");
        let properties = first.properties();
        assert_eq!(
            properties.content_type.and_then(ShortStr::as_str),
            Some("text/plain")
        );
        assert_eq!(
            properties.content_encoding.and_then(ShortStr::as_str),
            Some("none")
        );
        assert_eq!(
            properties.reply_to.and_then(ShortStr::as_str),
            Some("answers")
        );
        assert_eq!(properties.delivery_mode, Some(2));
        let colour = first
            .headers()?
            .get("colour")
            .and_then(Value::as_str)
            .map(str::trim);
        assert_eq!(colour, Some("red"));
        first.ack()?;
        let empty = get(&client, &queue).await?;
        assert_eq!(empty.body(), b"");
        empty.ack()?;
        let large = get(&client, &queue).await?;
        assert!(large.body() == bytes(1_000_000));
        Ok(large.ack()?)
    })
}

#[test]
fn amqp_get_and_amqp_consume_understand() -> Outcome {
    run(|client, queue| async move {
        let mut headers = every_value()?;
        let nested = headers.clone();
        headers.insert("nested", &nested)?;
        let publish = |body: Vec<u8>| {
            client
                .basic_publish("", &queue, body)
                .headers(&headers)
                .priority(1)
        };
        publish(b"for rabbitmq-c".to_vec()).await?;
        assert_eq!(tool("amqp-get", &["-q", &queue], b"")?, b"for rabbitmq-c");
        publish(Vec::new()).await?;
        assert_eq!(tool("amqp-get", &["-q", &queue], b"")?, b"");
        publish(bytes(300_000)).await?;
        publish(b"second".to_vec()).await?;
        let expected = [bytes(300_000), b"second".to_vec()].concat();
        let consumed = tool("amqp-consume", &["-q", &queue, "-c", "2", "cat"], b"")?;
        assert!(consumed == expected, "{} bytes", consumed.len());
        assert_eq!(
            client
                .queue_declare(&queue)
                .passive(true)
                .await?
                .message_count,
            0
        );
        Ok(())
    })
}

/// Returns a table with every type of value, as `VALUES` in the script.
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
    table.insert("i32", -5)?;
    table.insert("u32", u32::MAX)?;
    table.insert("i64", 1_i64 << 40)?;
    table.insert("i64 min", i64::MIN)?;
    table.insert("f32", 1.5_f32)?;
    table.insert("f64", -2.25)?;
    table.insert(
        "decimal",
        Value::Decimal {
            scale: 2,
            mantissa: 31_415,
        },
    )?;
    table.insert("timestamp", Value::Timestamp(1_700_000_000))?;
    table.insert("string", "süß")?;
    table.insert("bytes", &[0_u8, 1, 255][..])?;
    table.insert("array", &array)?;
    table.insert("table", &inner)?;
    table.insert("void", ())?;
    Ok(table)
}

#[test]
fn pika_reads_every_header_property_and_body() -> Outcome {
    run(|client, queue| async move {
        let headers = every_value()?;
        let publish = client
            .basic_publish("", &queue, bytes(1000))
            .headers(&headers)
            .content_type("a/b");
        let publish = publish
            .content_encoding("gzip")
            .persistent(true)
            .priority(3)
            .correlation_id("c");
        let publish = publish
            .reply_to("r")
            .expiration(Duration::from_secs(60))
            .message_id("m")
            .user_id("guest");
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        publish
            .timestamp(time)
            .message_type("t")
            .app_id("ä")
            .cluster_id("k")
            .await?;
        client.basic_publish("", &queue, "").await?;
        client.basic_publish("", &queue, bytes(1 << 20)).await?;
        pika(
            r"
properties, body = get()
assert body == sample(1000), body
assert_values(properties.headers)
for name, value in PROPERTIES.items():
    assert getattr(properties, name) == value, (name, getattr(properties, name))
properties, body = get()
assert body == b'', body
assert properties.headers is None and properties.priority is None, properties
properties, body = get()
assert body == sample(1 << 20), len(body)
",
            &queue,
            b"",
        )?;
        Ok(())
    })
}

#[test]
fn messages_of_pika_are_read() -> Outcome {
    run(|client, queue| async move {
        pika(
            r"
channel.confirm_delivery()
publish(sample(1000), pika.BasicProperties(headers=VALUES, **PROPERTIES))
publish(b'', None)
publish(sample(1 << 20), pika.BasicProperties(headers={}))
",
            &queue,
            b"",
        )?;
        let mut consumer = client.basic_consume(&queue).prefetch_count(3).await?;
        let first = consumer.next().await.ok_or("ended")??;
        assert!(first.body() == bytes(1000));
        let expected = every_value()?;
        let headers = first.headers()?.to_table();
        for (name, value) in &expected {
            let name = name.to_str_lossy();
            assert_eq!(headers.get(&name), Some(value), "{name}");
        }
        assert_eq!(
            headers.iter().count(),
            expected.iter().count(),
            "{headers:?}"
        );
        let mut properties = first.properties();
        properties.headers = None;
        let mut expected = Properties::default();
        let text = |text| ShortStr::new(text).ok();
        (expected.content_type, expected.content_encoding) = (text("a/b"), text("gzip"));
        (expected.delivery_mode, expected.priority) = (Some(2), Some(3));
        (
            expected.correlation_id,
            expected.reply_to,
            expected.message_id,
        ) = (text("c"), text("r"), text("m"));
        (expected.expiration, expected.timestamp) = (text("60000"), Some(1_700_000_000));
        (expected.r#type, expected.user_id) = (text("t"), text("guest"));
        (expected.app_id, expected.cluster_id) = (text("ä"), text("k"));
        assert_eq!(properties, expected);
        first.ack()?;
        let second = consumer.next().await.ok_or("ended")??;
        assert_eq!(
            (second.body(), second.properties().headers),
            (&b""[..], None)
        );
        second.ack()?;
        let third = consumer.next().await.ok_or("ended")??;
        assert!(third.body() == bytes(1 << 20));
        assert!(third.headers()?.is_empty());
        Ok(third.ack()?)
    })
}

#[test]
fn pika_replies_to_our_request() -> Outcome {
    run(|client, queue| async move {
        let replies = client.queue_declare(unique("replies")).await?.name;
        let requests = (0..20).map(|n| {
            let number = n.to_string();
            client
                .basic_publish("", &queue, n.to_string())
                .reply_to(&replies)
                .correlation_id(&number)
                .send()
        });
        for request in requests.collect::<Vec<_>>() {
            request.await?;
        }
        pika(
            r"
channel.basic_qos(prefetch_count=5)
for method, properties, body in channel.consume(queue, inactivity_timeout=10):
    number = int(body)
    channel.basic_publish('', properties.reply_to, str(number * number).encode(),
        pika.BasicProperties(correlation_id=properties.correlation_id))
    channel.basic_ack(method.delivery_tag)
    if number == 19:
        break
channel.cancel()
",
            &queue,
            b"",
        )?;
        let mut consumer = client.basic_consume(&replies).prefetch_count(20).await?;
        for n in 0..20_u32 {
            let reply = consumer.next().await.ok_or("ended")??;
            assert_eq!(reply.body(), (n * n).to_string().as_bytes());
            assert_eq!(
                reply.properties().correlation_id.and_then(ShortStr::as_str),
                Some(n.to_string().as_str())
            );
            reply.ack()?;
        }
        client.queue_delete(&replies).await?;
        assert_eq!(
            client
                .queue_declare(&queue)
                .passive(true)
                .await?
                .message_count,
            0
        );
        Ok(())
    })
}
