//! The broker as a program: `puka-test-broker --listen 127.0.0.1:5672`.

use puka_test_broker::{Config, Listener, Server};
use std::io::{self, Write};
use std::process::ExitCode;

const USAGE: &str = "\
A small AMQP 0-9-1 broker in memory, for tests. All data is lost when it ends.

Usage: puka-test-broker [--listen ADDRESS:PORT]

Options:
  --listen ADDRESS:PORT  address to listen on [default: 127.0.0.1:5672]; port 0 selects a free one
  --help                 prints this text

The only user is guest with password guest, the only virtual host is /.
";

/// The request on the command line.
enum Request {
    Listen(String),
    Help,
}

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)) {
        Ok(Request::Help) => {
            // A closed standard output is not an error here.
            drop(io::stdout().write_all(USAGE.as_bytes()));
            ExitCode::SUCCESS
        }
        Ok(Request::Listen(address)) => match listen(&address) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => complain(
                &format!("cannot listen on {address}: {error}"),
                ExitCode::FAILURE,
            ),
        },
        Err(message) => complain(&format!("{message}\nTry --help."), ExitCode::from(2)),
    }
}

/// Parses the command line.
fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Request, String> {
    let mut address = String::from("127.0.0.1:5672");
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--help" | "-h" => return Ok(Request::Help),
            "--listen" => {
                address = arguments
                    .next()
                    .ok_or("--listen requires an address and a port")?
            }
            other => match other.strip_prefix("--listen=") {
                Some(value) => address = value.to_string(),
                None => return Err(format!("unknown argument {other:?}")),
            },
        }
    }
    let port = address
        .rsplit_once(':')
        .map(|(_, port)| port.parse::<u16>());
    match port {
        Some(Ok(_)) => Ok(Request::Listen(address)),
        _ => Err(format!(
            "{address:?} is not an address and a port such as 127.0.0.1:5672"
        )),
    }
}

/// Listens on an address.
fn listen(address: &str) -> io::Result<()> {
    let listener = Listener::bind(address, Server::new(Config::default()))?;
    let mut out = io::stdout();
    writeln!(out, "listening on {}", listener.local_addr()?)?;
    out.flush()?;
    listener.run()
}

/// Prints a message to the standard error. Returns the exit code.
fn complain(message: &str, code: ExitCode) -> ExitCode {
    drop(writeln!(io::stderr(), "puka-test-broker: {message}"));
    code
}
