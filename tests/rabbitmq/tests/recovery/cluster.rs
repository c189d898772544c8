//! A cluster of two nodes that are restarted one after the other.

use puka::{Options, QueueType};
use puka_test_rabbitmq::Node;
use puka_test_soak::{Failure, Load, Outcome, within};
use smol::Timer;
use std::sync::Arc;
use std::time::Duration;

/// A timeout far longer than the test takes.
const DEADLINE: Duration = Duration::from_secs(240);

async fn on<T: Send + 'static>(
    node: &Arc<Node>,
    work: impl FnOnce(&Node) -> Result<T, puka_test_rabbitmq::NodeError> + Send + 'static,
) -> Result<T, Failure> {
    let node = node.clone();
    Ok(smol::unblock(move || work(&node)).await?)
}

/// Waits until each mirrored queue has a synchronised mirror.
async fn synchronised(node: &Arc<Node>) -> Outcome {
    within(Duration::from_secs(60), "synchronising", async {
        loop {
            let listing = ["list_queues", "policy", "synchronised_slave_pids"];
            let queues = on(node, move |node| node.ctl(&listing)).await?;
            let mirrored = queues.lines().filter(|line| line.starts_with("mirrored"));
            if mirrored.clone().count() > 0 && mirrored.clone().all(|line| line.contains('<')) {
                return Ok(());
            }
            Timer::after(Duration::from_millis(200)).await;
        }
    })
    .await?
}

#[test]
fn cluster_restarted_node_by_node_loses_nothing() -> Outcome {
    let case = async {
        let first = Arc::new(smol::unblock(Node::start).await?);
        if on(&first, Node::version).await? >= (4, 0) {
            // RabbitMQ 4.0 removed mirrored queues, and a quorum queue on two nodes needs both of
            // them.
            return Outcome::Ok(());
        }
        let peer = first.clone();
        let second =
            Arc::new(smol::unblock(move || Node::builder().join_cluster(&peer).start()).await?);
        on(&first, |node| {
            let mirrors = r#"{"ha-mode":"all","ha-sync-mode":"automatic"}"#;
            node.ctl(&[
                "set_policy",
                "--apply-to",
                "queues",
                "mirrored",
                "^load",
                mirrors,
            ])
        })
        .await?;
        let url = format!(
            "amqp://guest:guest@127.0.0.1:{},127.0.0.1:{}/",
            first.port(),
            second.port()
        );
        let load = Load::start(Options::from_uri(&url)?, QueueType::Classic).await?;
        load.flows(100).await?;
        for node in [&first, &second] {
            synchronised(&first).await?;
            let before = load.recoveries();
            on(node, Node::shut_down).await?;
            load.recovers_from(&before).await?;
            load.flows(100).await?;
            on(node, Node::start_again).await?;
        }
        let account = load.ends().await?;
        assert!(account.confirmed > 200, "{account:?}");
        Ok(())
    };
    smol::block_on(within(DEADLINE, "the test", case))?
}
