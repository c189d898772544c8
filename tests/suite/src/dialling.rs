//! Addresses where there is no AMQP server: for the adapter, which dials.

use crate::cases::assert_error;
use crate::{Outcome, Runtime, World};
use puka::{Broken, Error, Options};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

fn to(port: u16) -> Result<Options, Error> {
    Options::from_uri(&format!("amqp://127.0.0.1:{port}/"))
}

/// A server that reads the protocol header, says something, and hangs up.
fn server_that_says(words: &'static [u8]) -> Result<Options, Box<dyn std::error::Error>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let options = to(listener.local_addr()?.port())?;
    thread::spawn(move || {
        let (mut stream, _) = listener.accept()?;
        stream.read_exact(&mut [0; 8])?;
        stream.write_all(words)
    });
    Ok(options)
}

/// A host name that nobody can resolve.
pub async fn a_host_that_does_not_resolve_is_a_broken_connection<R: Runtime>(_: &World<R>) -> Outcome {
    let options = Options::from_uri("amqp://nowhere.invalid/")?;
    assert_error!(R::connect(options).await, Error::ConnectionBroken(Broken::Io(_)));
    Ok(())
}

/// A port that was just given up.
pub async fn a_port_where_nobody_listens_is_a_broken_connection<R: Runtime>(_: &World<R>) -> Outcome {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    assert_error!(
        R::connect(to(port)?).await,
        Error::ConnectionBroken(Broken::Io(error)) if error.kind() == ErrorKind::ConnectionRefused
    );
    Ok(())
}

/// What it said is in the error.
pub async fn a_web_server_is_not_amqp<R: Runtime>(_: &World<R>) -> Outcome {
    let options = server_that_says(b"HTTP/1.1 400 Bad Request\r\n\r\n")?;
    assert_error!(R::connect(options).await, Error::NotAmqp(words) if words.starts_with("HTTP/1.1 400"));
    Ok(())
}

/// What it proposes is in the error.
pub async fn a_server_that_speaks_another_version_is_an_unsupported_protocol<R: Runtime>(
    _: &World<R>,
) -> Outcome {
    let options = server_that_says(b"AMQP\x00\x01\x00\x00")?;
    let error = R::connect(options).await.err().ok_or("it connected")?;
    assert!(matches!(error, Error::UnsupportedProtocol(_)), "{error:?}");
    assert!(error.to_string().contains("1.0.0") || error.to_string().contains("1-0-0"), "{error}");
    Ok(())
}

/// The handshake has its deadline.
pub async fn a_server_that_says_nothing_is_given_up_in_time<R: Runtime>(_: &World<R>) -> Outcome {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let limit = Duration::from_millis(200);
    let options = to(listener.local_addr()?.port())?.handshake_timeout(limit);
    let start = Instant::now();
    assert_error!(R::connect(options).await, Error::Timeout { after, .. } if *after == limit);
    assert!(start.elapsed() >= limit && start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    Ok(())
}

/// No word, no answer.
pub async fn a_server_that_closes_at_once_is_a_broken_connection<R: Runtime>(_: &World<R>) -> Outcome {
    let options = server_that_says(b"")?;
    assert_error!(R::connect(options).await, Error::ConnectionBroken(_));
    Ok(())
}
