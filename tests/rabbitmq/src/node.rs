//! A node: its start, kill, freeze and end.

use std::net::{Ipv4Addr, TcpStream};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::builder::Builder;
use crate::epmd::Epmd;
use crate::error::NodeError;
use crate::folder::Folder;
use crate::guard::Guard;
use crate::installation::Installation;
use crate::login::login;
use crate::port::Port;

/// The options of a small Erlang machine, so that the tests have the cores: two schedulers, bound
/// to no core, that sleep when idle. Cluster connections use only loopback.
const ERLANG_FLAGS: &str = "-noinput +S 2:2 +SDcpu 1:1 +sbwt none +sbwtdcpu none +sbwtdio none \
    -kernel inet_dist_use_interface {127,0,0,1}";
const POLL: Duration = Duration::from_millis(50);

/// The parts of a node.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) name: String,
    pub(crate) installation: Installation,
    pub(crate) folder: Folder,
    pub(crate) epmd: Arc<Epmd>,
    pub(crate) amqp: Port,
    pub(crate) distribution: Port,
    pub(crate) tls: Option<Port>,
    pub(crate) cookie: String,
    pub(crate) limit: Duration,
}

/// A private RabbitMQ node on 127.0.0.1, with the user `guest` and the virtual host `/`.
///
/// Dropping it kills the server, ends its port mapper and removes its folder. If a test panics, the
/// end of the log is printed first.
#[derive(Debug)]
pub struct Node {
    // Dropped in this order: the server before the things that it uses.
    server: Mutex<Option<Guard>>,
    parts: Parts,
    /// The size of the log when the server was ready for the first time.
    first_up: OnceLock<u64>,
}

impl Node {
    /// Starts a node with the default options. Returns when it accepts AMQP connections.
    ///
    /// # Errors
    /// As [`Builder::start`].
    pub fn start() -> Result<Self, NodeError> {
        Self::builder().start()
    }

    /// Starts a node that ends a consumer over a delivery older than 1.5 s. Channels look for such
    /// deliveries twice a second.
    ///
    /// # Errors
    /// As [`Builder::start`] and [`ctl`](Self::ctl).
    pub fn start_with_short_consumer_timeout() -> Result<Self, NodeError> {
        let node = Self::builder().config("consumer_timeout = 1500").start()?;
        // Since 4.3, queues look for them, without this interval.
        let interval = "application:set_env(rabbit, channel_tick_interval, 500).";
        node.ctl(&["eval", interval])?;
        Ok(node)
    }

