//! Faults of a whole node.

use crate::stage::{alone, virtual_host};
use crate::{next, recovered};
use puka::{ConnectionState, Error, QueueType, Recovery};
use puka_test_rabbitmq::unique;
use puka_test_soak::{Fault, Load, Outcome, Stage, until};
use std::time::Duration;

/// Publishes and consumes during a fault and after it.
pub(super) async fn survives(stage: &Stage, faults: &[Fault]) -> Outcome {
    let vhost = virtual_host(stage, &unique("load")).await?;
    let load = Load::start(vhost, QueueType::Classic).await?;
    load.flows(200).await?;
    for fault in faults {
        let before = load.recoveries();
        fault.happen(stage).await?;
        if fault.kills() {
            load.ledger.excuse();
        }
        if fault.breaks() {
            load.recovers_from(&before)
                .await
                .map_err(|error| format!("{fault:?}: {error}"))?;
        }
        load.flows(100).await?;
    }
    let breaks = faults.iter().any(|fault| fault.breaks());
    if breaks {
        let client = load.clients().next().ok_or("no client")?;
        let first = load.fragile.first_name();
        assert_ne!(
            client.current_name(first),
            first,
            "the broker has named it anew"
        );
    }
    let account = load.ends().await?;
    assert!(
        account.confirmed > 200 && account.failed == 0,
        "{account:?}"
    );
    assert_eq!(
        account.errors.keys().collect::<Vec<_>>(),
        [""; 0],
        "{account:?}"
    );
    Ok(())
}

#[test]
fn s2_s33_node_restarted_under_load_loses_nothing() -> Outcome {
    alone(async |stage| survives(&stage, &[Fault::Kill]).await)
}

#[test]
fn s3_two_restarts_in_a_row_lose_nothing() -> Outcome {
    alone(async |stage| {
        let load = Load::start(stage.options()?, QueueType::Classic).await?;
        load.flows(100).await?;
        for _ in 0..2 {
            let before = load.recoveries();
            Fault::ShutDown.happen(&stage).await?;
            // The node goes down again as soon as a connection has recovered.
            until(Duration::from_secs(30), "one recovery", || {
                load.recoveries() != before
            })
            .await?;
        }
        load.opens().await?;
        load.flows(100).await?;
        let account = load.ends().await?;
        assert!(account.confirmed >= 200, "{account:?}");
        Ok(())
    })
}

#[test]
fn frozen_node_is_detected_by_heartbeats_and_reconnected() -> Outcome {
    alone(async |stage| survives(&stage, &[Fault::Freeze]).await)
}

#[test]
fn restarting_the_rabbit_application_loses_nothing() -> Outcome {
    alone(async |stage| survives(&stage, &[Fault::StopApp]).await)
}

#[test]
fn s1_connections_that_are_forced_to_close_recover() -> Outcome {
    alone(async |stage| survives(&stage, &[Fault::CloseAll, Fault::CloseAll]).await)
}

#[test]
fn memory_alarm_loses_neither_messages_nor_connections() -> Outcome {
    alone(async |stage| survives(&stage, &[Fault::Alarm, Fault::Alarm]).await)
}

#[test]
fn s7_listener_receives_alarms_and_returns_after_recovery() -> Outcome {
    alone(async |stage| {
        let client = puka_smol::connect_with(stage.options()?).await?;
        let mut notices = client.notices();
        stage.proxy.reset();
        recovered(&mut notices).await?;
        let outcome = async {
            stage.node(|node| node.set_memory_alarm(true)).await?;
            // RabbitMQ blocks a connection only at its next publish.
            let noticed = client
                .basic_publish("", "nowhere", "x")
                .mandatory(true)
                .send();
            crate::told(&mut notices, "alarm", |notice| {
                matches!(notice, puka::Notice::Blocked(_))
            })
            .await?;
            stage.node(|node| node.set_memory_alarm(false)).await?;
            crate::told(&mut notices, "end of it", |notice| {
                matches!(notice, puka::Notice::Unblocked)
            })
            .await?;
            let returned = noticed.await;
            assert!(matches!(returned, Err(Error::NoRoute(_))), "{returned:?}");
            Ok(client.close().await?)
        };
        let outcome = outcome.await;
        stage.node(|node| node.set_memory_alarm(false)).await?;
        outcome
    })
}

#[test]
fn stale_delivery_removes_nothing_after_a_restart() -> Outcome {
    alone(async |stage| {
        let client = puka_smol::connect_with(stage.options()?).await?;
        let queue = unique("held");
        client.queue_declare(&queue).durable(true).await?;
        // The next connection also begins with it, on the same channel and with the same tags.
        let mut consumer = client.basic_consume(&queue).prefetch_count(2).await?;
        for body in ["one", "two", "three"] {
            client
                .basic_publish("", &queue, body)
                .persistent(true)
                .await?;
        }
        let held = next(&mut consumer).await?;
        let got = client.basic_get(&queue).await?.ok_or("empty")?;
        let mut notices = client.notices();
        // RabbitMQ replies to a declare before the queue is on the disk. If it is killed at once,
        // it loses the queue one time in three.
        stage
            .node(|node| node.ctl(&["eval", "mnesia:sync_log()."]).map(drop))
            .await?;
        Fault::Kill.happen(&stage).await?;
        recovered(&mut notices).await?;
        // Their tags now belong to other deliveries.
        let first = next(&mut consumer).await?;
        assert_eq!((first.body(), first.redelivered()), (&b"one"[..], true));
        assert!(matches!(held.ack_multiple(), Err(Error::Stale)));
        assert!(matches!(got.reject(false), Err(Error::Stale)));
        first.ack()?;
        for body in ["two", "three"] {
            let delivery = next(&mut consumer).await?;
            assert_eq!(String::from_utf8_lossy(delivery.body()), body);
            delivery.ack()?;
        }
        assert_eq!(consumer.lost_deliveries(), 1);
        assert_eq!(client.queue_delete(&queue).await?, 0);
        Ok(client.close().await?)
    })
}

#[test]
fn s5_loss_is_reported_before_recovery_begins() -> Outcome {
    alone(async |stage| {
        let recovery =
            Recovery::default().backoff(Duration::from_millis(200), Duration::from_millis(200));
        let client = puka_smol::connect_with(stage.options()?.recovery(recovery)).await?;
        let mut notices = client.notices();
        stage
            .node(|node| node.close_all_connections("the cellar is flooded"))
            .await?;
        let lost = notices.next().await;
        match &lost {
            Some(puka::Notice::Disconnected(error @ Error::ConnectionForced(_))) => {
                assert!(
                    error.to_string().contains("the cellar is flooded"),
                    "{error}"
                );
            }
            _ => return Err(format!("{lost:?}").into()),
        }
        let next = notices.next().await;
        assert!(
            matches!(next, Some(puka::Notice::Retrying { attempt: 1, .. })),
            "{next:?}"
        );
        recovered(&mut notices).await?;
        assert!(matches!(client.state(), ConnectionState::Open));
        Ok(client.close().await?)
    })
}
