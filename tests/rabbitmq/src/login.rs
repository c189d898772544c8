//! A check that a broker accepts connections: one AMQP login and logout, byte by byte.
//!
//! Tests of a client must not use that client to check that the broker is ready, so this module
//! writes the few frames itself. Spec: 1.4.1 (connection class), 2.3 (framing).

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(5);
const PROTOCOL_HEADER: &[u8; 8] = b"AMQP\x00\x00\x09\x01";
const FRAME_END: u8 = 0xCE;

const START: [u8; 4] = [0, 10, 0, 10];
const START_OK: &[u8] =
    b"\x00\x0a\x00\x0b\x00\x00\x00\x00\x05PLAIN\x00\x00\x00\x0c\x00guest\x00guest\x05en_US";
const TUNE: [u8; 4] = [0, 10, 0, 30];
const OPEN: &[u8] = b"\x00\x0a\x00\x28\x01/\x00\x00";
const OPEN_OK: [u8; 4] = [0, 10, 0, 41];
const CLOSE: &[u8] = b"\x00\x0a\x00\x32\x00\xc8\x00\x00\x00\x00\x00";
const CLOSE_OK: [u8; 4] = [0, 10, 0, 51];

/// Logs in as guest, opens the virtual host `/`, and closes again.
pub(crate) fn login(port: u16) -> io::Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;

    stream.write_all(PROTOCOL_HEADER)?;
    receive(&mut stream, START)?;
    send(&mut stream, START_OK)?;
    let tune = receive(&mut stream, TUNE)?;
    let limits = tune.get(4..12).ok_or_else(|| unexpected(&tune))?;
    send(&mut stream, &[&[0, 10, 0, 31], limits].concat())?;
    send(&mut stream, OPEN)?;
    receive(&mut stream, OPEN_OK)?;
    send(&mut stream, CLOSE)?;
    receive(&mut stream, CLOSE_OK)?;
    Ok(())
}

fn send(stream: &mut TcpStream, method: &[u8]) -> io::Result<()> {
    let size = u32::try_from(method.len()).map_err(io::Error::other)?;
    let mut frame = vec![1, 0, 0];
    frame.extend_from_slice(&size.to_be_bytes());
    frame.extend_from_slice(method);
    frame.push(FRAME_END);
    stream.write_all(&frame)
}

/// Returns the payload of the next frame, which must be this method.
fn receive(stream: &mut TcpStream, class_and_method: [u8; 4]) -> io::Result<Vec<u8>> {
    let mut head = [0; 7];
    stream.read_exact(&mut head)?;
    let [kind, _, _, size @ ..] = head;
    let mut payload = Vec::new();
    let size = u64::from(u32::from_be_bytes(size).min(1 << 20));
    stream.take(size + 1).read_to_end(&mut payload)?;
    if kind == 1 && payload.starts_with(&class_and_method) && payload.pop() == Some(FRAME_END) {
        Ok(payload)
    } else {
        Err(unexpected(&payload))
    }
}

fn unexpected(payload: &[u8]) -> io::Error {
    let start = payload.get(..payload.len().min(64)).unwrap_or_default();
    io::Error::other(format!(
        "unexpected answer to the login: {}",
        start.escape_ascii()
    ))
}
