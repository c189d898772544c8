//! A real node that is killed, frozen, out of memory, or made to close connections, without
//! recovery: every promise completes in time.

use futures_lite::{FutureExt, future};
use puka::{Broken, Client, Ended, Error, Options};
use puka_test_rabbitmq::Node;
use std::future::Future;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// A timeout far longer than any case takes.
const DEADLINE: Duration = Duration::from_secs(60);

/// Runs a case, within [`DEADLINE`].
fn run(case: impl Future<Output = Outcome>) -> Outcome {
    smol::block_on(within(DEADLINE, case))?
}

async fn within<T>(
    limit: Duration,
    step: impl Future<Output = T>,
) -> Result<T, Box<dyn std::error::Error>> {
    let timeout = async {
        smol::Timer::after(limit).await;
        Err(format!("it takes longer than {limit:?}").into())
    };
    async { Ok(step.await) }.or(timeout).await
}

/// Runs slow `rabbitmqctl` requests without blocking the case.
async fn beside<T: Send + 'static>(
    node: &Arc<Node>,
    work: impl FnOnce(&Node) -> T + Send + 'static,
) -> T {
    let node = node.clone();
    smol::unblock(move || work(&node)).await
}

/// Checks that a promise fails because the transport was lost.
async fn broken<T: std::fmt::Debug>(
    what: &str,
    promise: impl Future<Output = Result<T, Error>>,
) -> Result<Error, Box<dyn std::error::Error>> {
    match within(Duration::from_secs(5), promise)
        .await
        .map_err(|error| format!("{what}: {error}"))?
    {
        Err(error) if error.is_connection_broken() => Ok(error),
        outcome => Err(format!("{what} resolved to {outcome:?}").into()),
    }
}

async fn connect(node: &Node, set: impl FnOnce(Options) -> Options) -> Result<Client, Error> {
    puka_smol::connect_with(set(Options::from_uri(&node.url())?.recovery(None))).await
}

#[test]
fn killed_node_ends_promises_of_every_kind() -> Outcome {
    let node = Node::start()?;
    run(async {
        let client = connect(&node, |options| options).await?;
        let closing = connect(&node, |options| options).await?;
        let queue = client.queue_declare("kill").await?.name;
        client.basic_publish("", &queue, "held").await?;
        let held = client.basic_get(&queue).await?.ok_or("empty")?;
        let mut consumer = client.basic_consume(&queue).await?;
        // A frozen node accepts bytes and does not reply.
        node.freeze()?;
        let publish = client.basic_publish("", &queue, "x").send();
        let mandatory = client
            .basic_publish("", "nowhere", "x")
            .mandatory(true)
            .send();
        let fresh = client.basic_publish("amq.fanout", "", "x").send();
        let large = client.basic_publish("", &queue, vec![0; 8 << 20]).send();
        let declare = client.queue_declare("more").send();
        let get = client.basic_get(&queue).send();
        let consume = client.basic_consume(&queue).send();
        let qos = client.basic_qos(&consumer, 7).send();
        let waiting = future::poll_once(consumer.next()).await;
        assert!(waiting.is_none(), "{waiting:?}");
        let under_way = closing.queue_declare("never").send();
        let close = closing.close();
        let start = Instant::now();
        node.kill();
        for (what, promise) in [
            ("publish", publish),
            ("mandatory", mandatory),
            ("fresh", fresh),
            ("large", large),
        ] {
            let error = broken(what, promise).await?;
            assert!(matches!(error, Error::Unconfirmed(_)), "{what}: {error:?}");
        }
        broken("declare", declare).await?;
        broken("get", get).await?;
        broken("consume", consume).await?;
        broken("qos", qos).await?;
        broken("close", close).await?;
        broken("under way while closing", under_way).await?;
        assert!(
            within(DEADLINE, consumer.next())
                .await?
                .is_none_or(|end| end.is_err())
        );
        assert!(matches!(consumer.ended(), Some(Ended::ConnectionBroken(_))));
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "{:?}",
            start.elapsed()
        );
        assert!(matches!(held.ack(), Err(Error::Stale)));
        assert!(client.why_closed().is_some());
        broken("late declare", client.queue_declare("late").send()).await?;
        Ok(())
    })
}

