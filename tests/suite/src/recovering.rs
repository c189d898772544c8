//! Lost connections and their recovery, for the adapter, which dials again.

use crate::cases::assert_error;
use crate::taking::next;
use crate::{Listening, Outcome, Runtime, World, ready_now};
use puka::{Broken, Client, ConnectionState, Ended, Error, Notice, Notices, Options, Recovery};
use puka_test_rabbitmq::Proxy;
use std::time::Duration;

/// The broker in memory, and a proxy that can disconnect it.
struct Remote {
    broker: Listening,
    proxy: Proxy,
}

impl Remote {
    fn start() -> Result<Self, Box<dyn std::error::Error>> {
        let broker = Listening::start()?;
        let proxy = Proxy::start(broker.address().port())?;
        Ok(Self { broker, proxy })
    }

    fn options(&self) -> Result<Options, Error> {
        Ok(Options::from_uri(&self.proxy.url())?.recovery(hasty()))
    }
}

fn hasty() -> Recovery {
    Recovery::default().backoff(Duration::from_millis(1), Duration::from_millis(20))
}

/// Returns a short name of the next notice.
async fn told(notices: &mut Notices) -> &'static str {
    match notices.next().await {
        Some(Notice::Disconnected(_)) => "disconnected",
        Some(Notice::Retrying { .. }) => "retrying",
        Some(Notice::Recovered(_)) => "recovered",
        Some(Notice::Closed(_)) => "closed",
        Some(_) => "another",
        None => "none",
    }
}

async fn lost(notices: &mut Notices) -> Outcome {
    assert_eq!(told(notices).await, "disconnected");
    Ok(())
}

/// After a recovery a consumer continues, and a pending publish is sent.
pub async fn consumer_and_pending_publish_survive_a_loss<R: Runtime>(_: &World<R>) -> Outcome {
    let remote = Remote::start()?;
    let client = R::connect(remote.options()?).await?;
    let queue = client.queue_declare("").exclusive(true).await?.name;
    let mut consumer = client.basic_consume(&queue).prefetch_count(1).await?;
    client.basic_publish("", &queue, "before").await?;
    let held = next(&mut consumer).await?;
    let mut notices = client.notices();
    remote.proxy.off();
    lost(&mut notices).await?;
    assert!(matches!(client.state(), ConnectionState::Recovering { .. }));
    let mut publish = client
        .basic_publish("", &queue, "after")
        .mandatory(true)
        .send();
    let mut declare = client.queue_declare("meanwhile").send();
    assert!(ready_now(&mut publish).await.is_none() && ready_now(&mut declare).await.is_none());
    remote.proxy.on();
    publish.await?;
    declare.await?;
    assert!(matches!(client.state(), ConnectionState::Open));
    assert_error!(held.ack(), Error::Stale);
    let delivery = next(&mut consumer).await?;
    assert_eq!(delivery.body(), b"after");
    delivery.ack()?;
    Ok(client.close().await?)
}

/// After a restart durable queues have their persistent messages, and unacknowledged ones are
/// delivered again.
pub async fn s2_client_recovers_after_a_broker_restart<R: Runtime>(_: &World<R>) -> Outcome {
    let remote = Remote::start()?;
    let client = R::connect(remote.options()?).await?;
    client.queue_declare("q").durable(true).await?;
    let mut consumer = client.basic_consume("q").prefetch_count(2).await?;
    for body in ["one", "two", "three"] {
        client.basic_publish("", "q", body).persistent(true).await?;
    }
    let held = next(&mut consumer).await?;
    let mut notices = client.notices();
    let server = &remote.broker.server;
    server.with(|broker| broker.restart(server.now()));
    while told(&mut notices).await != "recovered" {}
    assert_eq!(held.epoch(), 1);
    assert_error!(held.ack(), Error::Stale);
    for (body, redelivered) in [("one", true), ("two", true), ("three", false)] {
        let delivery = next(&mut consumer).await?;
        assert_eq!(delivery.epoch(), 2);
        assert_eq!(
            (
                String::from_utf8_lossy(delivery.body()),
                delivery.redelivered()
            ),
            (body.into(), redelivered)
        );
        delivery.ack()?;
    }
    assert_eq!(consumer.lost_deliveries(), 1);
    let counters = client.counters();
    assert_eq!(
        (
            counters.opened,
            counters.lost,
            counters.lost_deliveries,
            counters.stale
        ),
        (2, 1, 1, 1)
    );
    Ok(client.close().await?)
}

