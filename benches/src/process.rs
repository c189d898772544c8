//! This process and the other one, in which the broker is.

use rustix::time::{ClockId, clock_gettime};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// What stands behind a name on the command line.
#[must_use]
pub fn argument(name: &str) -> Option<String> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments.next()?;
    arguments.next()
}

/// The number behind a name on the command line.
///
/// # Panics
/// When it is none.
#[must_use]
#[expect(clippy::expect_used, reason = "a measurement that goes wrong ends")]
pub fn number(name: &str, default: u64) -> u64 {
    argument(name).map_or(default, |text| text.parse().expect("a number"))
}

/// How much of the processor this process has used.
#[must_use]
pub fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// This program again, with `--serve`, as a process that ends with this value.
#[derive(Debug)]
pub struct Broker {
    child: Child,
    address: SocketAddr,
}

impl Broker {
    /// Starts it. It says its address in the first line that it prints.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a measurement that goes wrong ends")]
    pub fn start(arguments: &[&str]) -> Self {
        let program = std::env::current_exe().expect("this program has a path");
        let mut command = Command::new(program);
        command.arg("--serve").args(arguments).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let mut line = String::new();
        let out = child.stdout.take().expect("it is piped");
        BufReader::new(out).read_line(&mut line).expect("it says its address");
        let address = line.trim().parse().expect("an address");
        Self { child, address }
    }

    /// How much of the processor it has used, as Linux counts it for its threads; nothing elsewhere.
    #[must_use]
    pub fn cpu(&self) -> Duration {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let nanoseconds = threads.into_iter().flatten().flatten().filter_map(|thread| {
            let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(nanoseconds.sum())
    }

    /// Where it listens.
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