#[test]
fn killed_node_ends_a_waiting_consumer() -> Outcome {
    let node = Node::start()?;
    run(async {
        let client = connect(&node, |options| options).await?;
        let queue = client.queue_declare("").exclusive(true).await?.name;
        let mut consumer = client.basic_consume(&queue).await?;
        let (waits, waiting) = mpsc::channel();
        let task = smol::spawn(async move {
            let mut next = Box::pin(consumer.next());
            assert!(future::poll_once(&mut next).await.is_none());
            let _ = waits.send(());
            let end = next.await;
            (
                end.map(|end| end.map(drop)),
                matches!(consumer.ended(), Some(Ended::ConnectionBroken(_))),
            )
        });
        waiting.recv()?;
        node.kill();
        let (end, broken) = within(Duration::from_secs(5), task).await?;
        assert!(
            matches!(&end, Some(Err(error)) if error.is_connection_broken()),
            "{end:?}"
        );
        assert!(broken);
        Ok(())
    })
}

#[test]
fn memory_alarm_delays_publishes_only() -> Outcome {
    let node = Arc::new(Node::start()?);
    run(async {
        let client = connect(&node, |options| {
            options.request_timeout(Duration::from_secs(40))
        })
        .await?;
        let other = connect(&node, |options| options).await?;
        let queue = client.queue_declare("alarm").await?.name;
        for body in ["one", "two"] {
            client.basic_publish("", &queue, body).await?;
        }
        let got = client.basic_get(&queue).await?.ok_or("empty")?;
        beside(&node, |node| node.set_memory_alarm(true)).await?;

        // RabbitMQ blocks a connection at its next publish, which it does not process.
        let noticed = client.basic_publish("", &queue, "three").send();
        while client.blocked().is_none() {
            smol::Timer::after(Duration::from_millis(10)).await;
        }
        let reason = client.blocked().unwrap_or_default();
        assert!(reason.contains("memory"), "{reason}");
        let mut held: Vec<_> = (0..10)
            .map(|n| client.basic_publish("", &queue, n.to_string()).send())
            .collect();
        got.ack()?;
        let declare = client.queue_declare(&queue).passive(true).send();
        // A connection that does not publish continues.
        assert_eq!(other.queue_declare(&queue).passive(true).await?.name, queue);
        assert!(other.blocked().is_none());
        for publish in &mut held {
            assert!(future::poll_once(publish).await.is_none());
        }

        beside(&node, |node| node.set_memory_alarm(false)).await?;
        noticed.await?;
        for publish in held {
            publish.await?;
        }
        declare.await?;
        assert!(client.blocked().is_none());
        client.close().await?;
        // "one" was acknowledged.
        while other
            .queue_declare(&queue)
            .passive(true)
            .await?
            .message_count
            != 12
        {}
        Ok(other.close().await?)
    })
}

#[test]
fn close_during_a_memory_alarm_has_its_deadline() -> Outcome {
    let node = Arc::new(Node::start()?);
    run(async {
        let client = connect(&node, |options| {
            options.close_timeout(Duration::from_secs(2))
        })
        .await?;
        beside(&node, |node| node.set_memory_alarm(true)).await?;
        let publish = client.basic_publish("", "nowhere", "x").send();
        while client.blocked().is_none() {
            smol::Timer::after(Duration::from_millis(10)).await;
        }
        let held = client.basic_publish("", "nowhere", "y").send();
        let start = Instant::now();
        let closed = client.close().await;
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "{:?}",
            start.elapsed()
        );
        assert!(
            matches!(closed, Ok(()) | Err(Error::Timeout { .. })),
            "{closed:?}"
        );
        assert!(matches!(publish.await, Err(Error::Unconfirmed(_))));
        assert!(matches!(held.await, Err(Error::Closed)));
        Ok(())
    })
}

#[test]
fn forced_close_is_reported_with_its_text() -> Outcome {
    let node = Arc::new(Node::start()?);
    run(async {
        let client = connect(&node, |options| options).await?;
        let queue = client.queue_declare("").exclusive(true).await?.name;
        let mut consumer = client.basic_consume(&queue).await?;
        beside(&node, |node| {
            node.close_all_connections("the cellar is flooded")
        })
        .await?;
        let end = within(Duration::from_secs(5), consumer.next())
            .await?
            .ok_or("it ended without an error")?;
        let error = end.err().ok_or("a delivery")?;
        assert!(matches!(error, Error::ConnectionForced(_)), "{error:?}");
        assert!(
            error.to_string().contains("the cellar is flooded"),
            "{error}"
        );
        assert!(!error.is_connection_broken());
        let later = client.queue_declare("").await;
        assert!(
            matches!(&later, Err(Error::ConnectionForced(_))),
            "{later:?}"
        );
        assert!(matches!(
            client.close().await,
            Err(Error::ConnectionForced(_))
        ));
        Ok(())
    })
}

