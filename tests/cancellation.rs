//! Cancel safety at every point where a future can be dropped. Each flow runs against the broker in
//! memory, over a stream that moves a few bytes at a time. It is dropped after its first `Pending`,
//! then after its second, and so on until it completes. Each time the client must continue as if
//! nothing had happened, and nothing may be left on either side.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed helper is a failed test"
)]

#[path = "cancellation/world.rs"]
mod world;

use futures_lite::future::yield_now;
use puka::{Client, Dial, Error, Notice, Options, Transport};
use puka_test_broker::{Config, Server};
use std::future::pending;
use std::io;
use std::net::SocketAddr;
#[cfg(unix)]
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use world::{
    DRIP, Dripping, Still, TURNS, World, at_every_pending, every_pending, narrow, poll_once,
};

#[test]
fn e38_publishes_are_cancel_safe() {
    every_pending("publish", async |client: Client| {
        client.basic_publish("", "q", "x").await
    });
    // These wait for nothing, but yield to other tasks.
    every_pending("publishes without a confirm", async |client: Client| {
        for _ in 0..6 {
            client
                .basic_publish("", "q", vec![7; 150_000])
                .confirm(false)
                .await?;
        }
        Ok(())
    });
    every_pending("mandatory publish", async |client: Client| {
        let outcome = client
            .basic_publish("", "nobody's", "x")
            .mandatory(true)
            .await;
        assert!(matches!(outcome, Err(Error::NoRoute(_))));
        Ok(())
    });
    every_pending("submit", async |client: Client| {
        client.basic_publish("x", "", "x").submit().await?.await
    });
    let pendings = every_pending("large publish", async |client: Client| {
        client.basic_publish("", "q", vec![7; 700]).await
    });
    assert!(pendings > 60, "{pendings}");
    every_pending("publish to a missing exchange", async |client: Client| {
        assert!(client.basic_publish("missing", "q", "x").await.is_err());
        Ok(())
    });
}

#[test]
fn requests_are_cancel_safe() {
    every_pending("declare and delete", async |client: Client| {
        client.queue_declare("d").durable(true).await?;
        client.queue_delete("d").await.map(drop)
    });
    every_pending("bind and unbind", async |client: Client| {
        client.queue_bind("q", "x").await?;
        client.queue_unbind("q", "x").await
    });
    every_pending("exchanges", async |client: Client| {
        client.exchange_declare("y").await?;
        client.exchange_bind("y", "x").await?;
        client.exchange_unbind("y", "x").await?;
        client.exchange_delete("y").await
    });
    every_pending("purge", async |client: Client| {
        client.queue_purge("q").await.map(drop)
    });
    every_pending("a request that fails", async |client: Client| {
        assert!(client.queue_declare("missing").passive(true).await.is_err());
        Ok(())
    });
    every_pending("many at once", async |client: Client| {
        let promises: Vec<_> = (0..5).map(|_| client.queue_declare("q").send()).collect();
        for promise in promises {
            promise.await?;
        }
        Ok(())
    });
}

#[test]
fn gets_and_consumers_are_cancel_safe() {
    every_pending("get", async |client: Client| {
        let got = client.basic_get("q").await?;
        got.map_or(Ok(()), |got| got.ack())
    });
    every_pending("a get that is not settled", async |client: Client| {
        client.basic_get("q").await.map(drop)
    });
    every_pending("consume", async |client: Client| {
        let mut consumer = client.basic_consume("q").prefetch_count(2).await?;
        for _ in 0..3 {
            consumer
                .next()
                .await
                .transpose()?
                .map_or(Ok(()), |delivery| delivery.ack())?;
        }
        consumer.cancel().await.map(drop)
    });
    every_pending("consume, and drop it", async |client: Client| {
        let mut consumer = client.basic_consume("q").await?;
        let _held = consumer.next().await;
        Ok(())
    });
    every_pending("consume several queues", async |client: Client| {
        client.queue_declare("r").await?;
        let mut consumer = client
            .basic_consume_multi(["q", "r"])
            .prefetch_count(1)
            .await?;
        let held = consumer.next().await.transpose()?;
        client.basic_qos(&consumer, 5).await?;
        held.map_or(Ok(()), |delivery| delivery.reject(true))?;
        consumer.recover().await?;
        client.basic_cancel(&consumer).await.map(drop)
    });
}

