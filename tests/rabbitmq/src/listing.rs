//! The queues, connections and channels of a node, as `rabbitmqctl` lists them.

use serde_json::Value;

use crate::error::NodeError;
use crate::node::Node;

/// A queue, as [`Node::list_queues`] returns it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// The number of its messages, ready and unacknowledged.
    pub messages: u64,
}

/// A connection, as [`Node::list_connections`] returns it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Connection {
    /// `CLIENT:PORT -> BROKER:PORT`
    pub name: String,
    /// The user.
    pub user: String,
    /// Its virtual host.
    pub vhost: String,
    /// The client's TCP port.
    pub peer_port: u16,
    /// The state, such as `running`, `blocked` or `blocking`.
    pub state: String,
    /// The number of its open channels.
    pub channels: u64,
}

/// A channel, as [`Node::list_channels`] returns it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Channel {
    /// The name of its connection, and its number in parentheses.
    pub name: String,
    /// Its number on that connection.
    pub number: u16,
    /// The number of its consumers.
    pub consumers: u64,
    /// The number of its unacknowledged deliveries.
    pub unacknowledged: u64,
    /// The number of its unconfirmed publishes.
    pub unconfirmed: u64,
    /// The prefetch count of its next consumer; 0 for no limit.
    pub prefetch: u64,
    /// Whether it is in confirm mode.
    pub confirms: bool,
}

impl Node {
    /// Returns the queues of the virtual host `/`.
    ///
    /// # Errors
    /// As [`ctl`](Self::ctl).
    pub fn list_queues(&self) -> Result<Vec<Queue>, NodeError> {
        self.list_queues_in("/")
    }

    /// Returns the queues of a virtual host.
    ///
    /// # Errors
    /// As [`ctl`](Self::ctl).
    pub fn list_queues_in(&self, vhost: &str) -> Result<Vec<Queue>, NodeError> {
        self.rows(
            &["list_queues", "--vhost", vhost],
            &["name", "messages"],
            |row| {
                Some(Queue {
                    name: text(row, "name")?,
                    messages: row.get("messages")?.as_u64()?,
                })
            },
        )
    }

    /// Returns all connections.
    ///
    /// # Errors
    /// As [`ctl`](Self::ctl).
    pub fn list_connections(&self) -> Result<Vec<Connection>, NodeError> {
        let columns = ["name", "user", "vhost", "peer_port", "state", "channels"];
        self.rows(&["list_connections"], &columns, |row| {
            Some(Connection {
                name: text(row, "name")?,
                user: text(row, "user")?,
                vhost: text(row, "vhost")?,
                peer_port: row.get("peer_port")?.as_u64()?.try_into().ok()?,
                state: text(row, "state")?,
                channels: row.get("channels")?.as_u64()?,
            })
        })
    }

    /// Returns the channels of all connections.
    ///
    /// # Errors
    /// As [`ctl`](Self::ctl).
    pub fn list_channels(&self) -> Result<Vec<Channel>, NodeError> {
        let columns = [
            "name",
            "number",
            "consumer_count",
            "messages_unacknowledged",
            "messages_unconfirmed",
            "prefetch_count",
            "confirm",
        ];
        self.rows(&["list_channels"], &columns, |row| {
            Some(Channel {
                name: text(row, "name")?,
                number: row.get("number")?.as_u64()?.try_into().ok()?,
                consumers: row.get("consumer_count")?.as_u64()?,
                unacknowledged: row.get("messages_unacknowledged")?.as_u64()?,
                unconfirmed: row.get("messages_unconfirmed")?.as_u64()?,
                prefetch: row.get("prefetch_count")?.as_u64()?,
                confirms: row.get("confirm")?.as_bool()?,
            })
        })
    }

    /// Returns a listing: each row is an object with these columns. It is JSON, because names may
    /// contain any characters.
    fn rows<Row>(
        &self,
        listing: &[&str],
        columns: &[&str],
        row: impl Fn(&Value) -> Option<Row>,
    ) -> Result<Vec<Row>, NodeError> {
        let arguments = [listing, columns, &["--formatter", "json"]].concat();
        let output = self.ctl(&arguments)?;
        let parsed = serde_json::from_str::<Value>(&output);
        let problem = match parsed.as_ref().map(Value::as_array) {
            Ok(Some(rows)) => match rows.iter().map(row).collect() {
                Some(rows) => return Ok(rows),
                None => "a column is missing or has another type".to_owned(),
            },
            Ok(None) => "not a list".to_owned(),
            Err(error) => error.to_string(),
        };
        Err(NodeError::Ctl {
            command: arguments.join(" "),
            problem,
            output,
        })
    }
}

fn text(row: &Value, column: &str) -> Option<String> {
    row.get(column)?.as_str().map(str::to_owned)
}
