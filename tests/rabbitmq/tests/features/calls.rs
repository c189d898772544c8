//! Calls with direct reply-to. Since 4.2, the broker routes their replies through volatile queues.

use crate::{DEADLINE, connect, operator, recovered, with_client};
use puka::{Client, Error, Message, Promise};
use puka_test_rabbitmq::{Proxy, shared_node};
use puka_test_soak::{Failure, Outcome, within};

/// Replies to each call of a queue with the body of the call.
async fn serve(client: Client, queue: String) -> Outcome {
    let mut calls = client.basic_consume(&queue).prefetch_count(20).await?;
    while let Some(call) = calls.next().await {
        let call = call?;
        let properties = call.properties();
        let to = properties.reply_to.ok_or("no reply_to")?.to_string();
        let id = properties.correlation_id.ok_or("no correlation_id")?;
        let id = id.to_string();
        let publish = client.basic_publish("", to, call.body());
        publish.correlation_id(&id).await?;
        call.ack()?;
    }
    Ok(())
}

/// Sends calls with different bodies.
fn send(client: &Client, queue: &str, name: &str, count: usize) -> Vec<(String, Promise<Message>)> {
    let send = |n| {
        let body = format!("{name} {n}");
        let reply = client.rpc("", queue, body.clone()).send();
        (body, reply)
    };
    (0..count).map(send).collect()
}

/// Makes calls at the same time. Each receives its own reply.
async fn call(client: Client, queue: String, name: String, count: usize) -> Outcome {
    for (body, reply) in send(&client, &queue, &name, count) {
        assert_eq!(reply.await?.body(), body.as_bytes());
    }
    Ok(client.close().await?)
}

/// Waits until the node has started.
///
/// RabbitMQ accepts connections earlier. Before 4.2, it drops replies until then, because it routes
/// them only to running nodes.
async fn await_startup() -> Outcome {
    operator(|node| node.ctl(&["await_startup"]).map(drop)).await
}

#[test]
fn several_callers_receive_their_own_replies() -> Outcome {
    with_client(async |client| {
        await_startup().await?;
        let url = shared_node()?.url();
        let queue = client.queue_declare("").durable(true).await?.name;
        let mut servers = Vec::new();
        for _ in 0..2 {
            servers.push(smol::spawn(serve(connect(&url).await?, queue.clone())));
        }
        let mut callers = Vec::new();
        for n in 0..5 {
            let caller = connect(&url).await?;
            callers.push(smol::spawn(call(caller, queue.clone(), n.to_string(), 200)));
        }
        for caller in callers {
            caller.await?;
        }
        drop(servers);
        client.queue_delete(&queue).await?;
        Ok(())
    })
}

#[test]
fn caller_receives_its_own_replies_after_a_reconnect() -> Outcome {
    with_client(async |client| {
        await_startup().await?;
        let queue = client.queue_declare("").durable(true).await?.name;
        let proxy = Proxy::start(shared_node()?.port())?;
        let caller = connect(&proxy.url()).await?;
        let mut notices = caller.notices();
        // A server replies to them after the loss.
        let lost = send(&caller, &queue, "lost", 50);
        let queued = async {
            let mut count = 0;
            while count < 50 {
                let declared = client.queue_declare(&queue).passive(true).await?;
                count = declared.message_count;
            }
            Ok::<(), Failure>(())
        };
        within(DEADLINE, "queueing", queued).await??;
        proxy.reset();
        for (_, reply) in lost {
            let lost = reply.await;
            assert!(matches!(lost, Err(Error::Unconfirmed(_))), "{lost:?}");
        }
        recovered(&mut notices).await?;
        let server = smol::spawn(serve(client.clone(), queue.clone()));
        call(caller, queue.clone(), "again".to_owned(), 200).await?;
        server.cancel().await;
        client.queue_delete(&queue).await?;
        Ok(())
    })
}
