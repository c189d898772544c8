//! Addresses without an AMQP server, for the adapter, which dials.

use crate::cases::assert_error;
use crate::{Listening, Outcome, Runtime, World};
use puka::{Broken, Clock, Dial, Endpoint, Error, Options};
use socket2::{Domain, SockRef, Socket, Type};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

fn to(port: u16) -> Result<Options, Error> {
    Options::from_uri(&format!("amqp://127.0.0.1:{port}/"))
}

/// Starts a server that reads the protocol header, sends some bytes, and closes the connection.
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

/// A host name that does not resolve is a broken connection.
pub async fn unresolvable_host_is_a_broken_connection<R: Runtime>(_: &World<R>) -> Outcome {
    let options = Options::from_uri("amqp://nowhere.invalid/")?;
    assert_error!(
        R::connect(options).await,
        Error::ConnectionBroken(Broken::Io(_))
    );
    Ok(())
}

/// A port that was just released is a broken connection.
pub async fn closed_port_is_a_broken_connection<R: Runtime>(_: &World<R>) -> Outcome {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port();
    assert_error!(
        R::connect(to(port)?).await,
        Error::ConnectionBroken(Broken::Io(error)) if error.kind() == ErrorKind::ConnectionRefused
    );
    Ok(())
}

/// The error contains what the server has sent.
pub async fn web_server_is_not_amqp<R: Runtime>(_: &World<R>) -> Outcome {
    let options = server_that_says(b"HTTP/1.1 400 Bad Request\r\n\r\n")?;
    assert_error!(R::connect(options).await, Error::NotAmqp(words)
        if words.starts_with("HTTP/1.1 400"));
    Ok(())
}

/// The error contains the version that the server proposes.
pub async fn another_version_is_an_unsupported_protocol<R: Runtime>(_: &World<R>) -> Outcome {
    let options = server_that_says(b"AMQP\x00\x01\x00\x00")?;
    let error = R::connect(options)
        .await
        .err()
        .ok_or("the connection was opened")?;
    assert!(matches!(error, Error::UnsupportedProtocol(_)), "{error:?}");
    assert!(error.to_string().ends_with("AMQP 1.0"), "{error}");
    Ok(())
}

/// The handshake has a deadline.
pub async fn silent_server_is_given_up_in_time<R: Runtime>(_: &World<R>) -> Outcome {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let limit = Duration::from_millis(200);
    let options = to(listener.local_addr()?.port())?.handshake_timeout(limit);
    let start = Instant::now();
    assert_error!(R::connect(options).await, Error::Timeout { after, .. } if *after == limit);
    assert!(
        start.elapsed() >= limit && start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
    Ok(())
}

/// A server that closes the connection at once is a broken connection.
pub async fn immediate_close_is_a_broken_connection<R: Runtime>(_: &World<R>) -> Outcome {
    let options = server_that_says(b"")?;
    assert_error!(R::connect(options).await, Error::ConnectionBroken(_));
    Ok(())
}

/// If no endpoint can be used, the error lists each with its own cause, handshakes included.
pub async fn every_endpoint_has_its_own_cause<R: Runtime>(_: &World<R>) -> Outcome {
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let web = server_that_says(b"HTTP/1.1 400 Bad Request\r\n\r\n")?;
    let Some(web) = web.get_endpoints().first() else {
        return Err("no endpoint".into());
    };
    let endpoints = [
        web.clone(),
        Endpoint::tcp("nowhere.invalid", 5672),
        Endpoint::tcp("127.0.0.1", closed.port()),
    ];
    let options = Options::default().endpoints(endpoints.clone())?;
    let error = R::connect(options)
        .await
        .err()
        .ok_or("the connection was opened")?;
    let Error::CannotConnect(failed) = &error else {
        return Err(format!("{error:?}").into());
    };
    assert!(
        failed.iter().map(|it| &it.endpoint).eq(&endpoints),
        "{error}"
    );
    assert!(matches!(failed[0].error, Error::NotAmqp(_)), "{error}");
    assert!(failed[1].address.is_none() && failed[2].address == Some(closed));
    for (attempt, line) in failed.iter().zip(error.to_string().split("; ")) {
        assert_eq!(attempt.to_string(), line);
        assert!(line.starts_with(&attempt.endpoint.to_string()), "{line}");
    }
    Ok(())
}

/// Returns an address that neither accepts nor refuses a connection: its backlog is full.
fn silent() -> io::Result<(SocketAddr, Socket, TcpStream)> {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    listener.listen(0)?;
    let address = listener.local_addr()?.as_socket();
    let address = address.ok_or(ErrorKind::AddrNotAvailable)?;
    let full = TcpStream::connect(address)?;
    Ok((address, listener, full))
}

/// An endpoint that does not answer costs a quarter of a second at first, and nothing once another
/// one has worked.
pub async fn silent_endpoint_does_not_delay_the_next<R: Runtime>(_: &World<R>) -> Outcome {
    let (silent, _listener, _full) = silent()?;
    let broker = Listening::start()?;
    let endpoints = [silent, broker.address()].map(|it| Endpoint::tcp("127.0.0.1", it.port()));
    let start = Instant::now();
    let client = R::connect(Options::default().endpoints(endpoints)?).await?;
    let took = start.elapsed();
    assert!(
        took >= Duration::from_millis(250) && took < Duration::from_secs(5),
        "{took:?}"
    );
    client.close().await?;
    Ok(())
}

/// Checks that the sockets of an adapter have the options for TCP.
pub async fn check_tcp_options(dialer: &impl Dial, clock: &impl Clock) -> Outcome {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let second = Duration::from_secs(1);
    let defaults = to(listener.local_addr()?.port())?;
    let set = defaults
        .clone()
        .tcp_keepalive(120 * second)
        .tcp_user_timeout(7 * second);
    let off = defaults.clone().tcp_keepalive(None);
    for (options, idle, timeout) in [
        (defaults, Some((60, 10)), None),
        (set, Some((120, 20)), Some(7 * second)),
        (off, None, None),
    ] {
        let stream = puka::dial(dialer, clock, &options).await?;
        let socket = stream.socket().ok_or("the stream has no socket")?;
        let socket = SockRef::from(&socket);
        assert!(socket.tcp_nodelay()?);
        assert_eq!(socket.keepalive()?, idle.is_some());
        if let Some((idle, interval)) = idle {
            assert_eq!(socket.tcp_keepalive_time()?, idle * second);
            assert_eq!(socket.tcp_keepalive_interval()?, interval * second);
            assert_eq!(socket.tcp_keepalive_retries()?, 6);
        }
        if cfg!(target_os = "linux") {
            assert_eq!(socket.tcp_user_timeout()?, timeout);
        }
    }
    Ok(())
}
