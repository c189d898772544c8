//! One node for all tests of this process: some share it, some need it for themselves.

use puka_test_rabbitmq::{Node, NodeError};
use puka_test_soak::{Failure, Outcome, Stage};
use std::sync::{Arc, LazyLock, PoisonError, RwLock};
use std::time::Duration;

static NODE: LazyLock<RwLock<Result<Arc<Node>, NodeError>>> =
    LazyLock::new(|| RwLock::new(Node::start().map(Arc::new)));

/// Far more than any test takes once it has the node.
const DEADLINE: Duration = Duration::from_secs(180);

fn run(node: &Result<Arc<Node>, NodeError>, case: impl AsyncFnOnce(Stage) -> Outcome) -> Outcome {
    let node = node.clone()?;
    // The test before may have failed in the middle.
    if node.thaw().is_err() {
        node.start_again()?;
    }
    let stage = Stage::new(node)?;
    smol::block_on(puka_test_soak::within(DEADLINE, "the test", case(stage)))?
}

/// Runs a test that does something to the node, while no other uses it.
pub(super) fn alone(case: impl AsyncFnOnce(Stage) -> Outcome) -> Outcome {
    run(&NODE.write().unwrap_or_else(PoisonError::into_inner), case)
}

/// Runs a test that does nothing to the node.
pub(super) fn beside(case: impl AsyncFnOnce(Stage) -> Outcome) -> Outcome {
    run(&NODE.read().unwrap_or_else(PoisonError::into_inner), case)
}

/// A virtual host of one's own, through the proxy.
pub(super) async fn virtual_host(stage: &Stage, name: &str) -> Result<puka::Options, Failure> {
    let vhost = name.to_owned();
    stage.node(move |node| node.add_vhost(&vhost)).await?;
    Ok(stage.options()?.virtual_host(name))
}
