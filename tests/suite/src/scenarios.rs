//! The scenarios of Puka's own test suite. Most are cases of other files; here are those that were left.
//!
//! | what Puka tests | what shows it here |
//! | --- | --- |
//! | a round trip | [`connecting::a_message_goes_all_the_way`](crate::connecting::a_message_goes_all_the_way) |
//! | a round trip with properties of the connection | [`a_connection_may_have_properties_of_its_own`] |
//! | confirms are found among the server's capabilities | [`connecting::connect_tells_who_the_server_is`](crate::connecting::connect_tells_who_the_server_is) |
//! | purge tells how many | [`queues::delete_and_purge_tell_how_many_messages_went`](crate::queues::delete_and_purge_tell_how_many_messages_went) |
//! | get and ack of four, after which the channels are free again | [`four_messages_are_got_and_their_channels_come_back`] |
//! | publishing to a bad exchange, twice, leaks no channel | [`bad_publishes_leak_no_channel`] |
//! | a mandatory message comes back, and is fine once the queue is there | [`publishing::an_unroutable_message_comes_back_whole`](crate::publishing::an_unroutable_message_comes_back_whole) |
//! | an immediate message | [`an_immediate_message_is_refused`] |
//! | a delivery mode that is absent, 1 or 2 | [`a_delivery_mode_is_absent_or_what_was_said`] |
//! | reject requeues | [`settling::what_is_requeued_comes_again`](crate::settling::what_is_requeued_comes_again) |
//! | reject without requeue | [`settling::what_is_not_requeued_is_gone`](crate::settling::what_is_not_requeued_is_gone) |
//! | dead letters with `x-death` | [`settling::a_refused_message_is_dead_lettered`](crate::settling::a_refused_message_is_dead_lettered) |
//! | every property | [`publishing::every_property_arrives`](crate::publishing::every_property_arrives) |
//! | headers of every type, nested | [`publishing::headers_of_every_type_arrive`](crate::publishing::headers_of_every_type_arrive) |
//! | ack of an unknown tag | can't be said; twice by way of `multiple`: [`settling::s56_a_multiple_ack_settles_everything_before`](crate::settling::s56_a_multiple_ack_settles_everything_before) |
//! | cancel after an ack | [`a_consumer_is_cancelled_after_an_ack`] |
//! | close with an unacked message | [`closing::what_was_not_settled_comes_again`](crate::closing::what_was_not_settled_comes_again) |
//! | consume of a missing queue | [`consuming::a_consume_fails_alone`](crate::consuming::a_consume_fails_alone) |
//! | delete of the queue of an unacked get, and close | [`a_queue_goes_while_its_message_is_held`] |
//! | the prefetch count of a live consumer, from 1 to 2 | [`prefetch::a_higher_prefetch_count_raises_by_just_that`](crate::prefetch::a_higher_prefetch_count_raises_by_just_that) |
//! | a heartbeat of one second on an idle connection | `heartbeats_keep_an_idle_connection_and_find_a_frozen_node` of the tests on RabbitMQ |
//! | acks are on their way before the socket closes | [`acks_are_written_before_everything_is_dropped`] |
//! | cancel of a consumer of one queue | [`consuming::a_cancel_gives_back_what_was_not_handed_out`](crate::consuming::a_cancel_gives_back_what_was_not_handed_out), [`consuming::basic_cancel_ends_a_consumer`](crate::consuming::basic_cancel_ends_a_consumer) |
//! | cancel of a consumer of several queues | [`consuming_multi::several_queues_share_a_consumer`](crate::consuming_multi::several_queues_share_a_consumer) |
//! | the broker cancels a consumer of one queue | [`consuming::s57_deleting_the_queue_ends_its_consumers`](crate::consuming::s57_deleting_the_queue_ends_its_consumers) |
//! | the broker cancels a consumer of several queues | [`consuming_multi::it_ends_with_the_last_of_its_queues`](crate::consuming_multi::it_ends_with_the_last_of_its_queues) |
//! | the broker cancels two at once | [`two_queues_of_a_consumer_go_at_once`] |
//! | a host that does not resolve | [`dialling::a_host_that_does_not_resolve_is_a_broken_connection`](crate::dialling::a_host_that_does_not_resolve_is_a_broken_connection) |
//! | a port where nobody listens | [`dialling::a_port_where_nobody_listens_is_a_broken_connection`](crate::dialling::a_port_where_nobody_listens_is_a_broken_connection) |
//! | a wrong password | [`connecting::a_wrong_password_is_refused`](crate::connecting::a_wrong_password_is_refused) |
//! | a prefetch count shared by two queues, raised | [`consuming_multi::several_queues_share_a_prefetch_count`](crate::consuming_multi::several_queues_share_a_prefetch_count) |
//! | an exclusive queue is locked for another connection | [`queues::an_exclusive_queue_is_locked_for_others`](crate::queues::an_exclusive_queue_is_locked_for_others) |
//! | an exclusive consumer refuses the second | [`consuming::a_consume_fails_alone`](crate::consuming::a_consume_fails_alone) |
//! | consumer tags: made up, chosen, repeated | [`consumer_tags_are_chosen_in_part_and_never_the_same`] |
//! | an exchange declared again, with another type | [`exchanges::an_exchange_is_declared_again_only_alike`](crate::exchanges::an_exchange_is_declared_again_only_alike) |
//! | delete of an exchange that is missing | [`exchanges::exchanges_are_deleted`](crate::exchanges::exchanges_are_deleted) |
//! | exchanges bound to exchanges | [`exchanges::exchanges_are_bound_to_exchanges`](crate::exchanges::exchanges_are_bound_to_exchanges) |
//! | many declares and deletes in parallel | [`queues::a_thousand_queues_are_declared_at_once`](crate::queues::a_thousand_queues_are_declared_at_once) |
//! | good, bad and good publishes | [`good_and_bad_publishes_take_turns`], [`publishing::a_missing_exchange_fails_only_its_own_publishes`](crate::publishing::a_missing_exchange_fails_only_its_own_publishes) |
//! | 42 publishes right behind `connect` | [`publishes_right_behind_the_connect`] |
//! | a queue declared again, alike and otherwise, with arguments too | [`queues::a_queue_is_declared_again_only_alike`](crate::queues::a_queue_is_declared_again_only_alike) |
//! | delete of a queue that is missing | [`queues::delete_and_purge_tell_how_many_messages_went`](crate::queues::delete_and_purge_tell_how_many_messages_went) |
//! | an auto-delete queue | [`queues::e45_an_auto_delete_queue_goes_with_its_last_consumer`](crate::queues::e45_an_auto_delete_queue_goes_with_its_last_consumer) |
//! | bind and unbind | [`exchanges::a_direct_exchange_routes_by_the_key`](crate::exchanges::a_direct_exchange_routes_by_the_key) |

