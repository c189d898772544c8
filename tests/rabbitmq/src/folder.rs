//! A node's folder: configuration, Erlang cookie, data and log, and the environment with which
//! RabbitMQ's scripts use only this folder.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::error::NodeError;
use crate::installation::search_path;

/// The maximum size of the end of a log in an error, in bytes.
const LOG_END: u64 = 16 * 1024;

/// The folder, which is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Folder {
    folder: TempDir,
}

impl Folder {
    /// Creates the folder, with the cookie and the list of plugins.
    pub(crate) fn create(cookie: &str, plugins: &[String]) -> Result<Self, NodeError> {
        let folder = tempfile::Builder::new()
            .prefix("puka-rabbitmq-")
            .tempdir()
            .map_err(NodeError::io("making a temporary folder"))?;
        let this = Self { folder };
        for name in ["home", "log", "data"] {
            fs::create_dir(this.path(name))
                .map_err(NodeError::io(format!("making the folder {name}")))?;
        }
        this.write("home/.erlang.cookie", cookie)?;
        let private = fs::Permissions::from_mode(0o400);
        fs::set_permissions(this.path("home/.erlang.cookie"), private)
            .map_err(NodeError::io("making the Erlang cookie private"))?;
        this.write("enabled_plugins", &format!("[{}].\n", plugins.join(",")))?;
        // The scripts read this instead of /etc/rabbitmq/rabbitmq-env.conf.
        this.write("rabbitmq-env.conf", "")?;
        Ok(this)
    }

    /// Writes a file in the folder.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<(), NodeError> {
        fs::write(self.path(name), text).map_err(NodeError::io(format!("writing {name}")))
    }

    /// Returns the path of the folder.
    pub(crate) fn root(&self) -> &Path {
        self.folder.path()
    }

    /// Returns the path of a file in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    /// Returns the path of the server's log, which contains all its starts.
    pub(crate) fn log(&self) -> PathBuf {
        self.path("log/node.log")
    }

    /// Returns the current size of the log in bytes.
    pub(crate) fn log_length(&self) -> u64 {
        fs::metadata(self.log()).map_or(0, |log| log.len())
    }

    /// Returns the end of the log, without its first `from` bytes.
    pub(crate) fn log_end(&self, from: u64) -> String {
        let read = || {
            let mut log = fs::File::open(self.log())?;
            let end = log.metadata()?.len();
            log.seek(SeekFrom::Start(from.max(end.saturating_sub(LOG_END))))?;
            let mut text = Vec::new();
            log.read_to_end(&mut text)?;
            std::io::Result::Ok(String::from_utf8_lossy(&text).into_owned())
        };
        read().unwrap_or_else(|error| format!("(the log can't be read: {error})"))
    }

    /// Returns a command of RabbitMQ that uses only this folder, and not the system's broker.
    pub(crate) fn command(&self, script: &Path, node: &str, epmd: u16) -> Command {
        let mut command = Command::new(script);
        let paths = [
            ("HOME", "home"),
            ("RABBITMQ_CONFIG_FILE", "rabbitmq.conf"),
            ("RABBITMQ_CONF_ENV_FILE", "rabbitmq-env.conf"),
            ("RABBITMQ_ADVANCED_CONFIG_FILE", "advanced.config"),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", "enabled_plugins"),
            ("RABBITMQ_MNESIA_BASE", "data"),
            ("RABBITMQ_LOG_BASE", "log"),
            ("RABBITMQ_GENERATED_CONFIG_DIR", "data/config"),
            ("RABBITMQ_SCHEMA_DIR", "data/schema"),
            ("RABBITMQ_PLUGINS_EXPAND_DIR", "data/plugins"),
            ("RABBITMQ_PID_FILE", "data/pid"),
        ];
        command
            .env_clear()
            .env("PATH", search_path())
            .env(
                "TMPDIR",
                env::var_os("TMPDIR").unwrap_or_else(|| OsString::from("/tmp")),
            )
            .env("LANG", "C.UTF-8")
            .env("RABBITMQ_NODENAME", node)
            .env("RABBITMQ_LOGS", "-")
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("ERL_EPMD_PORT", epmd.to_string())
            .env("ERL_CRASH_DUMP_SECONDS", "0")
            .envs(paths.map(|(name, file)| (name, self.path(file))))
            .current_dir(self.root());
        command
    }
}
