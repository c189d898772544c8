//! Calls: a message and its reply.

use crate::cases::assert_error;
use crate::taking::{ack, next, take};
use crate::{Outcome, Runtime, World, ready_now};
use puka::{Client, Delivery, Error};
use std::time::Duration;

/// Replies to a call with the body of the request and this text.
async fn answer(client: &Client, call: &Delivery, answer: &str) -> Result<(), Error> {
    let properties = call.properties();
    let (to, of) = (
        properties.reply_to.unwrap_or_default(),
        properties.correlation_id.unwrap_or_default(),
    );
    let (to, of) = (to.to_string(), of.to_string());
    let body = format!("{} {answer}", String::from_utf8_lossy(call.body()));
    client.basic_publish("", to, body).correlation_id(&of).await
}

/// A call resolves to the reply, which is sent by another connection.
pub async fn call_is_replied_to<R: Runtime>(world: &World<R>) -> Outcome {
    let (caller, callee) = (world.client().await?, world.client().await?);
    let queue = world.shared_queue(&caller).await?;
    let mut calls = callee.basic_consume(&queue).await?;
    let promise = caller
        .basic_publish("", &queue, "how")
        .content_type("text/plain")
        .rpc()
        .send();
    let call = next(&mut calls).await?;
    assert_eq!(
        call.properties()
            .content_type
            .and_then(|text| text.as_str()),
        Some("text/plain")
    );
    answer(&callee, &call, "well").await?;
    call.ack()?;
    let reply = promise.await?;
    assert_eq!(reply.body(), b"how well");
    assert!(reply.routing_key().starts_with("amq.rabbitmq.reply-to."));
    callee.close().await?;
    Ok(caller.close().await?)
}

/// Each of many pending calls receives its own reply, in any order.
pub async fn many_calls_have_their_own_replies<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.queue(&client).await?;
    let mut calls = client.basic_consume(&queue).await?;
    let replies: Vec<_> = (0..100)
        .map(|n| client.rpc("", &queue, n.to_string()).send())
        .collect();
    let mut taken = take(&mut calls, 100).await?;
    taken.reverse();
    for call in &taken {
        answer(&client, call, "echoed").await?;
    }
    ack(taken)?;
    for (n, reply) in replies.into_iter().enumerate() {
        assert_eq!(reply.await?.body(), format!("{n} echoed").as_bytes());
    }
    Ok(client.close().await?)
}

/// An unroutable call is returned; one to a missing exchange fails alone.
pub async fn unroutable_call_fails<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.queue(&client).await?;
    let mut calls = client.basic_consume(&queue).await?;
    let good = client.rpc("", &queue, "good").send();
    match client.rpc("", world.name("nobody"), "lost").await {
        Err(Error::NoRoute(returned)) => assert_eq!(returned.message.body(), b"lost"),
        other => return Err(format!("{other:?}").into()),
    }
    assert_error!(
        client.rpc(world.name("missing"), "", "lost").await,
        Error::NotFound(_)
    );
    let call = next(&mut calls).await?;
    answer(&client, &call, "reply").await?;
    call.ack()?;
    assert_eq!(good.await?.body(), b"good reply");
    Ok(client.close().await?)
}

/// A call has its own deadline. A late reply, and one to an unknown call, are harmless.
pub async fn call_without_a_reply_ends_in_time<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let queue = world.queue(&client).await?;
    let mut calls = client.basic_consume(&queue).await?;
    let timeout = Duration::from_millis(50);
    let late = client.rpc("", &queue, "late").timeout(timeout).await;
    assert_error!(late, Error::Timeout { after, .. } if *after == timeout);
    let mut next_one = client.rpc("", &queue, "next").send();
    let calls = take(&mut calls, 2).await?;
    answer(&client, &calls[0], "too late").await?;
    assert!(ready_now(&mut next_one).await.is_none());
    answer(&client, &calls[1], "in time").await?;
    ack(calls)?;
    assert_eq!(next_one.await?.body(), b"next in time");
    Ok(client.close().await?)
}

/// The address and the id of a call are chosen by the client, and cannot be set.
pub async fn call_may_choose_its_reply_queue<R: Runtime>(world: &World<R>) -> Outcome {
    let client = world.client().await?;
    let call = client
        .basic_publish("", "anywhere", "")
        .reply_to("elsewhere")
        .rpc();
    assert_error!(
        call.await,
        Error::InvalidArgument {
            what: "reply_to",
            ..
        }
    );
    let call = client
        .basic_publish("", "anywhere", "")
        .correlation_id("7")
        .rpc();
    assert_error!(
        call.await,
        Error::InvalidArgument {
            what: "correlation_id",
            ..
        }
    );
    Ok(client.close().await?)
}

/// The address of a caller exists as long as its connection, and can be tested with a declare.
pub async fn caller_address_can_be_checked<R: Runtime>(world: &World<R>) -> Outcome {
    let (caller, callee) = (world.client().await?, world.client().await?);
    let queue = world.shared_queue(&caller).await?;
    let mut calls = callee.basic_consume(&queue).await?;
    let promise = caller.rpc("", &queue, "").send();
    let call = next(&mut calls).await?;
    let address = call.properties().reply_to.unwrap_or_default().to_string();
    let asked = callee.queue_declare(&address).passive(true).await?;
    assert_eq!((asked.message_count, asked.consumer_count), (0, 1));
    let closed = caller.close();
    assert_error!(promise.await, Error::Unconfirmed(_) | Error::Timeout { .. });
    assert_error!(closed.await, Error::CloseIncomplete { pending: 1 });
    assert_error!(
        callee.queue_declare(&address).passive(true).await,
        Error::NotFound(_)
    );
    call.ack()?;
    Ok(callee.close().await?)
}