#[test]
fn node_shutdown_is_reported() -> Outcome {
    let node = Arc::new(Node::start()?);
    run(async {
        let client = connect(&node, |options| options).await?;
        let queue = client.queue_declare("").exclusive(true).await?.name;
        let mut consumer = client.basic_consume(&queue).await?;
        let down = beside(&node, Node::shut_down);
        let (down, end) = future::zip(down, consumer.next()).await;
        down?;
        let end = end.ok_or("it ended without an error")?;
        assert!(matches!(end, Err(Error::ConnectionForced(_))), "{end:?}");
        Ok(())
    })
}

#[test]
fn heartbeats_keep_idle_connections_and_detect_frozen_nodes() -> Outcome {
    let node = Node::start()?;
    run(async {
        let client = connect(&node, |options| options.heartbeat(1)).await?;
        let queue = client.queue_declare("").exclusive(true).await?.name;
        let mut consumer = client.basic_consume(&queue).await?;
        let idle = within(Duration::from_secs(4), consumer.next()).await;
        assert!(idle.is_err(), "the idle connection ended: {idle:?}");
        client
            .basic_publish("", &queue, "still there")
            .mandatory(true)
            .await?;
        consumer.next().await.ok_or("ended")??.ack()?;

        node.freeze()?;
        let start = Instant::now();
        let end = within(Duration::from_secs(10), consumer.next())
            .await?
            .ok_or("no error")?;
        let elapsed = start.elapsed();
        assert!(
            matches!(
                end,
                Err(Error::ConnectionBroken(Broken::HeartbeatMissed(_)))
            ),
            "{end:?}"
        );
        assert!(elapsed <= Duration::from_millis(2500), "{elapsed:?}");
        Ok(())
    })
}

#[test]
fn frozen_node_is_given_up_during_large_writes() -> Outcome {
    let node = Node::start()?;
    run(async {
        let client = connect(&node, |options| options.heartbeat(1)).await?;
        node.freeze()?;
        let start = Instant::now();
        let publish = client.basic_publish("", "nowhere", vec![0; 14 << 20]).await;
        assert!(
            matches!(&publish, Err(error) if error.is_connection_broken()),
            "{publish:?}"
        );
        assert!(
            start.elapsed() <= Duration::from_secs(4),
            "{:?}",
            start.elapsed()
        );
        Ok(())
    })
}

#[test]
fn requests_to_a_frozen_node_time_out() -> Outcome {
    let node = Node::start()?;
    run(async {
        let client = connect(&node, |options| {
            options.request_timeout(Duration::from_secs(1))
        })
        .await?;
        let queue = client.queue_declare("slow").await?.name;
        client.basic_publish("", &queue, "x").await?;
        node.freeze()?;
        let (declare, get) = (
            client.queue_declare(&queue).send(),
            client.basic_get(&queue).send(),
        );
        let publish = client.basic_publish("", &queue, "late").send();
        let (declare, get) = (declare.await, get.await);
        assert!(matches!(declare, Err(Error::Timeout { .. })), "{declare:?}");
        assert!(matches!(get, Err(Error::Timeout { .. })), "{get:?}");
        let unconfirmed = publish.await;
        assert!(
            matches!(&unconfirmed, Err(Error::Unconfirmed(cause))
                if matches!(**cause, Error::Timeout { .. })),
            "{unconfirmed:?}"
        );
        node.thaw()?;
        // Late replies are discarded: the message of the get is requeued, and the late publish has
        // arrived.
        while client
            .queue_declare(&queue)
            .await
            .is_ok_and(|queue| queue.message_count != 2)
        {}
        for _ in 0..2 {
            client.basic_get(&queue).await?.ok_or("empty")?.ack()?;
        }
        Ok(client.close().await?)
    })
}
