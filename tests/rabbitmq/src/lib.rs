//! Private, real RabbitMQ nodes for tests.
//!
//! [`Node::start`] gives a node of one's own: its name, Erlang cookie, data, log and ports are
//! its own, it listens on 127.0.0.1 only, and a broker that already runs on the machine is
//! left alone. Any number of nodes can run at once, in one process or in several. A node can be
//! killed, started again, frozen and thawed, and asked things through `rabbitmqctl`.
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
//! Nothing is left behind: dropping a [`Node`] ends its processes and removes its folder, also when
//! a test panics. When the test process is killed, or ends with a node in a `static`, the watchdog
//! of the node does the same: see the `guard` module.
//!
//! A test that needs no broker of its own takes [`shared_url`] and keeps its names apart from those
//! of other tests with [`unique`].
//!
//! It needs `rabbitmq-server` (3.10 or later), a Unix, and `setsid`; where RabbitMQ is not
//! installed every start fails and says what to install. `PUKA_TEST_RABBITMQ_HOME` points it at an
//! unpacked RabbitMQ instead of the installed one; `tests/rabbitmq/install-4` makes such a folder.

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
