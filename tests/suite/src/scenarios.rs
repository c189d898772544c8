//! The scenarios of Puka's own test suite. Most are cases of other files. This file contains the
//! rest.
//!
//! - a round trip: [`crate::connecting::message_is_published_and_consumed`]
//! - a round trip with connection properties: [`connection_may_have_custom_properties`]
//! - confirms are among the server's capabilities:
//!   [`crate::connecting::connect_returns_the_server_properties`]
//! - purge returns the message count: [`crate::queues::delete_and_purge_return_message_counts`]
//! - get and ack of four messages, whose channels are reused: [`channels_of_four_gets_are_reused`]
//! - publishing to a bad exchange, twice, leaks no channel: [`bad_publishes_leak_no_channel`]
//! - a mandatory message is returned, and confirmed once the queue exists:
//!   [`crate::publishing::unroutable_message_is_returned_complete`]
//! - an immediate message: [`immediate_message_is_refused`]
//! - a delivery mode that is absent, 1 or 2: [`delivery_mode_is_absent_by_default`]
//! - reject requeues: [`crate::settling::requeued_message_is_delivered_again`]
//! - reject without requeue: [`crate::settling::message_rejected_without_requeue_is_removed`]
//! - dead letters with `x-death`: [`crate::settling::refused_message_is_dead_lettered`]
//! - every property: [`crate::messages::every_property_arrives`]
//! - headers of every type, nested: [`crate::messages::headers_of_every_type_arrive`]
//! - ack of an unknown tag: not possible; twice with `multiple`:
//!   [`crate::settling::s56_multiple_ack_settles_everything_before`]
//! - cancel after an ack: [`consumer_is_cancelled_after_an_ack`]
//! - close with an unacked message: [`crate::closing::close_requeues_unsettled_messages`]
//! - consume of a missing queue: [`crate::consuming::failed_consume_affects_nothing_else`]
//! - delete of the queue of an unsettled get, and close:
//!   [`queue_is_deleted_during_an_unsettled_get`]
//! - the prefetch count of a live consumer, from 1 to 2:
//!   [`crate::prefetch::higher_prefetch_count_allows_exactly_more`]
//! - a heartbeat of one second on an idle connection:
//!   `heartbeats_keep_idle_connections_and_detect_frozen_nodes` of the tests with RabbitMQ
//! - acks are sent before the socket is closed: [`acks_are_written_before_everything_is_dropped`]
//! - cancel of a consumer of one queue: [`crate::consuming::cancel_requeues_buffered_deliveries`],
//!   [`crate::consuming::basic_cancel_ends_a_consumer`]
//! - cancel of a consumer of several queues:
//!   [`crate::consuming_multi::several_queues_share_a_consumer`]
//! - the broker cancels a consumer of one queue:
//!   [`crate::consuming::s57_deleting_the_queue_ends_its_consumers`]
//! - the broker cancels a consumer of several queues:
//!   [`crate::consuming_multi::consumer_ends_with_its_last_queue`]
//! - the broker cancels two at once: [`consumer_survives_deletion_of_two_queues`]
//! - a host that does not resolve: [`crate::dialling::unresolvable_host_is_a_broken_connection`]
//! - a closed port: [`crate::dialling::closed_port_is_a_broken_connection`]
//! - a wrong password: [`crate::connecting::wrong_password_is_refused`]
//! - a prefetch count shared by two queues, raised:
//!   [`crate::consuming_multi::several_queues_share_a_prefetch_count`]
//! - an exclusive queue is locked for another connection:
//!   [`crate::queues::exclusive_queue_is_locked_for_others`]
//! - an exclusive consumer refuses the second:
//!   [`crate::consuming::failed_consume_affects_nothing_else`]
//! - consumer tags: generated, chosen, repeated: [`consumer_tags_are_unique_with_a_chosen_part`]
//! - an exchange declared again, with another type:
//!   [`crate::exchanges::exchange_is_declared_again_only_identically`]
//! - delete of a missing exchange: [`crate::exchanges::exchanges_are_deleted`]
//! - exchanges bound to exchanges: [`crate::exchanges::exchanges_are_bound_to_exchanges`]
//! - many declares and deletes in parallel: [`crate::queues::thousand_queues_are_declared_at_once`]
//! - good, bad and good publishes: [`good_and_bad_publishes_take_turns`],
//!   [`crate::publishing::missing_exchange_fails_only_its_own_publishes`]
//! - 42 publishes directly after `connect`: [`publishes_directly_after_the_connect_succeed`]
//! - a queue declared again, with the same and other properties and arguments:
//!   [`crate::queues::queue_is_declared_again_only_identically`]
//! - delete of a missing queue: [`crate::queues::delete_and_purge_return_message_counts`]
//! - an auto-delete queue: [`crate::queues::e45_auto_delete_queue_ends_with_its_last_consumer`]
//! - bind and unbind: [`crate::exchanges::direct_exchange_routes_by_the_key`]

