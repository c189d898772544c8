//! A node for tests that need a broker and do not affect each other.

use std::env;
use std::process;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::NodeError;
use crate::node::Node;
use crate::port::random;

/// The environment variable for the URL of a running node. The binary `with-rabbitmq` starts a node
/// and sets it, so that the processes of a test run share the node.
pub const URL_VARIABLE: &str = "PUKA_TEST_RABBITMQ_URL";

/// The environment variable for the `amqps` URI of the same node, with the file of the authority to
/// trust.
pub const TLS_URL_VARIABLE: &str = "PUKA_TEST_RABBITMQ_TLS_URL";

/// Returns the node of this test process, which the first call starts.
///
/// All tests of the process share it: do not kill it, and do not raise alarms. Its watchdog ends it
/// with the process, because Rust does not drop statics.
///
/// # Errors
/// As [`Node::start`]. Each later call returns the same error.
pub fn shared_node() -> Result<&'static Node, NodeError> {
    static NODE: LazyLock<Result<Node, NodeError>> = LazyLock::new(Node::start);
    NODE.as_ref().map_err(Clone::clone)
}

/// Returns the URL of a broker for all tests: [`URL_VARIABLE`] if it is set, and otherwise that of
/// [`shared_node`].
///
/// # Errors
/// As [`shared_node`].
pub fn shared_url() -> Result<String, NodeError> {
    match env::var(URL_VARIABLE) {
        Ok(url) if !url.is_empty() => Ok(url),
        _ => Ok(shared_node()?.url()),
    }
}

/// Returns a name for a queue or exchange that no other test uses, in this process or another:
/// `orders` becomes `orders-PID-N-RANDOM`.
#[must_use]
pub fn unique(name: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    // A node may outlive a process, whose id may then be reused.
    static PROCESS: LazyLock<u64> = LazyLock::new(random);
    format!(
        "{name}-{}-{}-{:08x}",
        process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed),
        *PROCESS & 0xFFFF_FFFF
    )
}
