//! The entities that are restored with a connection.

use crate::stage::{alone, beside};
use crate::{next, recovered, told};
use puka::{Endpoint, Error, Notice, Recovery};
use puka_test_rabbitmq::{Proxy, Rate, unique};
use puka_test_soak::{Fault, Fragile, Outcome};
use smol::Timer;
use std::time::Duration;

#[test]
fn s18_s19_s24_queues_and_bindings_of_every_kind_are_restored() -> Outcome {
    alone(async |stage| {
        let client = puka_smol::connect_with(stage.options()?).await?;
        let mut notices = client.notices();
        let mut fragile = Fragile::set_up(&client).await?;
        fragile.check().await?;
        let mut names = vec![fragile.first_name().to_owned()];
        for fault in [Fault::Reset, Fault::Kill] {
            fault.happen(&stage).await?;
            let told = told(&mut notices, "recovery", |notice| {
                matches!(notice, Notice::Recovered(_))
            })
            .await?;
            let Notice::Recovered(report) = told else {
                return Err("no report".into());
            };
            assert!(report.failed.is_empty(), "{report:?}");
            // Two exchanges, two queues and three bindings.
            assert_eq!((report.entities, report.consumers), (7, 2), "{report:?}");
            fragile.check().await?;
            names.push(client.current_name(fragile.first_name()));
        }
        names.dedup();
        assert_eq!(names.len(), 3, "the broker names its queue anew: {names:?}");
        Ok(client.close().await?)
    })
}

#[test]
fn s25_dead_letters_reach_the_renamed_queue() -> Outcome {
    beside(async |stage| {
        let client = puka_smol::connect_with(stage.options()?).await?;
        let mut notices = client.notices();
        let dead = client.queue_declare("").exclusive(true).await?.name;
        let queue = unique("living");
        client
            .queue_declare(&queue)
            .exclusive(true)
            .dead_letter("", &*dead)
            .await?;
        let mut consumer = client.basic_consume(&queue).await?;
        let mut buried = client.basic_consume(&dead).await?;
        stage.proxy.reset();
        recovered(&mut notices).await?;
        assert_ne!(client.current_name(&dead), dead);
        client
            .basic_publish("", &queue, "x")
            .mandatory(true)
            .await?;
        next(&mut consumer).await?.reject(false)?;
        let delivery = next(&mut buried).await?;
        assert_eq!(delivery.body(), b"x");
        delivery.ack()?;
        Ok(client.close().await?)
    })
}

#[test]
fn s9_s20_s57_deleted_and_ended_entities_are_not_restored() -> Outcome {
    beside(async |stage| {
        let client = puka_smol::connect_with(stage.options()?).await?;
        let mut notices = client.notices();
        let (gone, kept) = (unique("gone"), unique("kept"));
        for queue in [&gone, &kept] {
            client.queue_declare(queue).exclusive(true).await?;
        }
        let mut ended = client.basic_consume(&gone).await?;
        let mut cancelled = client.basic_consume(&kept).await?;
        client.queue_delete(&gone).await?;
        assert!(matches!(
            ended.next().await,
            Some(Err(Error::ConsumerCancelled(_)))
        ));
        cancelled.cancel().await?;
        stage.proxy.reset();
        recovered(&mut notices).await?;
        let absent = client.queue_declare(&gone).passive(true).await;
        assert!(matches!(absent, Err(Error::NotFound(_))), "{absent:?}");
        assert_eq!(
            client
                .queue_declare(&kept)
                .passive(true)
                .await?
                .consumer_count,
            0
        );
        assert!(ended.next().await.is_none() && cancelled.next().await.is_none());
        Ok(client.close().await?)
    })
}

