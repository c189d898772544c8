//! Faults of the network between a client and its broker.

use crate::nodes::survives;
use crate::stage::{beside, virtual_host};
use crate::{STEP, next, recovered};
use futures_lite::future;
use puka::{ConnectionState, Error, QueueType, Recovery};
use puka_test_rabbitmq::{Rate, unique};
use puka_test_soak::{Fault, Load, Outcome, until, within};
use smol::Timer;
use std::time::{Duration, Instant};

#[test]
fn s34_interrupted_network_loses_nothing() -> Outcome {
    beside(async |stage| survives(&stage, &[Fault::Off, Fault::Off]).await)
}

#[test]
fn s35_black_hole_is_detected_by_heartbeats() -> Outcome {
    beside(async |stage| survives(&stage, &[Fault::Blackhole]).await)
}

#[test]
fn one_way_black_hole_is_detected_by_heartbeats() -> Outcome {
    beside(async |stage| survives(&stage, &[Fault::BlackholeToClients]).await)
}

#[test]
fn s36_resets_every_half_second_lose_nothing() -> Outcome {
    beside(async |stage| {
        let load = Load::start(
            virtual_host(&stage, &unique("reset")).await?,
            QueueType::Classic,
        )
        .await?;
        for _ in 0..6 {
            Timer::after(Duration::from_millis(500)).await;
            stage.proxy.reset();
        }
        load.opens().await?;
        load.flows(100).await?;
        load.ends().await.map(drop)
    })
}

#[test]
fn half_closed_stream_loses_nothing() -> Outcome {
    beside(async |stage| survives(&stage, &[Fault::HalfClose, Fault::HalfClose]).await)
}

#[test]
fn breaking_slow_network_loses_nothing() -> Outcome {
    beside(async |stage| survives(&stage, &[Fault::Trickle]).await)
}

#[test]
fn s12_s41_connections_cut_after_any_byte_recover() -> Outcome {
    beside(async |stage| {
        let load = Load::start(
            virtual_host(&stage, &unique("cut")).await?,
            QueueType::Classic,
        )
        .await?;
        load.flows(20).await?;
        // Three connections reconnect at once, and each handshake has about 600 bytes: the resets
        // are within a handshake, within a replay, and after it.
        for bytes in [
            0, 3, 7, 8, 100, 500, 600, 1000, 1500, 1800, 2000, 2500, 3000, 5000,
        ] {
            stage.proxy.reset_after(bytes);
            let what = format!("{bytes} bytes");
            until(STEP, &what, || !stage.proxy.is_armed()).await?;
        }
        load.opens().await?;
        load.flows(100).await?;
        load.ends().await.map(drop)
    })
}

/// Eight tasks publish more than the capacity, half of them without confirms.
fn publishers_that_wait_for_room_are_released(recovers: bool) -> Outcome {
    const TASKS: usize = 8;
    // More than the buffers of the system and the proxy.
    const MESSAGES: usize = 100;
    beside(async |stage| {
        let options = stage.options()?.max_outgoing_bytes(100_000).heartbeat(0);
        let recovery = recovers
            .then(|| Recovery::default().backoff(Duration::ZERO, Duration::from_millis(100)));
        let client = puka_smol::connect_with(options.recovery(recovery)).await?;
        let queue = client
            .queue_declare(unique("full"))
            .durable(true)
            .await?
            .name;
        stage.proxy.up(Rate::Slow(1024));
        let tasks: Vec<_> = (0..TASKS)
            .map(|number| {
                let (client, queue, confirms) = (client.clone(), queue.clone(), number % 2 == 0);
                smol::spawn(async move {
                    let mut promises = Vec::new();
                    for _ in 0..MESSAGES {
                        let publish = client
                            .basic_publish("", &queue, vec![7; 20_000])
                            .confirm(confirms);
                        promises.push(publish.submit().await?);
                    }
                    let mut confirmed = 0;
                    for promise in promises {
                        match promise.await {
                            Ok(()) => confirmed += u32::from(confirms),
                            Err(Error::Unconfirmed(_)) => {}
                            Err(error) => return Err(error),
                        }
                    }
                    Ok(confirmed)
                })
            })
            .collect();
        until(STEP, "the bound", || {
            client.basic_publish("", "", "").try_send().is_err()
        })
        .await?;
        stage.proxy.reset();
        stage.proxy.clear();
        let mut confirmed = 0;
        for task in tasks {
            match within(STEP, "the release of a publisher", task).await? {
                Ok(some) if recovers => confirmed += some,
                Err(error) if !recovers => assert!(error.is_connection_broken(), "{error:?}"),
                outcome => return Err(format!("{outcome:?}").into()),
            }
        }
        if recovers {
            let there = client
                .queue_declare(&queue)
                .passive(true)
                .await?
                .message_count;
            assert!(
                there >= confirmed && confirmed > 0,
                "{confirmed} confirmed, {there} there"
            );
            client.queue_delete(&queue).await?;
            client.close().await?;
        }
        Ok(())
    })
}

#[test]
fn s37_publishers_waiting_for_capacity_continue_after_recovery() -> Outcome {
    publishers_that_wait_for_room_are_released(true)
}

#[test]
fn s37_publishers_waiting_for_capacity_end_without_recovery() -> Outcome {
    publishers_that_wait_for_room_are_released(false)
}

