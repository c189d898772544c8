//! The default queue type, of a virtual host or of the node, applies to a queue that is declared
//! without a type. 3.10 has none.

use crate::{hasty, next, operator, publish, recovered};
use puka::{Error, Options, Queue};
use puka_test_rabbitmq::{Node, Proxy, shared_node, unique};
use puka_test_soak::{Failure, Outcome};

/// Returns `true` if virtual hosts and nodes have a default queue type.
async fn have_a_default() -> Result<bool, Failure> {
    Ok(operator(Node::version).await? >= (4, 0))
}

/// Adds a virtual host with quorum queues by default. Returns its name, and options for it.
async fn quorum_by_default(port: u16) -> Result<(String, Options), Failure> {
    let vhost = unique("quorum-by-default");
    let name = vhost.clone();
    operator(move |node| {
        node.ctl(&["add_vhost", &name, "--default-queue-type", "quorum"])?;
        node.set_permissions(&name, "guest", ".*", ".*", ".*")
    })
    .await?;
    let options = hasty(&format!("amqp://127.0.0.1:{port}"))?.virtual_host(&vhost);
    Ok((vhost, options))
}

/// Returns the name and type of each queue of a virtual host, in order.
async fn types(vhost: &str) -> Result<Vec<String>, Failure> {
    let vhost = vhost.to_owned();
    let list = move |node: &Node| node.ctl(&["list_queues", "--vhost", &vhost, "name", "type"]);
    let mut types: Vec<_> = operator(list).await?.lines().map(str::to_owned).collect();
    types.sort();
    Ok(types)
}

fn is_refused(declared: &Result<Queue, Error>) -> bool {
    matches!(declared, Err(Error::PreconditionFailed(_)))
}

#[test]
fn default_type_applies_if_the_queue_fits_it() -> Outcome {
    smol::block_on(async {
        if !have_a_default().await? {
            return Ok(());
        }
        let (vhost, options) = quorum_by_default(shared_node()?.port()).await?;
        let client = puka_smol::connect_with(options).await?;
        client.queue_declare("durable").durable(true).await?;
        client.queue_declare("transient").await?;
        client
            .queue_declare("exclusive")
            .durable(true)
            .exclusive(true)
            .await?;
        client
            .queue_declare("kept")
            .durable(true)
            .auto_delete(true)
            .await?;
        assert_eq!(
            types(&vhost).await?,
            [
                "durable\tquorum",
                "exclusive\tclassic",
                "kept\tclassic",
                "transient\tclassic"
            ]
        );
        // A name from the broker and a priority do not select another type, and are refused.
        let unnamed = client.queue_declare("").durable(true).await;
        assert!(is_refused(&unnamed), "{unnamed:?}");
        let prioritized = client.queue_declare("prioritized").durable(true);
        let prioritized = prioritized.max_priority(5).await;
        assert!(is_refused(&prioritized), "{prioritized:?}");
        Ok(client.close().await?)
    })
}

#[test]
fn changed_default_type_leaves_consumers_running() -> Outcome {
    smol::block_on(async {
        if !have_a_default().await? {
            return Ok(());
        }
        let proxy = Proxy::start(shared_node()?.port())?;
        let (vhost, options) = quorum_by_default(proxy.port()).await?;
        let client = puka_smol::connect_with(options).await?;
        let mut notices = client.notices();
        client.queue_declare("orders").durable(true).await?;
        let mut orders = client.basic_consume("orders").prefetch_count(1).await?;
        proxy.reset();
        let report = recovered(&mut notices).await?;
        assert_eq!(
            (report.entities, report.consumers, report.failed.len()),
            (1, 1, 0)
        );

        let change = ["--default-queue-type", "classic"];
        operator(move |node| {
            node.ctl(&[&["update_vhost_metadata", &*vhost][..], &change].concat())
        })
        .await?;
        proxy.reset();
        let report = recovered(&mut notices).await?;
        // The same declaration now means another type.
        match &*report.failed {
            [(what, Error::PreconditionFailed(fault))]
                if what.contains("orders") && fault.text.contains("x-queue-type") => {}
            other => return Err(format!("{other:?}").into()),
        }
        assert_eq!((report.entities, report.consumers), (0, 1));
        publish(&client, "orders", "x").await?;
        next(&mut orders).await?.ack()?;
        Ok(client.close().await?)
    })
}

#[test]
fn default_type_of_a_node_survives_its_restart() -> Outcome {
    smol::block_on(async {
        if !have_a_default().await? {
            return Ok(());
        }
        let start = || {
            Node::builder()
                .config("default_queue_type = quorum")
                .start()
        };
        let node = smol::unblock(start).await?;
        let client = puka_smol::connect_with(hasty(&node.url())?).await?;
        let mut notices = client.notices();
        client.queue_declare("orders").durable(true).await?;
        let mut orders = client.basic_consume("orders").prefetch_count(1).await?;
        publish(&client, "orders", "x").await?;
        let held = next(&mut orders).await?;
        let node = smol::unblock(move || {
            // A node that is killed forgets the members of new quorum queues.
            node.shut_down()?;
            node.start_again().map(|()| node)
        })
        .await?;
        let report = recovered(&mut notices).await?;
        assert_eq!(
            (report.entities, report.consumers, report.failed.len()),
            (1, 1, 0)
        );
        let again = next(&mut orders).await?;
        // A quorum queue counts deliveries.
        let counts = format!("{:?}", again.headers()?);
        assert!(
            counts.contains("x-delivery-count") && again.redelivered(),
            "{counts}"
        );
        again.ack()?;
        assert!(matches!(held.ack(), Err(Error::Stale)));
        client.close().await?;
        drop(node);
        Ok(())
    })
}