#[test]
fn entity_auto_deleted_after_its_replay_is_restored() -> Outcome {
    beside(async |stage| {
        // The reconnect comes so soon that the broker has not removed the entities of the previous
        // connection.
        let recovery = Recovery::default().backoff(Duration::ZERO, Duration::from_millis(1));
        let client = puka_smol::connect_with(stage.options()?.recovery(recovery)).await?;
        let mut notices = client.notices();
        let mut fragile = Fragile::set_up(&client).await?;
        for round in 0..40 {
            stage.proxy.reset();
            let told = told(&mut notices, "recovery", |notice| {
                matches!(notice, Notice::Recovered(_))
            })
            .await?;
            let Notice::Recovered(report) = told else {
                return Err("no report".into());
            };
            assert!(report.failed.is_empty(), "round {round}: {report:?}");
            fragile.check().await?;
        }
        Ok(client.close().await?)
    })
}

#[test]
fn exclusive_queue_locked_by_stale_connection_is_restored() -> Outcome {
    beside(async |stage| {
        // The first proxy becomes silent, so the broker does not learn that the client has given
        // up. The client continues through the second proxy.
        let way = |port| Endpoint::tcp("127.0.0.1", port);
        let other = Proxy::start(stage.node.port())?;
        let options = stage
            .options()?
            .endpoints([way(stage.proxy.port()), way(other.port())])?;
        let options = options
            .heartbeat(2)
            .handshake_timeout(Duration::from_millis(300));
        let client = puka_smol::connect_with(options).await?;
        let mut notices = client.notices();
        let queue = client
            .queue_declare(unique("own"))
            .exclusive(true)
            .await?
            .name;
        let mut consumer = client.basic_consume(&queue).await?;
        stage.proxy.down(Rate::Stopped);
        Timer::after(Duration::from_secs(3)).await;
        stage.proxy.up(Rate::Stopped);
        // If the broker has not noticed the loss after two seconds, the connection opens without
        // the locked queue, which is declared again later.
        let is_it = |notice: &Notice| matches!(notice, Notice::Recovered(_));
        let Notice::Recovered(report) = told(&mut notices, "recovery", is_it).await? else {
            return Err("no report".into());
        };
        if !report.failed.is_empty() {
            let is_it = |notice: &Notice| matches!(notice, Notice::ConsumerRestored(_));
            told(&mut notices, "start of the consumer", is_it).await?;
        }
        client
            .basic_publish("", &queue, "x")
            .mandatory(true)
            .await?;
        next(&mut consumer).await?.ack()?;
        assert_eq!(other.accepted(), 1);
        Ok(client.close().await?)
    })
}

#[test]
fn exclusive_consumer_is_restored_despite_the_stale_connection() -> Outcome {
    beside(async |stage| {
        // The stream ends only for the client, which continues through the second proxy. The broker
        // keeps the first connection until it misses heartbeats.
        let way = |port| Endpoint::tcp("127.0.0.1", port);
        let other = Proxy::start(stage.node.port())?;
        let options = stage
            .options()?
            .endpoints([way(stage.proxy.port()), way(other.port())])?;
        let options = options
            .heartbeat(2)
            .handshake_timeout(Duration::from_millis(300));
        let client = puka_smol::connect_with(options).await?;
        let mut notices = client.notices();
        let queue = client
            .queue_declare(unique("taken"))
            .durable(true)
            .await?
            .name;
        let mut consumer = client.basic_consume(&queue).exclusive(true).await?;
        stage.proxy.up(Rate::Stopped);
        // Until the proxy has stopped reading.
        Timer::after(Duration::from_millis(100)).await;
        stage.proxy.half_close();
        let told_of = told(&mut notices, "recovery", |notice| {
            matches!(notice, Notice::Recovered(_))
        })
        .await?;
        let Notice::Recovered(report) = told_of else {
            return Err("no report".into());
        };
        assert!(
            matches!(&report.failed[..], [(_, Error::AccessRefused(_))]),
            "{report:?}"
        );
        let is_it = |notice: &Notice| matches!(notice, Notice::ConsumerRestored(_));
        told(&mut notices, "start of the consumer", is_it).await?;
        client
            .basic_publish("", &queue, "x")
            .mandatory(true)
            .await?;
        next(&mut consumer).await?.ack()?;
        client.queue_delete(&queue).await?;
        Ok(client.close().await?)
    })
}
