//! What can go wrong with a node. It knows nothing of how nodes work.
//!
//! Tests mostly end with such an error through `?`, which prints `Debug`: so `Debug` is the
//! readable text, with the end of the node's log on lines of their own.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Why a node could not be started, or did not do what it was told.
#[derive(Clone, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// There is no RabbitMQ on this machine.
    #[error(
        "{looked}. These tests need RabbitMQ: apt-get install rabbitmq-server (or run ./tests/run, \
         which does that)"
    )]
    NotInstalled {
        /// Where it was looked for.
        looked: String,
    },
    /// The operating system refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Its answer.
        source: Arc<io::Error>,
    },
    /// Every port that was tried is taken.
    #[error("no free port on 127.0.0.1 from {first} to {last}")]
    NoFreePort {
        /// The lowest port tried.
        first: u16,
        /// The highest port tried.
        last: u16,
    },
    /// Somebody else took a port between its choice and its use, each time it was tried.
    #[error("{name} lost a port to somebody else{}", LogEnd(log))]
    PortLost {
        /// The node.
        name: String,
        /// The end of its log.
        log: String,
    },
    /// The server ended while it was starting.
    #[error("{name} ended while it was starting{}", LogEnd(log))]
    Exited {
        /// The node.
        name: String,
        /// The end of its log.
        log: String,
    },
    /// The server did not do something in time.
    #[error("{name} did not {what} within {after:?}{}", LogEnd(log))]
    TimedOut {
        /// The node.
        name: String,
        /// What it was to do.
        what: &'static str,
        /// The time it had.
        after: Duration,
        /// The end of its log.
        log: String,
    },
    /// The node was told something that only a running one can do.
    #[error("{name} is not running")]
    NotRunning {
        /// The node.
        name: String,
    },
    /// `rabbitmqctl` failed, or said something unexpected.
    #[error("rabbitmqctl {command}: {problem}\n{output}")]
    Ctl {
        /// Its arguments.
        command: String,
        /// What was wrong.
        problem: String,
        /// What it printed.
        output: String,
    },
}

impl NodeError {
    /// For `map_err`: an I/O error together with what was tried.
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

/// The end of a log, set apart from the sentence before it.
struct LogEnd<'a>(&'a str);

impl fmt::Display for LogEnd<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.trim_end() {
            "" => f.write_str(" (and logged nothing)"),
            log => write!(f, ". The end of its log:\n{log}"),
        }
    }
}
