//! One node for all tests of this process. Some tests share it, others need exclusive access.

use puka_test_rabbitmq::{Node, NodeError};
use puka_test_soak::{Failure, Outcome, Stage};
use std::sync::{Arc, LazyLock, PoisonError, RwLock};
use std::time::Duration;

static NODE: LazyLock<RwLock<Result<Arc<Node>, NodeError>>> =
    LazyLock::new(|| RwLock::new(Node::start().map(Arc::new)));

/// A timeout far longer than any test takes with the node.
const DEADLINE: Duration = Duration::from_secs(180);

fn run(node: &Result<Arc<Node>, NodeError>, case: impl AsyncFnOnce(Stage) -> Outcome) -> Outcome {
    let node = node.clone()?;
    // The previous test may have failed in between.
    if node.thaw().is_err() {
        node.start_again()?;
    }
    let stage = Stage::new(node)?;
    smol::block_on(puka_test_soak::within(DEADLINE, "the test", case(stage)))?
}

/// Runs a test that affects the node, with exclusive access to it.
pub(super) fn alone(case: impl AsyncFnOnce(Stage) -> Outcome) -> Outcome {
    run(&NODE.write().unwrap_or_else(PoisonError::into_inner), case)
}

/// Runs a test that does not affect the node.
pub(super) fn beside(case: impl AsyncFnOnce(Stage) -> Outcome) -> Outcome {
    run(&NODE.read().unwrap_or_else(PoisonError::into_inner), case)
}

/// Creates a virtual host for a test, reached through the proxy.
pub(super) async fn virtual_host(stage: &Stage, name: &str) -> Result<puka::Options, Failure> {
    let vhost = name.to_owned();
    stage.node(move |node| node.add_vhost(&vhost)).await?;
    Ok(stage.options()?.virtual_host(name))
}
