//! Calls of `rabbitmqctl`, each of which takes about half a second.

use std::io::{Read, Seek, SeekFrom};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::NodeError;
use crate::node::{Node, Parts};

/// A frozen or overloaded node must not delay a test for ever.
const LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);
/// The Erlang node of `rabbitmqctl` listens only on loopback, on any free port.
const ERLANG_FLAGS: &str = "+S 1:1 +sbwt none -kernel inet_dist_use_interface {127,0,0,1}";
/// RabbitMQ's default, as a fraction of the memory.
const MEMORY_WATERMARK: &str = "0.4";

/// Returns the first two numbers of a version of RabbitMQ: `(4, 3)` for `4.3.6`.
pub fn major_and_minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??))
}

impl Node {
    /// Runs `rabbitmqctl` for this node. Returns its output, without headers.
    ///
    /// # Errors
    /// [`NodeError::Ctl`] if it fails or takes more than 60 seconds.
    pub fn ctl(&self, arguments: &[&str]) -> Result<String, NodeError> {
        let Parts {
            name,
            installation,
            folder,
            epmd,
            ..
        } = self.parts();
        let starting = || NodeError::io("running rabbitmqctl");
        let failed = |problem: String, output: String| {
            Err(NodeError::Ctl {
                command: arguments.join(" "),
                problem,
                output: output.trim_end().to_owned(),
            })
        };
        // Files, unlike pipes, need no reader while the command runs.
        let mut output = tempfile::tempfile().map_err(starting())?;
        let mut problems = tempfile::tempfile().map_err(starting())?;
        let mut child = folder
            .command(&installation.ctl(), name, epmd.port())
            .env("RABBITMQ_CTL_ERL_ARGS", ERLANG_FLAGS)
            .envs([
                ("RABBITMQ_CTL_DIST_PORT_MIN", "0"),
                ("RABBITMQ_CTL_DIST_PORT_MAX", "0"),
            ])
            .args(["--silent", "--node", name])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(starting())?)
            .stderr(problems.try_clone().map_err(starting())?)
            .spawn()
            .map_err(starting())?;
        let end = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = child.try_wait().map_err(starting())? {
                break status;
            }
            if Instant::now() >= end {
                child
                    .kill()
                    .and_then(|()| child.wait())
                    .map_err(starting())?;
                return failed(format!("no answer within {LIMIT:?}"), read(&mut problems)?);
            }
            thread::sleep(POLL);
        };
        let output = read(&mut output)?;
        if status.success() {
            Ok(output)
        } else {
            failed(status.to_string(), output + &read(&mut problems)?)
        }
    }

    /// Returns the major and minor version of RabbitMQ, such as `(4, 3)`.
    ///
    /// # Errors
    /// As [`ctl`](Self::ctl), also if the version cannot be parsed.
    pub fn version(&self) -> Result<(u32, u32), NodeError> {
        let output = self.ctl(&["version"])?;
        major_and_minor(output.trim()).ok_or_else(|| {
            let problem = "not a version".to_owned();
            NodeError::Ctl {
                command: "version".to_owned(),
                problem,
                output,
            }
        })
    }

    /// Lets the broker close all connections of all virtual hosts with 320 `CONNECTION_FORCED` and
    /// this reason.
    ///
    /// # Errors
    /// As [`ctl`](Self::ctl).
    pub fn close_all_connections(&self, reason: &str) -> Result<(), NodeError> {
        // Without `--global`, it closes only the connections of the virtual host `/`.
        self.tell(&["close_all_connections", "--global", reason])
    }

    /// Lets the broker close the connection of the client with this TCP port in the same way.
    ///
    /// # Errors
    /// As [`ctl`](Self::ctl), also if there is no such connection.
    pub fn close_connection(&self, peer_port: u16, reason: &str) -> Result<(), NodeError> {
        let listing = ["list_connections", "peer_port", "pid"];
        let output = self.ctl(&listing)?;
        let port = peer_port.to_string();
        let mut rows = output.lines().filter_map(|line| line.split_once('\t'));
        match rows.find(|(peer, _)| *peer == port) {
            Some((_, pid)) => self.tell(&["close_connection", pid, reason]),
            None => Err(NodeError::Ctl {
                command: listing.join(" "),
                problem: format!("no connection from port {port}"),
                output,
            }),
        }
    }

    /// Raises or clears the memory alarm. During an alarm, the broker blocks connections that
    /// publish.
    ///
    /// # Errors
    /// As [`ctl`](Self::ctl).
    pub fn set_memory_alarm(&self, raised: bool) -> Result<(), NodeError> {
        self.tell(&[
            "set_vm_memory_high_watermark",
            if raised { "0" } else { MEMORY_WATERMARK },
        ])
    }

    /// Adds a virtual host, and gives `guest` all permissions on it.
    ///
    /// # Errors
    /// As [`ctl`](Self::ctl).
    pub fn add_vhost(&self, vhost: &str) -> Result<(), NodeError> {
        self.tell(&["add_vhost", vhost])?;
        self.set_permissions(vhost, "guest", ".*", ".*", ".*")
    }

    /// Deletes a virtual host with all its entities.
    ///
    /// # Errors
    /// As [`ctl`](Self::ctl).
    pub fn delete_vhost(&self, vhost: &str) -> Result<(), NodeError> {
        self.tell(&["delete_vhost", vhost])
    }

    /// Adds a user without permissions.
    ///
    /// # Errors
    /// As [`ctl`](Self::ctl).
    pub fn add_user(&self, user: &str, password: &str) -> Result<(), NodeError> {
        self.tell(&["add_user", user, password])
    }

    /// Deletes a user.
    ///
    /// # Errors
    /// As [`ctl`](Self::ctl).
    pub fn delete_user(&self, user: &str) -> Result<(), NodeError> {
        self.tell(&["delete_user", user])
    }

    /// Allows a user to configure, write and read the names on a virtual host that match these
    /// regular expressions.
    ///
    /// # Errors
    /// As [`ctl`](Self::ctl).
    pub fn set_permissions(
        &self,
        vhost: &str,
        user: &str,
        configure: &str,
        write: &str,
        read: &str,
    ) -> Result<(), NodeError> {
        self.tell(&[
            "set_permissions",
            "--vhost",
            vhost,
            user,
            configure,
            write,
            read,
        ])
    }

    /// Removes all permissions of a user on a virtual host.
    ///
    /// # Errors
    /// As [`ctl`](Self::ctl).
    pub fn clear_permissions(&self, vhost: &str, user: &str) -> Result<(), NodeError> {
        self.tell(&["clear_permissions", "--vhost", vhost, user])
    }

    fn tell(&self, arguments: &[&str]) -> Result<(), NodeError> {
        self.ctl(arguments).map(drop)
    }
}

fn read(file: &mut std::fs::File) -> Result<String, NodeError> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))
        .and_then(|_| file.read_to_end(&mut bytes))
        .map_err(NodeError::io("reading the output of rabbitmqctl"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