    /// Returns the default options of a node.
    pub fn builder() -> Builder {
        Builder::new()
    }

    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            server: Mutex::new(None),
            parts,
            first_up: OnceLock::new(),
        }
    }

    /// Returns `amqp://guest:guest@127.0.0.1:PORT/`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/", self.port())
    }

    /// Returns the AMQP port, which [`start_again`](Self::start_again) does not change.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.parts.amqp.number()
    }

    /// Returns the port for AMQP over TLS, if [`Builder::tls`] was called.
    #[must_use]
    pub fn tls_port(&self) -> Option<u16> {
        self.parts.tls.as_ref().map(Port::number)
    }

    /// Returns `amqps://guest:guest@localhost:PORT/?cacertfile=FILE`, if [`Builder::tls`] was
    /// called.
    #[must_use]
    pub fn tls_url(&self) -> Option<String> {
        let authorities = self.parts.folder.path("authorities.pem");
        let port = self.tls_port()?;
        Some(format!(
            "amqps://guest:guest@localhost:{port}/?cacertfile={}",
            authorities.display()
        ))
    }

    /// Returns the Erlang node name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.parts.name
    }

    /// Returns the folder with the node's configuration, data and log.
    #[must_use]
    pub fn folder(&self) -> &std::path::Path {
        self.parts.folder.root()
    }

    /// Returns the server's log since it was ready for the first time, at most the last 16 KiB.
    #[must_use]
    pub fn log(&self) -> String {
        self.parts
            .folder
            .log_end(self.first_up.get().copied().unwrap_or(0))
    }

    /// Returns the ids of the node's processes: the server, if it runs, and the port mapper.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        let server = self
            .server()
            .as_ref()
            .filter(|server| server.is_running())
            .map(Guard::pid);
        server.into_iter().chain([self.parts.epmd.pid()]).collect()
    }

    /// Kills the server with SIGKILL. Returns when it has ended. Its data remain. Does nothing if
    /// it is not running.
    pub fn kill(&self) {
        drop(self.server().take());
    }

    /// Shuts the server down with SIGTERM. Returns when it has ended. Its data remain.
    ///
    /// # Errors
    /// [`NodeError::NotRunning`]; [`NodeError::TimedOut`] if it missed the deadline and was killed.
    pub fn shut_down(&self) -> Result<(), NodeError> {
        let server = self.server().take().ok_or_else(|| self.not_running())?;
        server.signal(Signal::TERM)?;
        if server.wait(self.parts.limit) {
            Ok(())
        } else {
            Err(self.timed_out("shut down", 0))
        }
    }

    /// Starts the server with the same ports and data. Returns when it accepts AMQP connections. A
    /// running server is killed first.
    ///
    /// # Errors
    /// As [`Builder::start`].
    pub fn start_again(&self) -> Result<(), NodeError> {
        let mut server = self.server();
        drop(server.take());
        let log_start = self.parts.folder.log_length();
        let guard = self.spawn()?;
        if self.wait_for_login(&guard, log_start)? {
            *server = Some(guard);
            self.first_up.get_or_init(|| self.parts.folder.log_length());
            Ok(())
        } else {
            drop(guard);
            Err(self.ended(log_start))
        }
    }

    /// Freezes the server's process (SIGSTOP): its sockets stay open and are silent. Returns when
    /// all its threads have stopped.
    ///
    /// # Errors
    /// [`NodeError::NotRunning`] after a kill.
    pub fn freeze(&self) -> Result<(), NodeError> {
        self.server()
            .as_ref()
            .ok_or_else(|| self.not_running())?
            .freeze()
    }

    /// Continues a frozen server (SIGCONT).
    ///
    /// # Errors
    /// [`NodeError::NotRunning`] after a kill.
    pub fn thaw(&self) -> Result<(), NodeError> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<(), NodeError> {
        self.server()
            .as_ref()
            .ok_or_else(|| self.not_running())?
            .signal(signal)
    }

    fn spawn(&self) -> Result<Guard, NodeError> {
        let Parts {
            name,
            installation,
            folder,
            epmd,
            distribution,
            ..
        } = &self.parts;
        let mut command = folder.command(&installation.server(), name, epmd.port());
        // With ALLOW_INPUT the script becomes the server instead of waiting for a child process, so
        // signals reach the server.
        command
            .env("RABBITMQ_ALLOW_INPUT", "1")
            .env("RABBITMQ_DIST_PORT", distribution.number().to_string())
            .env("RABBITMQ_SCHEDULER_BIND_TYPE", "u")
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", ERLANG_FLAGS);
        Guard::start(&command, &folder.log(), Some(folder.root()))
    }

    /// Waits until the server is ready. Returns `false` if it has ended.
    fn wait_for_login(&self, guard: &Guard, log_start: u64) -> Result<bool, NodeError> {
        let end = Instant::now() + self.parts.limit;
        while !self.takes_connections() {
            if !guard.is_running() {
                return Ok(false);
            }
            if Instant::now() >= end {
                return Err(self.timed_out("take AMQP connections", log_start));
            }
            thread::sleep(POLL);
        }
        Ok(true)
    }

    /// Returns `true` if both listeners accept connections. RabbitMQ 4 starts the one for TLS
    /// later.
    fn takes_connections(&self) -> bool {
        let takes_tls = self
            .tls_port()
            .is_none_or(|port| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
        takes_tls && login(self.port()).is_ok()
    }

    /// Returns the reason why the server ended during its start. Call it after the server has
    /// ended.
    fn ended(&self, log_start: u64) -> NodeError {
        let name = self.name().to_owned();
        let log = self.parts.folder.log_end(log_start);
        let log = around_failed_boot(&log);
        let Parts {
            amqp,
            distribution,
            tls,
            ..
        } = &self.parts;
        let port_lost = [Some(amqp), Some(distribution), tls.as_ref()]
            .into_iter()
            .flatten()
            .any(Port::is_taken)
            || ["eaddrinuse", "dist_port_already_used"]
                .iter()
                .any(|sign| log.contains(sign));
        if port_lost {
            NodeError::PortLost { name, log }
        } else {
            NodeError::Exited { name, log }
        }
    }

    fn timed_out(&self, what: &'static str, log_start: u64) -> NodeError {
        let log = self.parts.folder.log_end(log_start);
        NodeError::TimedOut {
            name: self.name().to_owned(),
            what,
            after: self.parts.limit,
            log,
        }
    }

    pub(crate) fn not_running(&self) -> NodeError {
        NodeError::NotRunning {
            name: self.name().to_owned(),
        }
    }

    pub(crate) fn parts(&self) -> &Parts {
        &self.parts
    }

    /// Returns what another node needs to join this one: the port mapper and the cookie.
    pub(crate) fn cluster(&self) -> (Arc<Epmd>, String) {
        (Arc::clone(&self.parts.epmd), self.parts.cookie.clone())
    }

    fn server(&self) -> MutexGuard<'_, Option<Guard>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Node {
    #[expect(
        clippy::print_stderr,
        reason = "the log of a failed test belongs beside its panic message"
    )]
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("What {} logged:\n{}", self.name(), self.log());
        }
    }
}

/// Returns a node name that no other running node has, in this process or another.
pub(crate) fn unused_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!(
        "puka-{}-{}@localhost",
        process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

/// The log contains the cause before these words. After them it repeats the cause in Erlang's
/// reports.
fn around_failed_boot(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let failed = lines.iter().position(|line| line.contains("BOOT FAILED"));
    let around = failed.and_then(|at| lines.get(at.saturating_sub(20)..lines.len().min(at + 15)));
    around.map_or_else(|| log.to_owned(), |around| around.join("\n"))
}
