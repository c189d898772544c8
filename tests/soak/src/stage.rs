//! A node and the proxy in front of it.

use crate::Failure;
use puka::{Error, Options};
use puka_test_rabbitmq::{Node, NodeError, Proxy};
use std::sync::Arc;

/// The place of the faults.
#[derive(Debug)]
pub struct Stage {
    /// The broker.
    pub node: Arc<Node>,
    /// The proxy in front of the broker.
    pub proxy: Proxy,
}

impl Stage {
    /// Starts a proxy in front of a node.
    pub fn new(node: Arc<Node>) -> Result<Self, NodeError> {
        let proxy = Proxy::start(node.port())?;
        Ok(Self { node, proxy })
    }

    /// Returns options to connect to the broker through the proxy.
    pub fn options(&self) -> Result<Options, Error> {
        Options::from_uri(&self.proxy.url())
    }

    /// Runs slow work with the node without blocking other tasks.
    pub async fn node<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Node) -> Result<T, NodeError> + Send + 'static,
    ) -> Result<T, Failure> {
        let node = self.node.clone();
        Ok(smol::unblock(move || work(&node)).await?)
    }
}
