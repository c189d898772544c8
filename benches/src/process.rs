//! This process, and the process of the broker.

use rustix::time::{ClockId, clock_gettime};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Returns the command line argument after a name.
#[must_use]
pub fn argument(name: &str) -> Option<String> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments.next()?;
    arguments.next()
}

/// Returns the number after a name on the command line.
///
/// # Panics
/// If it is not a number.
#[must_use]
#[expect(clippy::expect_used, reason = "a failed measurement ends the program")]
pub fn number(name: &str, default: u64) -> u64 {
    argument(name).map_or(default, |text| {
        text.parse().expect("the argument is a number")
    })
}

/// Returns the processor time of this process.
#[must_use]
pub fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// This program in another process, with `--serve`. Dropping the value kills the process.
#[derive(Debug)]
pub struct Broker {
    child: Child,
    address: SocketAddr,
}

impl Broker {
    /// Starts the process. It prints its address in its first line.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a failed measurement ends the program")]
    pub fn start(arguments: &[&str]) -> Self {
        let program = std::env::current_exe().expect("this program has a path");
        let mut command = Command::new(program);
        command
            .arg("--serve")
            .args(arguments)
            .stdout(Stdio::piped());
        let mut child = command.spawn().expect("the process starts");
        let mut line = String::new();
        let out = child.stdout.take().expect("the output is piped");
        BufReader::new(out)
            .read_line(&mut line)
            .expect("the broker prints its address");
        let address = line.trim().parse().expect("the line is an address");
        Self { child, address }
    }

    /// Returns the processor time of its threads as counted by Linux; zero on other systems.
    #[must_use]
    pub fn cpu(&self) -> Duration {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let nanoseconds = threads
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|thread| {
                let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
                text.split_whitespace().next()?.parse::<u64>().ok()
            });
        Duration::from_nanos(nanoseconds.sum())
    }

    /// Returns the address on which it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
