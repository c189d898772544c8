//! The errors of a node.
//!
//! Most tests return such an error through `?`, which prints `Debug`. So `Debug` is the readable
//! text, followed by the end of the node's log on separate lines.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// The reason why a node could not be started, or a request to it failed.
#[derive(Clone, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// RabbitMQ is not installed on this machine.
    #[error(
        "{looked}. These tests need RabbitMQ: apt-get install rabbitmq-server (or run ./tests/run, \
         which does that)"
    )]
    NotInstalled {
        /// The searched places.
        looked: String,
    },
    /// An operation of the system failed.
    #[error("{what}: {source}")]
    Io {
        /// The operation.
        what: String,
        /// The system's error.
        source: Arc<io::Error>,
    },
    /// All tried ports are in use.
    #[error("no free port on 127.0.0.1 from {first} to {last}")]
    NoFreePort {
        /// The lowest tried port.
        first: u16,
        /// The highest tried port.
        last: u16,
    },
    /// Another process took a port after it was chosen and before it was used, at each attempt.
    #[error("{name} lost a port to another process{}", LogEnd(log))]
    PortLost {
        /// The node.
        name: String,
        /// The end of the node's log.
        log: String,
    },
    /// The server ended during its start.
    #[error("{name} ended while it was starting{}", LogEnd(log))]
    Exited {
        /// The node.
        name: String,
        /// The end of the node's log.
        log: String,
    },
    /// The server missed a deadline.
    #[error("{name} did not {what} within {after:?}{}", LogEnd(log))]
    TimedOut {
        /// The node.
        name: String,
        /// The expected action.
        what: &'static str,
        /// The timeout.
        after: Duration,
        /// The end of the node's log.
        log: String,
    },
    /// The request needs a running node.
    #[error("{name} is not running")]
    NotRunning {
        /// The node.
        name: String,
    },
    /// `rabbitmqctl` failed, or its output was unexpected.
    #[error("rabbitmqctl {command}: {problem}\n{output}")]
    Ctl {
        /// The arguments of `rabbitmqctl`.
        command: String,
        /// The failure.
        problem: String,
        /// The output of `rabbitmqctl`.
        output: String,
    },
}

impl NodeError {
    /// Returns a function for `map_err` that adds the operation to an I/O error.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> NodeError {
        let what = what.into();
        move |source| NodeError::Io {
            what,
            source: Arc::new(source),
        }
    }
}

impl fmt::Debug for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The end of a log, after the text of an error.
struct LogEnd<'a>(&'a str);

impl fmt::Display for LogEnd<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.trim_end() {
            "" => f.write_str(" (and logged nothing)"),
            log => write!(f, ". The end of its log:\n{log}"),
        }
    }
}