use crate::cases::assert_error;
use crate::taking::next;
use crate::{Outcome, Runtime, World};
use puka::{Ended, Error};
use std::collections::BTreeSet;

/// A connection can have its own properties, which operators see.
pub async fn connection_may_have_custom_properties<R: Runtime>(world: &World<R>) -> Outcome {
    let options = world
        .options()?
        .client_property("customer", "somebody")?
        .client_property("instance", 7)?;
    let client = world
        .client_with(|_| options.connection_name("properties"))
        .await?;
    let queue = world.queue(&client).await?;
    client
        .basic_publish("", &queue, "x")
        .mandatory(true)
        .await?;
    assert_eq!(
        client
            .basic_get(&queue)
            .no_ack(true)
            .await?
            .ok_or("empty")?
            .body(),
        b"x"
    );
    Ok(client.close().await?)
}

/// Four unsettled messages each keep a channel, which is free again after the ack.
pub async fn channels_of_four_gets_are_reused<R: Runtime>(world: &World<R>) -> Outcome {
    // One for the publishes, one for requests, one for each message, and one for the get that finds
    // no more messages.
    let client = world.client_with(|options| options.channel_max(7)).await?;
    let queue = world.queue(&client).await?;
    for _ in 0..20 {
        for n in 0..4 {
            client.basic_publish("", &queue, n.to_string()).await?;
        }
        let mut held = Vec::new();
        for n in 0..4 {
            let got = client.basic_get(&queue).await?.ok_or("empty")?;
            assert_eq!(
                (got.body(), got.redelivered()),
                (n.to_string().as_bytes(), false)
            );
            held.push(got);
        }
        assert!(client.basic_get(&queue).await?.is_none());
        for got in held {
            client.basic_ack(got)?;
        }
    }
    Ok(client.close().await?)
}

/// A publish to a missing exchange loses its channel, which is replaced.
pub async fn bad_publishes_leak_no_channel<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client_with(|options| options.channel_max(2)).await?;
    let missing = world.name("missing");
    for _ in 0..50 {
        let refused = client.basic_publish(&missing, "xxx", "").await;
        assert_error!(&refused, Error::NotFound(fault)
            if fault.code.value() == 404 && fault.text.contains(&missing));
    }
    let queue = world.queue(&client).await?;
    client
        .basic_publish("", &queue, "x")
        .mandatory(true)
        .await?;
    Ok(client.close().await?)
}

/// `immediate` is obsolete, and is refused without affecting the connection.
pub async fn immediate_message_is_refused<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.queue(&client).await?;
    let refused = client.basic_publish("", &queue, "x").immediate(true).await;
    assert_error!(
        refused,
        Error::InvalidArgument {
            what: "immediate",
            ..
        }
    );
    client
        .basic_publish("", &queue, "x")
        .mandatory(true)
        .await?;
    Ok(client.close().await?)
}

/// The delivery mode is absent by default, 2 for persistent and 1 for transient messages.
pub async fn delivery_mode_is_absent_by_default<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.queue(&client).await?;
    client.basic_publish("", &queue, "by default").await?;
    client
        .basic_publish("", &queue, "persistent")
        .persistent(true)
        .await?;
    client
        .basic_publish("", &queue, "transient")
        .persistent(false)
        .await?;
    for (body, mode) in [
        ("by default", None),
        ("persistent", Some(2)),
        ("transient", Some(1)),
    ] {
        let got = client
            .basic_get(&queue)
            .no_ack(true)
            .await?
            .ok_or("empty")?;
        assert_eq!(
            (got.body(), got.properties().delivery_mode),
            (body.as_bytes(), mode)
        );
    }
    Ok(client.close().await?)
}

/// After an ack and a cancel, new messages stay in the queue.
pub async fn consumer_is_cancelled_after_an_ack<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.filled_queue(&client, 2).await?;
    let mut consumer = client.basic_consume(&queue).await?;
    let first = next(&mut consumer).await?;
    assert_eq!(first.body(), b"0");
    first.ack()?;
    let tag = consumer.tag().to_owned();
    assert_eq!(consumer.cancel().await?, tag);
    client.basic_publish("", &queue, "nobody's").await?;
    world.until_ready(&client, &queue, 2).await?;
    assert_eq!(client.queue_delete(&queue).await?, 2);
    assert!(consumer.next().await.is_none());
    Ok(client.close().await?)
}

/// A queue is deleted while one of its messages is unsettled: settling that is harmless, and so is
/// closing.
pub async fn queue_is_deleted_during_an_unsettled_get<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    for settles in [true, false] {
        let queue = world.filled_queue(&client, 1).await?;
        let held = client.basic_get(&queue).await?.ok_or("empty")?;
        assert_eq!(client.queue_delete(&queue).await?, 0);
        if settles {
            held.ack()?;
        }
    }
    let queue = world.queue(&client).await?;
    client
        .basic_publish("", &queue, "x")
        .mandatory(true)
        .await?;
    Ok(client.close().await?)
}

