//! What a node has: queues, connections and channels, as `rabbitmqctl` lists them.

use serde_json::Value;

use crate::error::NodeError;
use crate::node::Node;

/// A queue, as [`Node::list_queues`] sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// Messages in it, ready and unacknowledged.
    pub messages: u64,
}

/// A connection, as [`Node::list_connections`] sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Connection {
    /// `CLIENT:PORT -> BROKER:PORT`
    pub name: String,
    /// Who logged in.
    pub user: String,
    /// Its virtual host.
    pub vhost: String,
    /// The client's TCP port.
    pub peer_port: u16,
    /// Such as `running`, `blocked` or `blocking`.
    pub state: String,
    /// How many channels are open on it.
    pub channels: u64,
}

/// A channel, as [`Node::list_channels`] sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Channel {
    /// The name of its connection, and its number in parentheses.
    pub name: String,
    /// Its number on that connection.
    pub number: u16,
    /// How many consumers it has.
    pub consumers: u64,
    /// Deliveries it has not acknowledged.
    pub unacknowledged: u64,
    /// Publishes that were not confirmed yet.
    pub unconfirmed: u64,
    /// The prefetch that its next consumer gets; 0 is no limit.
    pub prefetch: u64,
    /// Whether it confirms publishes.
    pub confirms: bool,
}

impl Node {
    /// The queues of the virtual host `/`.
    ///
    /// # Errors
    /// As [`ctl`](Self::ctl).
    pub fn list_queues(&self) -> Result<Vec<Queue>, NodeError> {
        self.list_queues_in("/")
    }

    /// The queues of a virtual host.
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

    /// The connections.
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

    /// The channels of all connections.
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

    /// A listing, each row of which is an object with these columns. JSON, because names hold
    /// anything.
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
                None => "a column is missing or not what it should be".to_owned(),
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