#[test]
fn s38_late_reply_does_not_complete_the_next_request() -> Outcome {
    beside(async |stage| {
        let limit = Duration::from_secs(1);
        let client =
            puka_smol::connect_with(stage.options()?.heartbeat(0).request_timeout(limit)).await?;
        let (late, soon) = (unique("late"), unique("soon"));
        client.queue_declare("").exclusive(true).await?;
        stage.proxy.down(Rate::Stopped);
        let timeout = client.queue_declare(&late).exclusive(true).await;
        assert!(
            matches!(timeout, Err(Error::Timeout { after, .. }) if after == limit),
            "{timeout:?}"
        );
        stage.proxy.clear();
        for _ in 0..3 {
            assert_eq!(
                client.queue_declare(&soon).exclusive(true).await?.name,
                soon
            );
            assert_eq!(
                client.queue_declare(&late).exclusive(true).await?.name,
                late
            );
        }
        Ok(client.close().await?)
    })
}

#[test]
fn s39_slow_confirms_hold_back_publishes_beyond_the_bound() -> Outcome {
    const MOST: usize = 50;
    beside(async |stage| {
        let options = stage.options()?.heartbeat(0).max_publishes_in_flight(MOST);
        let client = puka_smol::connect_with(options).await?;
        let queue = client.queue_declare("").exclusive(true).await?.name;
        stage.proxy.down(Rate::Stopped);
        let mut sent = Vec::new();
        while let Ok(promise) = client.basic_publish("", &queue, "x").try_send() {
            sent.push(promise);
        }
        assert_eq!(sent.len(), MOST);
        let mut waits = Box::pin(client.basic_publish("", &queue, "y").into_future());
        assert!(future::poll_once(&mut waits).await.is_none());
        stage.proxy.down(Rate::Slow(500));
        for promise in sent {
            within(STEP, "a confirm", promise).await??;
        }
        within(STEP, "the one beyond", waits).await??;
        stage.proxy.clear();
        let there = client
            .queue_declare(&queue)
            .passive(true)
            .await?
            .message_count;
        assert_eq!(there as usize, MOST + 1);
        Ok(client.close().await?)
    })
}

#[test]
fn s40_connection_with_untaken_deliveries_recovers() -> Outcome {
    const MESSAGES: usize = 300;
    beside(async |stage| {
        let options = stage.options()?.heartbeat(2).max_buffered_bytes(100_000);
        let client = puka_smol::connect_with(options).await?;
        let filling = puka_smol::connect_with(stage.options()?).await?;
        let queue = unique("window");
        filling.queue_declare(&queue).durable(true).await?;
        let publishes: Vec<_> = (0..MESSAGES)
            .map(|_| filling.basic_publish("", &queue, vec![1; 50_000]).send())
            .collect();
        for publish in publishes {
            publish.await?;
        }
        let mut notices = client.notices();
        let mut consumer = client.basic_consume(&queue).await?;
        next(&mut consumer).await?.ack()?;
        // TCP's window is full, so the broker's bytes do not arrive. The client must not take that
        // for silence.
        Timer::after(Duration::from_secs(5)).await;
        assert!(
            matches!(client.state(), ConnectionState::Open),
            "{:?}",
            client.state()
        );
        stage.proxy.reset();
        // The client does not read, so it detects the reset when it reads again or writes.
        let start = Instant::now();
        let mut taken = 1;
        while taken < MESSAGES {
            let delivery = next(&mut consumer).await?;
            taken += usize::from(delivery.ack().is_ok());
        }
        recovered(&mut notices).await?;
        assert!(start.elapsed() < STEP);
        assert_eq!(filling.queue_delete(&queue).await?, 0);
        filling.close().await?;
        Ok(client.close().await?)
    })
}

#[test]
fn s15_many_tasks_go_through_one_recovery() -> Outcome {
    const TASKS: usize = 40;
    beside(async |stage| {
        let client = puka_smol::connect_with(stage.options()?).await?;
        let mut notices = client.notices();
        let tasks: Vec<_> = (0..TASKS)
            .map(|task| {
                let client = client.clone();
                smol::spawn(async move {
                    let queue = client
                        .queue_declare(unique("many"))
                        .durable(true)
                        .await?
                        .name;
                    let mut consumer = client.basic_consume(&queue).prefetch_count(10).await?;
                    for number in 0..60 {
                        let body = format!("{task} {number}");
                        while let Err(error) = client
                            .basic_publish("", &queue, &body)
                            .persistent(true)
                            .await
                        {
                            if !matches!(error, Error::Unconfirmed(_)) {
                                return Err(error.into());
                            }
                        }
                        // It arrives now or after the next recovery. An unconfirmed one arrives,
                        // too.
                        loop {
                            let delivery = next(&mut consumer).await?;
                            let is_it = delivery.body() == body.as_bytes();
                            if delivery.ack().is_ok() && is_it {
                                break;
                            }
                        }
                        Timer::after(Duration::from_millis(10)).await;
                    }
                    consumer.cancel().await?;
                    client.queue_delete(&queue).await?;
                    Outcome::Ok(())
                })
            })
            .collect();
        Timer::after(Duration::from_millis(300)).await;
        stage.proxy.reset();
        recovered(&mut notices).await?;
        for task in tasks {
            within(STEP, "a task", task).await??;
        }
        Ok(client.close().await?)
    })
}
