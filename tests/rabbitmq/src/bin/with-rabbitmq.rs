//! Runs a command while a RabbitMQ node is running: `with-rabbitmq COMMAND ARGS...`
//!
//! Starts a private node, sets `PUKA_TEST_RABBITMQ_URL` and `PUKA_TEST_RABBITMQ_TLS_URL` to its
//! URLs for the command, and stops the node when the command ends. Exits with the status of the
//! command (128 + N if signal N ended it), with 2 if the arguments are invalid, and with 3 if the
//! node or the command could not be started.

#![expect(
    clippy::print_stderr,
    reason = "the command line tool prints its errors"
)]

use std::env;
use std::error::Error;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, ExitStatus};

use puka_test_rabbitmq::{Authority, Node, TLS_URL_VARIABLE, URL_VARIABLE};

const USAGE: u8 = 2;
const NOT_STARTED: u8 = 3;

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    let Some(program) = arguments.next() else {
        eprintln!("usage: with-rabbitmq COMMAND ARGS...");
        return ExitCode::from(USAGE);
    };
    let mut command = Command::new(program);
    command.args(arguments);
    run(command).unwrap_or_else(|error| {
        eprintln!("with-rabbitmq: {error}");
        ExitCode::from(NOT_STARTED)
    })
}

fn run(mut command: Command) -> Result<ExitCode, Box<dyn Error>> {
    let authority = Authority::new()?;
    let identity = authority.issue(&["localhost", "127.0.0.1"])?;
    let node = Node::builder()
        .tls(&authority.pem(), &identity.certificate, &identity.key)
        .start()?;
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command
        .env(URL_VARIABLE, node.url())
        .envs(node.tls_url().map(|url| (TLS_URL_VARIABLE, url)))
        .status()
        .map_err(|error| format!("starting {program}: {error}"))?;
    if !status.success() {
        eprintln!(
            "with-rabbitmq: {program} failed. What {} logged meanwhile:\n{}",
            node.name(),
            node.log()
        );
    }
    Ok(exit_code(status))
}

fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| signal + 128));
    ExitCode::from(
        code.and_then(|code| u8::try_from(code).ok())
            .unwrap_or(u8::MAX),
    )
}