use crate::cases::assert_error;
use crate::taking::next;
use crate::{Outcome, Runtime, World};
use puka::{Ended, Error};
use std::collections::BTreeSet;

/// A connection may say what it is, to people who look at the broker, and works all the same.
pub async fn a_connection_may_have_properties_of_its_own<R: Runtime>(world: &World<R>) -> Outcome {
    let options = world.options()?.client_property("customer", "somebody")?.client_property("instance", 7)?;
    let client = world.client_with(|_| options.connection_name("properties")).await?;
    let queue = world.queue(&client).await?;
    client.basic_publish("", &queue, "x").mandatory(true).await?;
    assert_eq!(client.basic_get(&queue).no_ack(true).await?.ok_or("empty")?.body(), b"x");
    Ok(client.close().await?)
}

/// Four messages are held at once, each with its channel, and the channels are free again when they are acknowledged.
pub async fn four_messages_are_got_and_their_channels_come_back<R: Runtime>(world: &World<R>) -> Outcome {
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
            assert_eq!((got.body(), got.redelivered()), (n.to_string().as_bytes(), false));
            held.push(got);
        }
        assert!(client.basic_get(&queue).await?.is_none());
        for got in held {
            client.basic_ack(got)?;
        }
    }
    Ok(client.close().await?)
}

/// A publish to an exchange that is missing costs its channel, and another takes its place.
pub async fn bad_publishes_leak_no_channel<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client_with(|options| options.channel_max(2)).await?;
    let missing = world.name("missing");
    for _ in 0..50 {
        let refused = client.basic_publish(&missing, "xxx", "").await;
        assert_error!(&refused, Error::NotFound(fault) if fault.code.value() == 404 && fault.text.contains(&missing));
    }
    let queue = world.queue(&client).await?;
    client.basic_publish("", &queue, "x").mandatory(true).await?;
    Ok(client.close().await?)
}

/// `immediate` is a thing of the past, and is refused without harm to the connection.
pub async fn an_immediate_message_is_refused<R: Runtime>(world: &World<R>) -> Outcome {
    if world.in_memory().is_some() {
        // It closes the connection, as RabbitMQ does, and is not known to.
        let client = world.client().await?;
        let refused = client.basic_publish("", "q", "x").immediate(true).await;
        assert!(
            refused.as_ref().is_err_and(|error| error.fault().is_some_and(|fault| fault.code.value() == 540)),
            "{refused:?}"
        );
        return Ok(());
    }
    let client = world.client().await?;
    let queue = world.queue(&client).await?;
    let refused = client.basic_publish("", &queue, "x").immediate(true).await;
    assert_error!(refused, Error::InvalidArgument { what: "immediate", .. });
    client.basic_publish("", &queue, "x").mandatory(true).await?;
    Ok(client.close().await?)
}

