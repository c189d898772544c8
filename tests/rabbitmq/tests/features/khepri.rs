//! The metadata store Khepri: optional since 3.13, and the only one since 4.3.

use crate::{hasty, next, recovered};
use puka::{Client, Consumer, Error, Notices, QueueType};
use puka_test_rabbitmq::{Node, Proxy, shared_node};
use puka_test_soak::{Failure, Outcome};

fn is_enabled(node: &Node) -> Result<bool, Failure> {
    let enabled = node.ctl(&["eval", "rabbit_khepri:is_enabled()."])?;
    Ok(enabled.trim() == "true")
}

/// A topology of durable and other entities, with its consumers.
struct Topology {
    client: Client,
    orders: Consumer,
    events: Consumer,
    notices: Notices,
}

impl Topology {
    async fn new(client: Client) -> Result<Self, Failure> {
        let durable = client.exchange_declare("durable").durable(true);
        durable.exchange_type("topic").await?;
        let fleeting = client.exchange_declare("fleeting").auto_delete(true);
        fleeting.exchange_type("topic").await?;
        let bind = client.exchange_bind("fleeting", "durable");
        bind.routing_key("event.#").await?;
        let queue = client.queue_declare("orders").durable(true);
        queue.queue_type(QueueType::Quorum).await?;
        let bind = client.queue_bind("orders", "durable");
        bind.routing_key("order.*").await?;
        let queue = client.queue_declare("").exclusive(true).await?.name;
        let bind = client.queue_bind(&queue, "fleeting");
        bind.routing_key("#").await?;
        Ok(Self {
            orders: client.basic_consume("orders").prefetch_count(1).await?,
            events: client.basic_consume(&queue).await?,
            notices: client.notices(),
            client,
        })
    }

    /// Checks that messages take their routes, and that changes and refusals work.
    async fn check(&mut self) -> Outcome {
        let publish = |key| {
            let publish = self.client.basic_publish("durable", key, key);
            publish.mandatory(true)
        };
        publish("order.new").await?;
        next(&mut self.orders).await?.ack()?;
        publish("event.new.order").await?;
        next(&mut self.events).await?.ack()?;

        let unrouted = publish("other").await;
        assert!(matches!(unrouted, Err(Error::NoRoute(_))), "{unrouted:?}");
        let bind = self.client.queue_bind("orders", "durable");
        bind.routing_key("other").await?;
        publish("other").await?;
        next(&mut self.orders).await?.ack()?;
        let unbind = self.client.queue_unbind("orders", "durable");
        unbind.routing_key("other").await?;
        let unrouted = publish("other").await;
        assert!(matches!(unrouted, Err(Error::NoRoute(_))), "{unrouted:?}");

        let missing = self.client.queue_declare("missing").passive(true).await;
        assert!(matches!(missing, Err(Error::NotFound(_))), "{missing:?}");
        let another = self.client.exchange_declare("durable").durable(true).await;
        assert!(
            matches!(another, Err(Error::PreconditionFailed(_))),
            "{another:?}"
        );
        Ok(())
    }

    /// Waits for a recovery of everything, and checks it.
    async fn is_recovered(&mut self) -> Outcome {
        let report = recovered(&mut self.notices).await?;
        let counts = (report.entities, report.consumers, report.renamed.len());
        assert_eq!((counts, report.failed.len()), ((7, 2, 1), 0), "{report:?}");
        self.check().await
    }
}

#[test]
fn client_works_and_recovers_with_khepri() -> Outcome {
    let version = shared_node()?.version()?;
    if version < (4, 0) {
        return Ok(());
    }
    let node = Node::start()?;
    let proxy = Proxy::start(node.port())?;
    smol::block_on(async {
        let client = puka_smol::connect_with(hasty(&proxy.url())?).await?;
        let mut topology = Topology::new(client).await?;
        topology.check().await?;
        assert_eq!(is_enabled(&node)?, version >= (4, 3));
        // The client remains connected while the node moves its metadata.
        node.ctl(&["enable_feature_flag", "--experimental", "khepri_db"])?;
        assert!(is_enabled(&node)?);
        topology.check().await?;
        assert_eq!(topology.client.counters().lost, 0);
        proxy.reset();
        topology.is_recovered().await?;
        node.shut_down()?;
        node.start_again()?;
        topology.is_recovered().await?;
        Ok(topology.client.close().await?)
    })
}