/// The notices report the loss, then the attempts, then the recovery.
pub async fn notices_report_loss_attempts_and_recovery<R: Runtime>(_: &World<R>) -> Outcome {
    let remote = Remote::start()?;
    let client = R::connect(remote.options()?).await?;
    let mut notices = client.notices();
    for _ in 0..3 {
        remote.proxy.off();
        lost(&mut notices).await?;
        for _ in 0..3 {
            assert_eq!(told(&mut notices).await, "retrying");
        }
        remote.proxy.on();
        let mut next = told(&mut notices).await;
        while next == "retrying" {
            next = told(&mut notices).await;
        }
        assert_eq!(next, "recovered");
    }
    client.close().await?;
    assert_eq!(told(&mut notices).await, "closed");
    assert_eq!(told(&mut notices).await, "none");
    Ok(())
}

/// Recovery can be switched off.
pub async fn loss_without_recovery_ends_everything<R: Runtime>(_: &World<R>) -> Outcome {
    let remote = Remote::start()?;
    let client = R::connect(remote.options()?.recovery(None)).await?;
    client.queue_declare("q").await?;
    let mut consumer = client.basic_consume("q").await?;
    let mut notices = client.notices();
    remote.proxy.reset();
    assert_error!(
        consumer.next().await.ok_or("no error")?,
        Error::ConnectionBroken(_)
    );
    assert!(matches!(consumer.ended(), Some(Ended::ConnectionBroken(_))));
    assert_error!(client.queue_declare("q").await, Error::ConnectionBroken(_));
    assert_eq!(told(&mut notices).await, "closed");
    assert_eq!(remote.proxy.accepted(), 1);
    Ok(())
}

/// A close takes precedence over a recovery, and nothing is recovered.
pub async fn s10_close_during_recovery_wins<R: Runtime>(_: &World<R>) -> Outcome {
    let remote = Remote::start()?;
    // The first delay of this seed is half of the longest, so the close comes before an attempt.
    let recovery = Recovery::default().seed(1 << 63);
    let client = R::connect(remote.options()?.recovery(recovery)).await?;
    client.queue_declare("q").await?;
    let mut consumer = client.basic_consume("q").await?;
    let mut notices = client.notices();
    remote.proxy.off();
    lost(&mut notices).await?;
    let waits = client.basic_publish("", "q", "x").send();
    assert_error!(client.close().await, Error::CloseIncomplete { pending: 1 });
    assert_error!(waits.await, Error::Closed);
    assert!(consumer.next().await.is_none());
    while told(&mut notices).await != "closed" {}
    remote.proxy.on();
    assert!(matches!(
        client.state(),
        ConnectionState::Closed(Error::Closed)
    ));
    assert_error!(client.queue_declare("q").await, Error::Closed);
    assert_error!(client.close().await, Error::CloseIncomplete { pending: 1 });
    Ok(())
}

/// When the limit of attempts is reached, everything pending completes with an error.
pub async fn s13_last_attempt_completes_everything_pending<R: Runtime>(_: &World<R>) -> Outcome {
    let remote = Remote::start()?;
    let client = R::connect(remote.options()?.recovery(hasty().max_attempts(3))).await?;
    client.queue_declare("q").await?;
    let mut consumer = client.basic_consume("q").await?;
    let mut notices = client.notices();
    remote.proxy.off();
    lost(&mut notices).await?;
    let publish = client.basic_publish("", "q", "x").send();
    let declare = client.queue_declare("r").send();
    assert!(
        publish
            .await
            .is_err_and(|error| error.is_connection_broken())
    );
    assert!(
        declare
            .await
            .is_err_and(|error| error.is_connection_broken())
    );
    assert_error!(
        consumer.next().await.ok_or("no error")?,
        Error::ConnectionBroken(_)
    );
    for notice in ["retrying", "retrying", "retrying", "closed"] {
        assert_eq!(told(&mut notices).await, notice);
    }
    Ok(())
}

/// When the last handle is dropped, the connection is not dialled again.
pub async fn dropping_the_client_ends_its_recovery<R: Runtime>(_: &World<R>) -> Outcome {
    let remote = Remote::start()?;
    let client: Client = R::connect(remote.options()?).await?;
    let mut notices = client.notices();
    remote.proxy.off();
    lost(&mut notices).await?;
    drop(client);
    while let Some(notice) = notices.next().await {
        if let Notice::Closed(error) = notice {
            assert!(matches!(error, Error::Closed), "{error:?}");
        }
    }
    Ok(())
}

/// The first connect is retried if that is enabled.
pub async fn s17_first_connect_can_wait_for_the_broker<R: Runtime>(_: &World<R>) -> Outcome {
    let remote = Remote::start()?;
    remote.proxy.off();
    assert_error!(
        R::connect(remote.options()?).await,
        Error::ConnectionBroken(Broken::Io(_) | Broken::Eof)
    );
    let (client, driver) = (
        R::connect(
            remote
                .options()?
                .recovery(hasty().retry_first_connect(true)),
        ),
        async {
            remote.proxy.on();
        },
    );
    let (client, ()) = futures_lite::future::zip(client, driver).await;
    Ok(client?.close().await?)
}
