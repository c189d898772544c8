//! Private, real RabbitMQ nodes for tests.
//!
//! [`Node::start`] returns a private node. It has its own name, Erlang cookie, data, log and ports,
//! listens only on 127.0.0.1, and does not affect a broker that already runs on the machine. Any
//! number of nodes can run at once, in one process or in several. A test can kill a node, start it
//! again, freeze it, thaw it, and control it through `rabbitmqctl`.
//!
//! ```no_run
//! # fn main() -> Result<(), puka_test_rabbitmq::NodeError> {
//! let node = puka_test_rabbitmq::Node::start()?;
//! println!("{}", node.url());
//! node.kill();
//! node.start_again()?;
//! # Ok(()) }
//! ```
//!
//! Dropping a [`Node`] ends its processes and removes its folder, also if a test panics. If the
//! test process is killed, or ends with a node in a `static`, the node's watchdog does the same:
//! see the `guard` module.
//!
//! A test that does not need a private broker uses [`shared_url`], and [`unique`] for names that no
//! other test uses.
//!
//! The crate needs `rabbitmq-server` (3.10 or later), a Unix, and `setsid`. Without RabbitMQ every
//! start fails with a message that says what to install. `PUKA_TEST_RABBITMQ_HOME` selects an
//! unpacked RabbitMQ instead of the installed one; `tests/rabbitmq/install-4` creates such a
//! folder.

#![forbid(unsafe_code)]

mod authority;
mod builder;
mod ctl;
mod epmd;
mod error;
mod folder;
mod guard;
mod installation;
mod listing;
mod login;
mod node;
mod port;
mod proxy;
mod shared;

pub use authority::{Authority, Identity};
pub use builder::Builder;
pub use ctl::major_and_minor;
pub use error::NodeError;
pub use listing::{Channel, Connection, Queue};
pub use node::Node;
pub use proxy::{Proxy, Rate};
pub use shared::{TLS_URL_VARIABLE, URL_VARIABLE, shared_node, shared_url, unique};
