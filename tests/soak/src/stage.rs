//! A node and the proxy in front of it.

use crate::Failure;
use puka::{Error, Options};
use puka_test_rabbitmq::{Node, NodeError, Proxy};
use std::sync::Arc;

/// Where faults happen.
#[derive(Debug)]
pub struct Stage {
    /// The broker.
    pub node: Arc<Node>,
    /// What stands before it.
    pub proxy: Proxy,
}

impl Stage {
    /// Puts a proxy before a node.
    pub fn new(node: Arc<Node>) -> Result<Self, NodeError> {
        let proxy = Proxy::start(node.port())?;
        Ok(Self { node, proxy })
    }

    /// Options for the broker, through the proxy.
    pub fn options(&self) -> Result<Options, Error> {
        Options::from_uri(&self.proxy.url())
    }

    /// Has the node do something that takes its time, without holding up others.
    pub async fn node<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Node) -> Result<T, NodeError> + Send + 'static,
    ) -> Result<T, Failure> {
        let node = self.node.clone();
        Ok(smol::unblock(move || work(&node)).await?)
    }
}
