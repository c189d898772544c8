//! The binary.

#![cfg(test)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_puka-test-broker"))
}

fn output(arguments: &[&str]) -> Output {
    program().args(arguments).output().unwrap()
}

/// A process that is killed at the end of its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn program_prints_its_address() {
    let mut child = program()
        .args(["--listen", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let _running = Running(child);
    let address = line
        .trim()
        .strip_prefix("listening on ")
        .expect("the line has an address");
    assert!(!address.ends_with(":0"));
    let mut socket = TcpStream::connect(address).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    socket.write_all(b"AMQP\x00\x00\x09\x01").unwrap();
    let mut head = [0; 11];
    socket.read_exact(&mut head).unwrap();
    assert_eq!(
        (head[..3].to_vec(), head[7..].to_vec()),
        (vec![1, 0, 0], vec![0, 10, 0, 10])
    );
    let mut other = TcpStream::connect(address).unwrap();
    other.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    let mut answer = [0; 8];
    other.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"AMQP\x00\x00\x09\x01");
}

#[test]
fn help_lists_the_options() {
    let output = output(&["--help"]);
    assert!(output.status.success());
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .contains("--listen ADDRESS:PORT")
    );
}

#[test]
fn bad_arguments_exit_with_2() {
    for arguments in [
        &["--lissen", "x"][..],
        &["--listen"],
        &["--listen", "nowhere"],
        &["--listen=127.0.0.1:x"],
    ] {
        let output = output(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.starts_with("puka-test-broker: "), "{message}");
        assert!(message.contains("--help"), "{message}");
    }
}

#[test]
fn error_names_a_port_in_use() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = output(&["--listen", &address]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains(&address));
}