#[test]
fn calls_and_transactions_are_cancel_safe() {
    every_pending("transaction", async |client: Client| {
        let transaction = client.transaction().await?;
        transaction.basic_publish("", "q", "x").await?;
        if let Some(got) = transaction.basic_get("q").await? {
            got.ack()?;
        }
        transaction.commit().await.map(drop)
    });
    every_pending(
        "a transaction that is rolled back",
        async |client: Client| {
            let transaction = client.transaction().await?;
            transaction.basic_publish("", "q", "x").await?;
            transaction.rollback().await
        },
    );
    // A reply is awaited until its deadline, even without the promise.
    at_every_pending(
        "a call",
        narrow(),
        Duration::from_secs(31),
        async |client: Client| {
            let answers = async {
                loop {
                    let Some(asked) = client.basic_get("q").await? else {
                        continue;
                    };
                    let properties = asked.properties();
                    if let (Some(to), Some(which)) =
                        (properties.reply_to, properties.correlation_id)
                    {
                        let (to, which) = (to.to_string(), which.to_string());
                        client
                            .basic_publish("", to, "reply")
                            .correlation_id(&which)
                            .await?;
                    }
                    asked.ack()?;
                }
            };
            let call = async { client.rpc("", "q", "x").await.map(drop) };
            futures_lite::future::or(call, answers).await
        },
    );
}

#[test]
fn waiting_for_capacity_is_cancel_safe() {
    let narrow = || narrow().max_publishes_in_flight(1);
    at_every_pending(
        "room to publish",
        narrow(),
        Duration::ZERO,
        async |client: Client| {
            let first = client.basic_publish("", "q", "x").send();
            let second = client.basic_publish("", "q", "x").await;
            first.await.and(second)
        },
    );
    at_every_pending(
        "room to publish, for two",
        narrow(),
        Duration::ZERO,
        async |client: Client| {
            let first = client.basic_publish("", "q", "x").send();
            let waits = futures_lite::future::zip(
                client.basic_publish("", "q", "x").into_future(),
                client.basic_publish("x", "", "x").into_future(),
            );
            let (second, third) = waits.await;
            first.await.and(second).and(third)
        },
    );
}

#[test]
fn notices_and_update_secret_are_cancel_safe() {
    every_pending("notices", async |client: Client| {
        let mut notices = client.notices();
        let missing = client.queue_declare("missing").passive(true).send();
        assert!(matches!(
            notices.next().await,
            Some(Notice::ChannelClosed(_))
        ));
        assert!(missing.await.is_err());
        Ok(())
    });
    every_pending("update_secret", async |client: Client| {
        client.update_secret("new", "the old expires").await
    });
}

#[test]
fn waiting_for_the_connection_is_cancel_safe() {
    for last in 1.. {
        let mut world = World::new(narrow());
        let client = world.client.clone();
        let done = world.drop_at(last, async { client.connect().await.map(drop) });
        world.check(&format!("connect, dropped at its pending {last}"));
        if done {
            assert!(last > 20, "{last}");
            break;
        }
    }
}

#[test]
fn dropped_close_future_still_closes() {
    // Before the handshake, within it, and when the connection is open and busy.
    for turns in [0, 10, TURNS / 2] {
        for last in 1.. {
            let mut world = World::new(narrow());
            (0..turns).for_each(|_| world.turn(DRIP));
            let client = world.client.clone();
            let published = client.basic_publish("", "q", "x").send();
            let done = world.drop_at(last, async { client.close().await });
            world.settle();
            assert!(
                matches!(world.over, Some(Ok(()))),
                "{turns}, {last}: {:?}",
                world.over
            );
            assert_eq!(
                world.broker.with(|broker| broker.connections().len()),
                0,
                "{turns}, {last}"
            );
            let published = world.wait(published);
            assert!(published.is_ok(), "{turns}, {last}: {published:?}");
            if done {
                break;
            }
        }
    }
}

#[test]
fn driver_is_cancel_safe() {
    let mut outcomes = [0; 2];
    for turns in 0.. {
        let mut world = World::new(narrow());
        let client = world.client.clone();
        let promise = client.basic_publish("", "q", "x").send();
        (0..turns).for_each(|_| world.turn(DRIP));
        let World { broker, driver, .. } = world;
        drop(driver);
        assert_eq!(
            broker.with(|broker| broker.connections().len()),
            0,
            "{turns}"
        );
        let outcome =
            poll_once(pin!(promise)).unwrap_or_else(|| panic!("{turns}: the promise hangs"));
        outcomes[usize::from(outcome.is_ok())] += 1;
        if outcome.is_ok() {
            break;
        }
        assert!(client.why_closed().is_some(), "{turns}");
    }
    assert!(outcomes[0] > 20 && outcomes[1] == 1, "{outcomes:?}");
}