/// A delivery mode is absent by default, 2 for what is to persist, 1 for what is not.
pub async fn a_delivery_mode_is_absent_or_what_was_said<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.queue(&client).await?;
    client.basic_publish("", &queue, "by default").await?;
    client.basic_publish("", &queue, "persistent").persistent(true).await?;
    client.basic_publish("", &queue, "transient").persistent(false).await?;
    for (body, mode) in [("by default", None), ("persistent", Some(2)), ("transient", Some(1))] {
        let got = client.basic_get(&queue).no_ack(true).await?.ok_or("empty")?;
        assert_eq!((got.body(), got.properties().delivery_mode), (body.as_bytes(), mode));
    }
    Ok(client.close().await?)
}

/// A consumer is cancelled after an ack, and what comes to its queue then is nobody's.
pub async fn a_consumer_is_cancelled_after_an_ack<R: Runtime>(world: &World<R>) -> Outcome {
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

/// A queue is deleted while one of its messages is held: settling that is harmless, and so is closing.
pub async fn a_queue_goes_while_its_message_is_held<R: Runtime>(world: &World<R>) -> Outcome {
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
    client.basic_publish("", &queue, "x").mandatory(true).await?;
    Ok(client.close().await?)
}

/// Acks reach the broker though everything is dropped right behind them and nobody closes.
pub async fn acks_are_written_before_everything_is_dropped<R: Runtime>(world: &World<R>) -> Outcome {
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

/// Two queues of one consumer are deleted at the same time, and it goes on with the third.
pub async fn two_queues_of_a_consumer_go_at_once<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let mut queues = Vec::new();
    for _ in 0..3 {
        queues.push(world.filled_queue(&client, 1).await?);
    }
    let mut consumer = client.basic_consume_multi(&queues).no_ack(true).await?;
    for _ in 0..3 {
        assert_eq!(next(&mut consumer).await?.body(), b"0");
    }
    let deleted = [client.queue_delete(&queues[0]).send(), client.queue_delete(&queues[2]).send()];
    for deleted in deleted {
        deleted.await?;
    }
    client.basic_publish("", &queues[1], "still here").mandatory(true).await?;
    let delivery = next(&mut consumer).await?;
    assert_eq!((delivery.queue(), delivery.body()), (Some(queues[1].as_str()), &b"still here"[..]));
    client.queue_delete(&queues[1]).await?;
    assert_error!(consumer.next().await.ok_or("no error")?, Error::ConsumerCancelled(_));
    assert!(matches!(consumer.ended(), Some(Ended::CancelledByServer)));
    for queue in &queues {
        assert_eq!(client.queue_declare(queue).await?.consumer_count, 0);
    }
    Ok(client.close().await?)
}

/// A tag is made up, with a part that the user chose; the same choice twice gives two tags, on one connection or two.
pub async fn consumer_tags_are_chosen_in_part_and_never_the_same<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.queue(&client).await?;
    let mut tags = BTreeSet::new();
    let mut consumers = Vec::new();
    for chosen in ["", "", "workers", "workers", "süß ☃"] {
        let mut consumer = client.basic_consume(&queue).consumer_tag(chosen).prefetch_count(1).await?;
        assert!(consumer.tag().contains(chosen), "{}", consumer.tag());
        assert!(tags.insert(consumer.tag().to_owned()), "twice {}", consumer.tag());
        client.basic_publish("", &queue, "x").await?;
        let delivery = next(&mut consumer).await?;
        assert_eq!(delivery.consumer_tag(), Some(consumer.tag()));
        assert_eq!(delivery.queue(), Some(queue.as_str()));
        // It is held, so the next goes to the next consumer.
        consumers.push((consumer, delivery));
    }
    let got = client.basic_get(&queue).await?;
    assert!(got.is_none(), "and what is got has none: {got:?}");
    Ok(client.close().await?)
}

/// Good and bad publishes in turn: each has its own outcome, and what comes behind a bad one is fine.
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
        assert_error!(client.basic_publish(&missing, "", "x").await, Error::NotFound(_));
        client.basic_publish("", "", "x").await?;
    }
    Ok(client.close().await?)
}

/// Publishes that follow the connect at once, all together.
pub async fn publishes_right_behind_the_connect<R: Runtime>(world: &World<R>) -> Outcome {
    let owner = world.client().await?;
    let queue = world.shared_queue(&owner).await?;
    let (client, driver) = world.open(|options| options).await?;
    let connected = client.connect();
    let publishes: Vec<_> = (0..42)
        .map(|n| client.basic_publish("", &queue, n.to_string()).mandatory(n % 2 == 0).send())
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