/// Acks reach the broker even if everything is dropped right after them, without a close.
pub async fn acks_are_written_before_everything_is_dropped<R: Runtime>(
    world: &World<R>,
) -> Outcome {
    let client = world.client().await?;
    let queue = world.filled_queue(&client, 4).await?;
    let mut consumer = client.basic_consume(&queue).await?;
    for _ in 0..3 {
        next(&mut consumer).await?.ack()?;
    }
    drop((consumer, client));
    let client = world.client().await?;
    world.until_ready(&client, &queue, 1).await?;
    let last = client.basic_get(&queue).await?.ok_or("empty")?;
    assert_eq!(last.body(), b"3");
    last.ack()?;
    Ok(client.close().await?)
}

/// Two queues of one consumer are deleted at the same time, and it continues with the third.
pub async fn consumer_survives_deletion_of_two_queues<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let mut queues = Vec::new();
    for _ in 0..3 {
        queues.push(world.filled_queue(&client, 1).await?);
    }
    let mut consumer = client.basic_consume_multi(&queues).no_ack(true).await?;
    for _ in 0..3 {
        assert_eq!(next(&mut consumer).await?.body(), b"0");
    }
    let deleted = [
        client.queue_delete(&queues[0]).send(),
        client.queue_delete(&queues[2]).send(),
    ];
    for deleted in deleted {
        deleted.await?;
    }
    client
        .basic_publish("", &queues[1], "still here")
        .mandatory(true)
        .await?;
    let delivery = next(&mut consumer).await?;
    assert_eq!(
        (delivery.queue(), delivery.body()),
        (Some(queues[1].as_str()), &b"still here"[..])
    );
    client.queue_delete(&queues[1]).await?;
    assert_error!(
        consumer.next().await.ok_or("no error")?,
        Error::ConsumerCancelled(_)
    );
    assert!(matches!(consumer.ended(), Some(Ended::CancelledByServer)));
    for queue in &queues {
        assert_eq!(client.queue_declare(queue).await?.consumer_count, 0);
    }
    Ok(client.close().await?)
}

/// A tag is generated, and contains the user's part. The same part twice results in two tags, on
/// one connection or two.
pub async fn consumer_tags_are_unique_with_a_chosen_part<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.queue(&client).await?;
    let mut tags = BTreeSet::new();
    let mut consumers = Vec::new();
    for chosen in ["", "", "workers", "workers", "süß ☃"] {
        let mut consumer = client
            .basic_consume(&queue)
            .consumer_tag(chosen)
            .prefetch_count(1)
            .await?;
        assert!(consumer.tag().contains(chosen), "{}", consumer.tag());
        assert!(
            tags.insert(consumer.tag().to_owned()),
            "twice {}",
            consumer.tag()
        );
        client.basic_publish("", &queue, "x").await?;
        let delivery = next(&mut consumer).await?;
        assert_eq!(delivery.consumer_tag(), Some(consumer.tag()));
        assert_eq!(delivery.queue(), Some(queue.as_str()));
        // Its delivery stays unsettled, so the next message goes to the next consumer.
        consumers.push((consumer, delivery));
    }
    let got = client.basic_get(&queue).await?;
    assert!(got.is_none(), "and a get must return none: {got:?}");
    Ok(client.close().await?)
}

/// Good and bad publishes take turns: each has its own outcome, and those after a bad one succeed.
pub async fn good_and_bad_publishes_take_turns<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let missing = world.name("wrong_exchange");
    for _ in 0..3 {
        let good = client.basic_publish("", "", "x").send();
        let bad = client.basic_publish(&missing, "", "x").send();
        let also_good = client.basic_publish("", "", "x").send();
        good.await?;
        assert_error!(bad.await, Error::NotFound(_));
        also_good.await?;
        client.basic_publish("", "", "x").await?;
        assert_error!(
            client.basic_publish(&missing, "", "x").await,
            Error::NotFound(_)
        );
        client.basic_publish("", "", "x").await?;
    }
    Ok(client.close().await?)
}

/// Several publishes directly after the connect succeed.
pub async fn publishes_directly_after_the_connect_succeed<R: Runtime>(world: &World<R>) -> Outcome {
    let owner = world.client().await?;
    let queue = world.shared_queue(&owner).await?;
    let (client, driver) = world.open(|options| options).await?;
    let connected = client.connect();
    let publishes: Vec<_> = (0..42)
        .map(|n| {
            client
                .basic_publish("", &queue, n.to_string())
                .mandatory(n % 2 == 0)
                .send()
        })
        .collect();
    let work = async {
        connected.await?;
        for publish in publishes {
            publish.await?;
        }
        client.close().await
    };
    futures_lite::future::try_zip(work, driver).await?;
    for n in 0..42 {
        let got = owner.basic_get(&queue).no_ack(true).await?.ok_or("empty")?;
        assert_eq!(got.body(), n.to_string().as_bytes());
    }
    Ok(owner.close().await?)
}
