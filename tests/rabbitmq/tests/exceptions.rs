//! Every exception that a real RabbitMQ can be made to raise: its variant, code, text and method.
//!
//! RabbitMQ does not use 311, 313 and 402. It sends 501, 502, 504, 505 and 506 only to a client
//! that violates the protocol, or if a node fails: a scripted server sends those in
//! `tests/machine/exceptions.rs`.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a failed helper is a failed test"
)]

use futures_lite::FutureExt;
use puka::{Client, Error, Options, QueueType};
use puka_test_rabbitmq::{Node, shared_url, unique};
use std::time::Duration;

type Failure = Box<dyn std::error::Error>;
type Outcome = Result<(), Failure>;

async fn connect() -> Result<Client, Failure> {
    Ok(puka_smol::connect_with(Options::from_uri(&shared_url()?)?.recovery(None)).await?)
}

/// Returns the code, text and method (`0.0` for none) of an error from the broker.
#[track_caller]
fn told<T: std::fmt::Debug>(
    outcome: Result<T, Error>,
    code: u16,
    method: &str,
    words: &str,
) -> Error {
    let error = outcome.expect_err("it is an error");
    let fault = error.fault().unwrap_or_else(|| panic!("{error:?}"));
    assert_eq!(
        (fault.code.value(), fault.method.to_string().as_str()),
        (code, method),
        "{error}"
    );
    assert!(fault.text.contains(words), "{error}");
    assert_eq!(fault.found_by, puka::Peer::Server);
    error
}

macro_rules! is {
    ($error:expr, $variant:ident) => {{
        let error = $error;
        assert!(matches!(error, Error::$variant(_)), "{error:?}");
    }};
}

