//! One node for tests that need a broker and disturb no other test on it.

use std::env;
use std::process;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::NodeError;
use crate::node::Node;
use crate::port::random;

/// The environment variable that names a node which is already there. The binary `with-rabbitmq`
/// starts a node and sets it for a whole test run, so that not every test process starts its own.
pub const URL_VARIABLE: &str = "PUKA_TEST_RABBITMQ_URL";

/// The environment variable for the same node over TLS: an `amqps` URI, with the file of the
/// authority to trust.
pub const TLS_URL_VARIABLE: &str = "PUKA_TEST_RABBITMQ_TLS_URL";

/// A node of this test process, started by the first call.
///
/// Every test of the process shares it: don't kill it, and don't raise alarms. It ends with the
/// process, by its watchdog, since Rust drops no statics.
///
/// # Errors
/// As [`Node::start`]; the same error again on every call.
pub fn shared_node() -> Result<&'static Node, NodeError> {
    static NODE: LazyLock<Result<Node, NodeError>> = LazyLock::new(Node::start);
    NODE.as_ref().map_err(Clone::clone)
}

/// The URL of a broker that is there for all tests: the one in [`URL_VARIABLE`] if that is set, and
/// otherwise that of [`shared_node`].
///
/// # Errors
/// As [`shared_node`].
pub fn shared_url() -> Result<String, NodeError> {
    match env::var(URL_VARIABLE) {
        Ok(url) if !url.is_empty() => Ok(url),
        _ => Ok(shared_node()?.url()),
    }
}

/// A name for a queue or exchange that no other test uses, in this process or another: `orders`
/// becomes `orders-PID-N-RANDOM`.
#[must_use]
pub fn unique(name: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    // A node may outlive a process, and its id may then come again.
    static PROCESS: LazyLock<u64> = LazyLock::new(random);
    format!(
        "{name}-{}-{}-{:08x}",
        process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed),
        *PROCESS & 0xFFFF_FFFF
    )
}