/// A slow broker at the second of two addresses.
struct Slow {
    broker: Server,
    allowed: Arc<AtomicUsize>,
}

impl Dial for Slow {
    async fn resolve(&self, _: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        yield_now().await;
        Ok(vec![
            ([10, 0, 0, 1], port).into(),
            ([10, 0, 0, 2], port).into(),
        ])
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<Transport> {
        yield_now().await;
        if address.ip().to_string() == "10.0.0.1" {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let stream = Dripping {
            stream: self.broker.connect(),
            allowed: self.allowed.clone(),
        };
        yield_now().await;
        Ok(Transport::new(stream))
    }

    #[cfg(unix)]
    async fn connect_unix(&self, _: &Path) -> io::Result<Transport> {
        pending().await
    }
}

#[test]
fn dialling_is_cancel_safe() {
    let broker = Server::new(Config::default());
    let net = Slow {
        broker: broker.clone(),
        allowed: Arc::default(),
    };
    let (clock, options) = (
        Still(Arc::new(Mutex::new(Instant::now()))),
        Options::default(),
    );
    let mut pendings = 0;
    for last in 1.. {
        let mut dialling = Box::pin(puka::dial(&net, &clock, &options));
        let dialled = (0..last).find_map(|_| poll_once(dialling.as_mut()));
        drop(dialling);
        assert_eq!(
            broker.with(|broker| broker.connections().len()),
            usize::from(dialled.is_some())
        );
        if dialled.is_some() {
            break;
        }
        pendings += 1;
    }
    assert_eq!(pendings, 4);
    assert_eq!(broker.with(|broker| broker.connections().len()), 0);
}

#[test]
fn dialling_driver_is_cancel_safe() {
    for turns in 0.. {
        let broker = Server::new(Config::default());
        let allowed = Arc::<AtomicUsize>::default();
        let net = Slow {
            broker: broker.clone(),
            allowed: allowed.clone(),
        };
        let clock = Still(Arc::new(Mutex::new(Instant::now())));
        let (client, driver) = puka::connect(net, clock, Options::default());
        let mut driver = Box::pin(driver);
        let promise = client.basic_publish("", "q", "x").send();
        for _ in 0..turns {
            allowed.store(DRIP, Ordering::Relaxed);
            assert!(poll_once(driver.as_mut()).is_none());
        }
        drop(driver);
        assert_eq!(
            broker.with(|broker| broker.connections().len()),
            0,
            "{turns}"
        );
        match poll_once(pin!(promise)).unwrap_or_else(|| panic!("{turns}: the promise hangs")) {
            Ok(_) => return assert!(turns > 20, "{turns}"),
            Err(_) => assert!(client.why_closed().is_some(), "{turns}"),
        }
    }
}

#[test]
fn s48_any_drop_order_leaves_nothing_at_the_broker() {
    // The client, a consumer, a delivery, a promise, a transaction and the notices, in all 720
    // orders.
    for order in 0..720 {
        let mut world = World::new(Options::default());
        world.prepare();
        let client = world.client.clone();
        let (consumer, delivery, transaction) = world
            .wait(async {
                let mut consumer = client.basic_consume("q").prefetch_count(2).await?;
                let delivery = consumer.next().await;
                Ok::<_, Error>((consumer, delivery, client.transaction().await?))
            })
            .unwrap();
        let (promise, notices) = (client.basic_publish("", "q", "x").send(), client.notices());
        world.client = client.clone();
        let World {
            broker,
            client: other,
            driver,
            allowed,
            ..
        } = world;
        let mut left: Vec<Box<dyn std::any::Any>> = vec![
            Box::new((client, other)),
            Box::new(consumer),
            Box::new(delivery),
            Box::new(promise),
            Box::new(transaction),
            Box::new(notices),
        ];
        let (mut driver, mut order) = (driver, order);
        let mut over = None;
        while !left.is_empty() {
            drop(left.remove(order % left.len()));
            order /= left.len() + 1;
            allowed.store(DRIP, Ordering::Relaxed);
            over = over.or_else(|| poll_once(Pin::new(&mut driver)));
        }
        for _ in 0..50 {
            allowed.store(usize::MAX >> 1, Ordering::Relaxed);
            over = over.or_else(|| poll_once(Pin::new(&mut driver)));
        }
        assert!(matches!(over, Some(Ok(()))), "{over:?}");
        drop(driver);
        assert_eq!(broker.with(|broker| broker.connections().len()), 0);
        let queue = broker.with(|broker| broker.queue("/", "q")).unwrap();
        assert_eq!(
            (queue.unacked, queue.consumers, queue.ready.len()),
            (0, 0, 4)
        );
    }
}