#[test]
fn soft_errors_end_their_own_request() -> Outcome {
    smol::block_on(async {
        let (client, other) = (connect().await?, connect().await?);
        let queue = client
            .queue_declare(unique("soft"))
            .exclusive(true)
            .await?
            .name;
        let missing = unique("missing");

        is!(
            told(
                client.queue_declare("amq.mine").await,
                403,
                "queue.declare",
                "reserved prefix"
            ),
            AccessRefused
        );
        is!(
            told(
                client.exchange_declare("amq.mine").await,
                403,
                "exchange.declare",
                "reserved prefix"
            ),
            AccessRefused
        );
        is!(
            told(
                client.exchange_delete("amq.topic").await,
                403,
                "exchange.delete",
                "amq.topic"
            ),
            AccessRefused
        );
        is!(
            told(
                client.exchange_declare("").await,
                403,
                "exchange.declare",
                "default exchange"
            ),
            AccessRefused
        );
        is!(
            told(
                client.queue_bind(&queue, "").await,
                403,
                "queue.bind",
                "default exchange"
            ),
            AccessRefused
        );
        let exclusive = client.basic_consume(&queue).exclusive(true).await?;
        is!(
            told(
                client.basic_consume(&queue).await,
                403,
                "basic.consume",
                "exclusive use"
            ),
            AccessRefused
        );
        drop(exclusive);

        is!(
            told(
                client.queue_declare(&missing).passive(true).await,
                404,
                "queue.declare",
                &missing
            ),
            NotFound
        );
        is!(
            told(client.basic_get(&missing).await, 404, "basic.get", &missing),
            NotFound
        );
        is!(
            told(
                client.basic_consume(&missing).await,
                404,
                "basic.consume",
                &missing
            ),
            NotFound
        );
        is!(
            told(
                client.queue_purge(&missing).await,
                404,
                "queue.purge",
                &missing
            ),
            NotFound
        );
        is!(
            told(
                client.queue_bind(&missing, "amq.topic").await,
                404,
                "queue.bind",
                &missing
            ),
            NotFound
        );
        is!(
            told(
                client.exchange_declare(&missing).passive(true).await,
                404,
                "exchange.declare",
                &missing
            ),
            NotFound
        );
        is!(
            told(
                client.exchange_bind(&missing, "amq.topic").await,
                404,
                "exchange.bind",
                &missing
            ),
            NotFound
        );
        is!(
            told(
                client.basic_publish(&missing, "", "x").await,
                404,
                "basic.publish",
                &missing
            ),
            NotFound
        );

        is!(
            told(
                other.queue_declare(&queue).await,
                405,
                "queue.declare",
                &queue
            ),
            ResourceLocked
        );
        is!(
            told(other.basic_get(&queue).await, 405, "basic.get", &queue),
            ResourceLocked
        );
        is!(
            told(
                other.basic_consume(&queue).await,
                405,
                "basic.consume",
                &queue
            ),
            ResourceLocked
        );
        is!(
            told(
                other.queue_delete(&queue).await,
                405,
                "queue.delete",
                &queue
            ),
            ResourceLocked
        );
        is!(
            told(other.queue_purge(&queue).await, 405, "queue.purge", &queue),
            ResourceLocked
        );
        is!(
            told(
                other.queue_bind(&queue, "amq.topic").await,
                405,
                "queue.bind",
                &queue
            ),
            ResourceLocked
        );

        let longer = client
            .queue_declare(&queue)
            .exclusive(true)
            .max_length(5)
            .await;
        is!(
            told(longer, 406, "queue.declare", "x-max-length"),
            PreconditionFailed
        );
        let wrong = client
            .queue_declare(&missing)
            .argument("x-max-length", "five")
            .await;
        is!(
            told(wrong, 406, "queue.declare", "x-max-length"),
            PreconditionFailed
        );
        let durable = client
            .exchange_declare("amq.topic")
            .exchange_type("topic")
            .await;
        is!(
            told(durable, 406, "exchange.declare", "durable"),
            PreconditionFailed
        );
        client
            .basic_publish("", &queue, "x")
            .mandatory(true)
            .await?;
        is!(
            told(
                client.queue_delete(&queue).if_empty(true).await,
                406,
                "queue.delete",
                "not empty"
            ),
            PreconditionFailed
        );
        let no_ack = client.basic_consume("amq.rabbitmq.reply-to").await;
        is!(
            told(no_ack, 406, "basic.consume", "reply"),
            PreconditionFailed
        );

        match client
            .basic_publish("amq.topic", &missing, "back")
            .mandatory(true)
            .await
        {
            Err(Error::NoRoute(returned)) => {
                assert_eq!(
                    (returned.reply_code.value(), &*returned.reply_text),
                    (312, "NO_ROUTE")
                );
                assert_eq!(
                    (returned.message.body(), returned.message.exchange()),
                    (&b"back"[..], "amq.topic".into())
                );
            }
            other => return Err(format!("{other:?}").into()),
        }
        assert!(
            client.why_closed().is_none() && other.why_closed().is_none(),
            "other requests are affected"
        );
        client.close().await?;
        Ok(other.close().await?)
    })
}

/// Sends a request on its own connection, which the reply ends.
async fn ends<T: std::fmt::Debug>(
    code: u16,
    method: &str,
    words: &str,
    request: impl AsyncFnOnce(&Client) -> Result<T, Error>,
) -> Result<Error, Failure> {
    let client = connect().await?;
    let error = told(request(&client).await, code, method, words);
    let why = client.why_closed().ok_or("the connection lives")?;
    assert_eq!(why.fault(), error.fault());
    assert_eq!(
        client.close().await.map_err(|error| error.to_string()),
        Err(error.to_string())
    );
    Ok(error)
}

#[test]
fn hard_errors_end_the_connection() -> Outcome {
    smol::block_on(async {
        let stream = unique("stream");
        let client = connect().await?;
        client
            .queue_declare(&stream)
            .durable(true)
            .queue_type(QueueType::Stream)
            .await?;

        let get = async |client: &Client| client.basic_get(&stream).await;
        is!(ends(540, "basic.get", "stream", get).await?, NotImplemented);

        // Before 3.13, an unknown type of exchange ended the connection.
        let unknown = client
            .exchange_declare(unique("round"))
            .exchange_type("x-round")
            .await;
        let error = unknown.expect_err("an unknown type must be refused");
        assert!(
            matches!(
                error,
                Error::CommandInvalid(_) | Error::PreconditionFailed(_)
            ),
            "{error:?}"
        );
        assert!(error.to_string().contains("x-round"), "{error}");

        let options = Options::from_uri(&shared_url()?)?.virtual_host("nowhere at all");
        let refused = puka_smol::connect_with(options).await.map(drop);
        is!(
            told(refused, 530, "connection.open", "nowhere at all"),
            NotAllowed
        );

        // A server-named queue of an unknown type: 3.10 crashes, later versions refuse it.
        let trips = connect()
            .await?
            .queue_declare("")
            .durable(true)
            .argument("x-queue-type", "round")
            .await;
        assert!(
            matches!(
                trips,
                Err(Error::InternalError(_) | Error::PreconditionFailed(_))
            ),
            "{trips:?}"
        );

        let client = connect().await?;
        client.queue_delete(&stream).await?;
        Ok(client.close().await?)
    })
}

