//! The location of RabbitMQ.
//!
//! Debian's commands in `/usr/sbin` change the user and use the system's data. This module finds
//! the scripts that they call, which use the folders in their environment.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::NodeError;

/// The environment variable for the folder of an unpacked RabbitMQ (the parent of `sbin`), which is
/// used instead of the installed one.
const HOME_VARIABLE: &str = "PUKA_TEST_RABBITMQ_HOME";
const PACKAGED: &str = "/usr/lib/rabbitmq";
const ALWAYS_IN_PATH: [&str; 4] = ["/usr/local/bin", "/usr/sbin", "/usr/bin", "/bin"];

/// The folder of RabbitMQ's scripts.
#[derive(Clone, Debug)]
pub(crate) struct Installation {
    scripts: PathBuf,
}

impl Installation {
    /// Finds RabbitMQ in the folder that the environment names. Without one, searches PATH and the
    /// folders of packages.
    pub(crate) fn find() -> Result<Self, NodeError> {
        if let Some(home) = env::var_os(HOME_VARIABLE) {
            let scripts = Path::new(&home).join("sbin");
            return if is_complete(&scripts) {
                Ok(Self { scripts })
            } else {
                let looked = format!(
                    "{HOME_VARIABLE} is set, but {} has no RabbitMQ",
                    scripts.display()
                );
                Err(NodeError::NotInstalled { looked })
            };
        }
        let in_path = env::split_paths(&search_path())
            .filter_map(|folder| fs::canonicalize(folder.join("rabbitmq-server")).ok())
            .filter_map(|script| script.parent().map(Path::to_path_buf))
            .collect::<Vec<_>>();
        in_path
            .into_iter()
            .chain(packaged())
            .find(|folder| is_complete(folder))
            .map_or_else(
                || {
                    let looked = format!("rabbitmq-server is neither in PATH nor below {PACKAGED}");
                    Err(NodeError::NotInstalled { looked })
                },
                |scripts| Ok(Self { scripts }),
            )
    }

    /// Returns the script that starts a server.
    pub(crate) fn server(&self) -> PathBuf {
        self.scripts.join("rabbitmq-server")
    }

    /// Returns the script that controls a server.
    pub(crate) fn ctl(&self) -> PathBuf {
        self.scripts.join("rabbitmqctl")
    }

    /// Returns the port mapper: the one in the folder of the scripts, or Erlang's in PATH.
    pub(crate) fn epmd(&self) -> PathBuf {
        let own = self.scripts.join("epmd");
        if own.is_file() {
            own
        } else {
            PathBuf::from("epmd")
        }
    }
}

/// Returns PATH, followed by the folders that may contain Erlang. An ordinary user's PATH has no
/// `sbin`.
pub(crate) fn search_path() -> OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(ALWAYS_IN_PATH.map(PathBuf::from));
    env::join_paths(folders).unwrap_or(path)
}

fn packaged() -> Vec<PathBuf> {
    let versions = fs::read_dir(Path::new(PACKAGED).join("lib"))
        .into_iter()
        .flatten()
        .flatten();
    let mut folders = vec![Path::new(PACKAGED).join("bin")];
    folders.extend(versions.map(|version| version.path().join("sbin")));
    folders
}

/// Returns `true` if the folder contains the scripts themselves: only there is `rabbitmq-env`.
fn is_complete(folder: &Path) -> bool {
    ["rabbitmq-server", "rabbitmqctl", "rabbitmq-env"]
        .iter()
        .all(|script| folder.join(script).is_file())
}
