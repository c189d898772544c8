//! Deprecated features that an operator does not permit. There are none before 3.13.

use crate::{hasty, next, publish, recovered};
use puka::{Client, Consumer, Error, Fault};
use puka_test_rabbitmq::{Node, Proxy, shared_node};
use puka_test_soak::{Failure, Outcome, until};
use std::time::Duration;

/// Returns `true` if the broker refuses transient queues that are not exclusive.
fn is_denied(error: &Error) -> bool {
    let says_so = |fault: &Fault| {
        fault
            .text
            .contains("`transient_nonexcl_queues` is deprecated")
            && fault.text.contains("not permitted per the configuration")
            && fault.method.to_string() == "queue.declare"
    };
    matches!(error, Error::InternalError(fault) if says_so(fault))
}

fn have_deprecated_features() -> Result<bool, Failure> {
    Ok(shared_node()?.version()? >= (4, 0))
}

/// Checks that a consumer receives messages.
async fn check(client: &Client, queue: &str, consumer: &mut Consumer) -> Outcome {
    publish(client, queue, "x").await?;
    Ok(next(consumer).await?.ack()?)
}

#[test]
fn denied_declaration_costs_only_the_connection() -> Outcome {
    if !have_deprecated_features()? {
        return Ok(());
    }
    let denied = "deprecated_features.permit.transient_nonexcl_queues = false";
    let node = Node::builder().config(denied).start()?;
    smol::block_on(async {
        let client = puka_smol::connect_with(hasty(&node.url())?).await?;
        let mut notices = client.notices();
        client.queue_declare("orders").durable(true).await?;
        let mut orders = client.basic_consume("orders").await?;
        let denied = client.queue_declare("transient").send();
        let durable = client.queue_declare("durable").durable(true).send();
        let exclusive = client.queue_declare("exclusive").exclusive(true).send();
        let denied = denied.await;
        assert!(denied.as_ref().is_err_and(is_denied), "{denied:?}");
        // They are repeated after the loss, and the one that caused it is not.
        durable.await?;
        exclusive.await?;
        let report = recovered(&mut notices).await?;
        assert!(report.failed.is_empty(), "{report:?}");
        check(&client, "orders", &mut orders).await?;
        Ok(client.close().await?)
    })
}

#[test]
fn queue_that_is_denied_later_is_left_out() -> Outcome {
    if !have_deprecated_features()? {
        return Ok(());
    }
    let node = Node::start()?;
    smol::block_on(async {
        let proxy = Proxy::start(node.port())?;
        let client = puka_smol::connect_with(hasty(&proxy.url())?).await?;
        let mut notices = client.notices();
        client.queue_declare("orders").durable(true).await?;
        let mut orders = client.basic_consume("orders").await?;
        client.queue_declare("events").auto_delete(true).await?;
        let events = client.basic_consume("events").await?;

        proxy.off();
        let is_deleted = || node.list_queues().is_ok_and(|queues| queues.len() == 1);
        until(Duration::from_secs(60), "deleting the queue", is_deleted).await?;
        // The feature flag of a deprecated feature denies it.
        node.ctl(&[
            "eval",
            "rabbit_feature_flags:enable(transient_nonexcl_queues).",
        ])?;
        proxy.on();
        let report = recovered(&mut notices).await?;
        let [(queue, denied), (consumer, missing)] = &*report.failed else {
            return Err(format!("{report:?}").into());
        };
        assert!(
            queue.contains("events") && is_denied(denied),
            "{queue}: {denied:?}"
        );
        assert!(consumer.contains(events.tag()), "{consumer}");
        assert!(matches!(missing, Error::NotFound(_)), "{missing:?}");
        check(&client, "orders", &mut orders).await?;
        Ok(client.close().await?)
    })
}