#[test]
fn operator_actions_end_exactly_the_affected_requests() -> Outcome {
    let node = Node::start()?;
    node.add_vhost("deleted")?;
    node.add_vhost("narrow")?;
    node.ctl(&[
        "set_vhost_limits",
        "--vhost",
        "narrow",
        r#"{"max-connections": 1, "max-queues": 1}"#,
    ])?;
    node.add_user("short-lived", "secret")?;
    node.set_permissions("/", "short-lived", "^own", "^own", "^own")?;
    let connect = async |vhost: &str, user: Option<&str>| {
        let options = Options::from_uri(&node.url())?
            .virtual_host(vhost)
            .recovery(None);
        let options = match user {
            Some(user) => options.credentials(user, "secret"),
            None => options,
        };
        puka_smol::connect_with(options).await
    };
    smol::block_on(async {
        let [deleted_vhost, narrow] = [
            connect("deleted", None).await?,
            connect("narrow", None).await?,
        ];
        let user = connect("/", Some("short-lived")).await?;
        let bystander = connect("/", None).await?;

        let second = connect("narrow", None).await.map(drop);
        is!(told(second, 530, "connection.open", "limit"), NotAllowed);
        narrow.queue_declare("one").await?;
        is!(
            told(
                narrow.queue_declare("two").await,
                406,
                "queue.declare",
                "limit"
            ),
            PreconditionFailed
        );

        is!(
            told(
                user.queue_declare("other").await,
                403,
                "queue.declare",
                "other"
            ),
            AccessRefused
        );
        is!(
            told(
                user.basic_publish("amq.topic", "", "x").await,
                403,
                "basic.publish",
                "amq.topic"
            ),
            AccessRefused
        );
        user.queue_declare("own").exclusive(true).await?;
        is!(
            told(
                user.queue_bind("own", "amq.topic").await,
                403,
                "queue.bind",
                "amq.topic"
            ),
            AccessRefused
        );
        let mut consumer = user.basic_consume("own").await?;
        node.clear_permissions("/", "short-lived")?;
        let refused = user.queue_declare("own2").await;
        is!(told(refused, 403, "queue.declare", "own2"), AccessRefused);

        node.delete_user("short-lived")?;
        let late = async {
            smol::Timer::after(Duration::from_secs(60)).await;
            None
        };
        let end = consumer
            .next()
            .or(late)
            .await
            .ok_or("it ended without an error, or not at all")?;
        is!(told(end, 320, "0.0", "short-lived"), ConnectionForced);
        let again = connect("/", Some("short-lived")).await.map(drop);
        is!(told(again, 403, "0.0", "ACCESS_REFUSED"), AccessRefused);

        node.delete_vhost("deleted")?;
        while deleted_vhost.why_closed().is_none() {
            smol::Timer::after(Duration::from_millis(10)).await;
        }
        // RabbitMQ resets the transport directly after its `close`, so the client may be unable to
        // read it.
        let error = deleted_vhost
            .queue_declare("x")
            .await
            .expect_err("a deleted virtual host must close the connection");
        let said = error
            .fault()
            .is_some_and(|fault| fault.code.value() == 320 && fault.text.contains("deleted"));
        assert!(said || error.is_connection_broken(), "{error:?}");
        is!(
            told(
                connect("deleted", None).await.map(drop),
                530,
                "connection.open",
                "deleted"
            ),
            NotAllowed
        );

        bystander.queue_declare("").exclusive(true).await?;
        bystander.close().await?;
        Ok(narrow.close().await?)
    })
}
