//! A private Erlang port mapper, through which nodes and `rabbitmqctl` find each other.
//!
//! The system's port mapper (port 4369) is neither used nor started. The nodes of a cluster share
//! one.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::NodeError;
use crate::guard::Guard;
use crate::installation::{Installation, search_path};
use crate::port::Port;

const ATTEMPTS: usize = 5;
const LIMIT: Duration = Duration::from_secs(20);
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// A request of one byte, `n`, after its length.
const NAMES_REQUEST: &[u8] = b"\x00\x01n";

/// A running port mapper, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Epmd {
    // Dropped in this order, so that the port has no listener when it is released.
    guard: Guard,
    port: Port,
}

impl Epmd {
    /// Starts a port mapper on a free port, and waits until it answers.
    pub(crate) fn start(installation: &Installation) -> Result<Self, NodeError> {
        for _ in 0..ATTEMPTS {
            if let Some(epmd) = Self::attempt(installation)? {
                return Ok(epmd);
            }
        }
        let log = "epmd did not answer; is Erlang's epmd in PATH?".to_owned();
        Err(NodeError::PortLost {
            name: "epmd".to_owned(),
            log,
        })
    }

    /// Starts one. Returns `None` if it has ended, probably because another process uses its port.
    fn attempt(installation: &Installation) -> Result<Option<Self>, NodeError> {
        let port = Port::claim()?;
        let mut command = Command::new(installation.epmd());
        command.args(["-address", "127.0.0.1", "-port", &port.number().to_string()]);
        command.env("PATH", search_path());
        let epmd = Self {
            guard: Guard::start(&command, Path::new("/dev/null"), None)?,
            port,
        };
        let end = Instant::now() + LIMIT;
        while epmd.guard.is_running() && Instant::now() < end {
            // If this one has ended, another port mapper has answered.
            if epmd.answers().is_ok() && epmd.guard.is_running() {
                return Ok(Some(epmd));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(None)
    }

    /// Requests the registered names. The answer begins with the port of the port mapper.
    fn answers(&self) -> io::Result<()> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port()))?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        stream.write_all(NAMES_REQUEST)?;
        let mut port = [0; 4];
        stream.read_exact(&mut port)?;
        if port == u32::from(self.port()).to_be_bytes() {
            Ok(())
        } else {
            Err(ErrorKind::InvalidData.into())
        }
    }

    /// Returns the port on which it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port.number()
    }

    /// Returns its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.guard.pid()
    }
}
