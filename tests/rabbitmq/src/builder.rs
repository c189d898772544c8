//! The options of a node, and its start.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use crate::epmd::Epmd;
use crate::error::NodeError;
use crate::folder::Folder;
use crate::installation::Installation;
use crate::node::{Node, Parts, unused_name};
use crate::port::{Port, random};

/// The files, each with its option in `rabbitmq.conf`.
const TLS_FILES: [(&str, &str); 3] = [
    ("cacertfile", "authorities.pem"),
    ("certfile", "certificate.pem"),
    ("keyfile", "key.pem"),
];
const ATTEMPTS: usize = 5;
const LIMIT: Duration = Duration::from_secs(90);

/// Options of a [`Node`], from [`Node::builder`].
#[derive(Clone, Debug)]
#[must_use = "nothing is started before `start`"]
pub struct Builder {
    name: Option<String>,
    config: String,
    plugins: Vec<String>,
    /// The contents of [`TLS_FILES`].
    tls: Option<[String; 3]>,
    peer: Option<Peer>,
    limit: Duration,
}

/// The node to join, and what all nodes of its cluster share.
#[derive(Clone, Debug)]
struct Peer {
    name: String,
    cookie: String,
    epmd: Arc<Epmd>,
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self {
            name: None,
            config: String::new(),
            plugins: Vec::new(),
            tls: None,
            peer: None,
            limit: LIMIT,
        }
    }

    /// Sets the Erlang node name, such as `rabbit@localhost`. By default it is generated. The part
    /// after the `@` must be a name of 127.0.0.1 without dots.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Adds a line to `rabbitmq.conf`, such as `heartbeat = 2`. A later line overrides an earlier
    /// one.
    pub fn config(mut self, line: &str) -> Self {
        self.config.push_str(line);
        self.config.push('\n');
        self
    }

    /// Enables a plugin, such as `rabbitmq_consistent_hash_exchange`, with its dependencies. A
    /// plugin that listens uses its default port, on every address, unless a
    /// [`config`](Self::config) line changes that.
    pub fn plugin(mut self, plugin: &str) -> Self {
        self.plugins.push(plugin.to_owned());
        self
    }

    /// Also listens for TLS, on [`Node::tls_port`], with these PEM texts. The node requests no
    /// client certificate; `config("ssl_options.verify = verify_peer")` and
    /// `config("ssl_options.fail_if_no_peer_cert = true")` change that.
    pub fn tls(mut self, authorities: &str, certificate: &str, key: &str) -> Self {
        self.tls = Some([authorities, certificate, key].map(str::to_owned));
        self
    }

    /// Lets the new node join the cluster of `node`, or form one with it.
    pub fn join_cluster(mut self, node: &Node) -> Self {
        let (epmd, cookie) = node.cluster();
        self.peer = Some(Peer {
            name: node.name().to_owned(),
            cookie,
            epmd,
        });
        self
    }

    /// Sets the timeout of a start, and of [`Node::start_again`] and [`Node::shut_down`]. It is 90
    /// seconds by default, for slow and busy machines.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Starts the node. Returns when it accepts AMQP connections.
    ///
    /// # Errors
    /// [`NodeError::NotInstalled`] if RabbitMQ is not installed, [`NodeError::Exited`] or
    /// [`NodeError::TimedOut`] with the end of the log if the node does not start.
    pub fn start(&self) -> Result<Node, NodeError> {
        let installation = Installation::find()?;
        let mut attempts = 1;
        loop {
            match self.attempt(&installation) {
                Err(NodeError::PortLost { .. }) if attempts < ATTEMPTS => attempts += 1,
                outcome => return outcome,
            }
        }
    }

    fn attempt(&self, installation: &Installation) -> Result<Node, NodeError> {
        let (epmd, cookie) = match &self.peer {
            Some(peer) => (Arc::clone(&peer.epmd), peer.cookie.clone()),
            None => (
                Arc::new(Epmd::start(installation)?),
                format!("{:016X}{:016X}", random(), random()),
            ),
        };
        let amqp = Port::claim()?;
        let distribution = Port::claim()?;
        let tls = self.tls.as_ref().map(|_| Port::claim()).transpose()?;
        let folder = Folder::create(&cookie, &self.plugins)?;
        for ((_, file), text) in TLS_FILES.iter().zip(self.tls.iter().flatten()) {
            folder.write(file, text)?;
        }
        folder.write(
            "rabbitmq.conf",
            &self.config_file(&folder, &amqp, tls.as_ref()),
        )?;
        let node = Node::new(Parts {
            name: self.name.clone().unwrap_or_else(unused_name),
            installation: installation.clone(),
            amqp,
            distribution,
            tls,
            folder,
            epmd,
            cookie,
            limit: self.limit,
        });
        node.start_again()?;
        if let Some(peer) = &self.peer {
            node.ctl(&["stop_app"])?;
            node.ctl(&["join_cluster", &peer.name])?;
            node.ctl(&["start_app"])?;
        }
        Ok(node)
    }

    fn config_file(&self, folder: &Folder, amqp: &Port, tls: Option<&Port>) -> String {
        // Little free space on the machine that runs the tests must not raise an alarm.
        let mut config = format!(
            "listeners.tcp.1 = 127.0.0.1:{}\n\
             log.console = true\nlog.console.level = info\nlog.file = false\n\
             disk_free_limit.absolute = 1MB\n",
            amqp.number()
        );
        if let Some(port) = tls {
            // Writing to a String never fails.
            let _ = writeln!(config, "listeners.ssl.1 = 127.0.0.1:{}", port.number());
            for (option, file) in TLS_FILES {
                let _ = writeln!(
                    config,
                    "ssl_options.{option} = {}",
                    folder.path(file).display()
                );
            }
            config.push_str(
                "ssl_options.verify = verify_none\nssl_options.fail_if_no_peer_cert = false\n",
            );
        }
        config.push_str(&self.config);
        config
    }
}
