//! Servers that stop within the TLS handshake: nothing waits longer than its deadline.

use crate::server::server_that;
use crate::{Outcome, assert_error, run, source};
use puka::{Broken, Error, TlsOptions};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_millis(300);

/// Connects to a server with this behaviour. Returns the outcome and the elapsed time.
async fn attempt(
    acts: impl FnOnce(TcpStream) -> io::Result<()> + Send + 'static,
) -> (Result<(), Error>, Duration) {
    let options = server_that("localhost", TlsOptions::default(), acts).tls_timeout(LIMIT);
    let start = Instant::now();
    (
        puka_smol::connect_with(options).await.map(drop),
        start.elapsed(),
    )
}

/// Waits until the client has closed the connection.
fn until_end(mut socket: TcpStream) -> io::Result<()> {
    socket.read_to_end(&mut Vec::new()).map(drop)
}

#[test]
fn silent_server_is_given_up_in_time() -> Outcome {
    run(async {
        let (outcome, took) = attempt(until_end).await;
        assert_error!(outcome, Error::Timeout { what: "the TLS handshake", after }
            if *after == LIMIT);
        assert!(took >= LIMIT && took < 20 * LIMIT, "{took:?}");
        Ok(())
    })
}

#[test]
fn trickling_server_is_given_up_in_time() -> Outcome {
    run(async {
        let (outcome, took) = attempt(|mut socket| {
            // The header of a handshake record that never ends.
            for byte in [22, 3, 3, 64, 0, 2, 0, 63, 250]
                .into_iter()
                .chain(std::iter::repeat(0))
            {
                socket.write_all(&[byte])?;
                thread::sleep(Duration::from_millis(50));
            }
            Ok(())
        })
        .await;
        assert_error!(
            outcome,
            Error::Timeout {
                what: "the TLS handshake",
                ..
            }
        );
        assert!(took >= LIMIT && took < 20 * LIMIT, "{took:?}");
        Ok(())
    })
}

#[test]
fn end_of_stream_in_handshake_breaks_the_connection() -> Outcome {
    run(async {
        let (outcome, took) = attempt(|mut socket| {
            // The client's bytes are read, so the close ends the stream and does not reset it.
            let mut hello = vec![0; 1 << 14];
            socket.read(&mut hello).map(drop)?;
            socket.shutdown(std::net::Shutdown::Write)?;
            until_end(socket)
        })
        .await;
        assert_error!(outcome, Error::ConnectionBroken(Broken::Eof));
        assert!(took < 20 * LIMIT, "{took:?}");
        Ok(())
    })
}

#[test]
fn reset_in_handshake_is_a_broken_connection() -> Outcome {
    run(async {
        let (outcome, _) = attempt(|socket| {
            // Unread bytes turn the close into a reset.
            socket.peek(&mut [0; 1]).map(drop)
        })
        .await;
        assert_error!(
            outcome,
            Error::ConnectionBroken(Broken::Io(error))
                if error.kind() == io::ErrorKind::ConnectionReset
        );
        Ok(())
    })
}

#[test]
fn next_endpoint_is_tried_after_a_failed_server() -> Outcome {
    run(async {
        let dead = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let broken = server_that("localhost", TlsOptions::default(), |socket| {
            socket.peek(&mut [0; 1]).map(drop)
        });
        let (authority, tls) = {
            let authority = puka_test_rabbitmq::Authority::new().unwrap();
            let tls = TlsOptions::default().authority(source(&authority.pem()));
            (authority, tls)
        };
        let (good, _) = crate::server::TlsServer::new(authority.issue(&["localhost"]).unwrap())
            .serve("localhost", tls);
        let turn = [
            puka::Endpoint::tcp("localhost", dead),
            broken.get_endpoints()[0].clone(),
            good.get_endpoints()[0].clone(),
        ];
        let client = puka_smol::connect_with(good.endpoints(turn)?).await?;
        Ok(client.close().await?)
    })
}
