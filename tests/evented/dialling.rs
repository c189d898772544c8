//! Connecting: it never blocks, and its errors name the cause.

use crate::tcp::{SOON, broker, to};
use puka::{Broken, Endpoint, Error, Options, evented};
use socket2::{Domain, Socket, Type};
use std::io::ErrorKind;
#[cfg(feature = "tls")]
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

#[test]
fn unresolvable_host_is_an_immediate_error() {
    let error = evented::connect("amqp://nowhere.invalid/").unwrap_err();
    assert!(
        matches!(error, Error::ConnectionBroken(Broken::Io(_))),
        "{error:?}"
    );
}

#[test]
fn closed_port_is_a_broken_connection() {
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    // The system may report it at once, or only to a wait.
    let error = match evented::connect_with(to(address)) {
        Ok(mut conn) => {
            let client = conn.client();
            let mut declare = client.queue_declare("q").send();
            let error = conn.wait(&mut client.connect(), SOON).unwrap_err();
            assert!(
                conn.wait(&mut declare, SOON)
                    .unwrap_err()
                    .is_connection_broken()
            );
            assert!(conn.run(SOON).unwrap_err().is_connection_broken());
            error
        }
        Err(error) => error,
    };
    assert!(
        matches!(&error, Error::ConnectionBroken(Broken::Io(io))
            if io.kind() == ErrorKind::ConnectionRefused),
        "{error:?}"
    );
}

#[test]
fn wrong_password_is_refused() {
    let (_, address) = broker();
    let options = to(address).credentials("guest", "wrong");
    let mut conn = evented::connect_with(options).unwrap();
    let error = conn.wait(&mut conn.client().connect(), SOON).unwrap_err();
    assert!(
        matches!(error, Error::AccessRefused(_) | Error::LoginRefused),
        "{error:?}"
    );
}

#[test]
fn unusable_endpoints_are_refused() {
    assert!(matches!(
        evented::connect("http://localhost/"),
        Err(Error::Uri(_))
    ));
    let short: Options = Options::default().frame_max(100);
    assert!(matches!(
        evented::connect_with(short),
        Err(Error::InvalidArgument { .. })
    ));
}

#[cfg(not(feature = "tls"))]
#[test]
fn tls_needs_its_feature() {
    let error = evented::connect("amqps://localhost/").unwrap_err();
    assert!(
        matches!(error, Error::InvalidArgument { what: "tls", .. }),
        "{error:?}"
    );
}

#[cfg(feature = "tls")]
#[test]
fn tls_begins_with_the_first_byte() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let tls = puka::TlsOptions::default().danger_accept_any_certificate(true);
    let options = to(listener.local_addr().unwrap()).tls(tls);
    let server = std::thread::spawn(move || {
        let mut first = [0; 2];
        listener.accept().unwrap().0.read_exact(&mut first).unwrap();
        first
    });
    let mut conn = evented::connect_with(options).unwrap();
    let error = conn.wait(&mut conn.client().connect(), SOON).unwrap_err();
    assert!(error.is_connection_broken(), "{error:?}");
    // A record of type `handshake` and version 3 (RFC 8446, 5.1), not AMQP's protocol header.
    assert_eq!(server.join().unwrap(), [22, 3]);
}

#[test]
fn requests_are_accepted_before_the_connection_opens() {
    let (_, address) = broker();
    let mut conn = evented::connect_with(to(address)).unwrap();
    let client = conn.client();
    let mut declare = client.queue_declare("q").send();
    assert_eq!(conn.wait(&mut declare, SOON).unwrap().name, "q");
}

#[test]
fn each_endpoint_is_tried_in_turn() {
    let (_, address) = broker();
    let refused = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let endpoints = [
        Endpoint::tcp("nowhere.invalid", 5672),
        Endpoint::unix("/nowhere/at/all"),
        Endpoint::tcp("127.0.0.1", refused.port()),
        Endpoint::tcp("127.0.0.1", address.port()),
    ];
    let options = to(address).endpoints(endpoints).unwrap();
    let mut conn = evented::connect_with(options).unwrap();
    conn.wait(&mut conn.client().connect(), SOON).unwrap();
    assert_eq!(conn.socket().tcp().unwrap().peer_addr().unwrap(), address);
}

#[cfg(unix)]
#[test]
fn unix_socket_is_an_endpoint() {
    use std::os::unix::net::UnixListener;

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broker");
    let listener = UnixListener::bind(&path).unwrap();
    let options = Options::default().endpoint(Endpoint::unix(&path)).unwrap();
    let mut conn = evented::connect_with(options).unwrap();
    assert!(conn.socket().tcp().is_none());
    crate::by_hand::serve(listener.accept().unwrap().0);
    let client = conn.client();
    assert_eq!(
        conn.wait(&mut client.queue_declare("q").send(), SOON)
            .unwrap()
            .name,
        "q"
    );
    conn.wait(&mut client.close(), SOON).unwrap();

    drop(listener);
    let options = Options::default().endpoint(Endpoint::unix(&path)).unwrap();
    assert!(
        evented::connect_with(options)
            .unwrap_err()
            .is_connection_broken()
    );
}

/// Returns an address that neither accepts nor refuses a connection: its backlog is full.
fn silent() -> (SocketAddr, Socket, TcpStream) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener
        .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let full = TcpStream::connect(address).unwrap();
    (address, listener, full)
}

#[test]
fn dialling_and_handshake_have_separate_timeouts() {
    let (address, _listener, _full) = silent();
    let second = Duration::from_secs(1);
    let options: Options = to(address)
        .dial_timeout(20 * second)
        .handshake_timeout(second);
    let before = Instant::now();
    let mut conn = evented::connect_with(options.request_timeout(10 * second)).unwrap();
    assert!(
        !conn.needs_read() && conn.needs_write(),
        "a connected socket becomes writable"
    );
    let client = conn.client();
    let mut connect = client.connect();
    let mut declare = client.queue_declare("q").send();
    conn.on_write().unwrap();
    let next = conn.next_timeout().unwrap();
    assert!(
        next > before + 9 * second && next < before + 11 * second,
        "{:?}",
        next - before
    );

    conn.on_timeout(Instant::now() + 11 * second).unwrap();
    let late = conn.wait(&mut declare, Some(Duration::ZERO)).unwrap_err();
    assert!(
        matches!(
            late,
            Error::Timeout {
                what: "the request",
                ..
            }
        ),
        "{late:?}"
    );
    assert!(matches!(
        conn.wait(&mut connect, Some(Duration::ZERO)),
        Err(Error::Timeout {
            what: "waiting",
            ..
        })
    ));

    let next = conn.next_timeout().unwrap();
    assert!(
        next > before + 19 * second && next < before + 21 * second,
        "{:?}",
        next - before
    );
    assert!(conn.on_timeout(next).is_err());
    let late = conn.wait(&mut connect, SOON).unwrap_err();
    assert!(
        matches!(late, Error::Timeout { what: "dialling", after } if after == 20 * second),
        "{late:?}"
    );
    assert!(conn.is_over());
}

#[test]
fn connecting_client_can_be_closed() {
    let (address, _listener, _full) = silent();
    let mut conn = evented::connect_with(to(address)).unwrap();
    let client = conn.client();
    let mut connect = client.connect();
    conn.on_write().unwrap();
    assert!(conn.next_timeout().unwrap() > Instant::now());
    let mut close = client.close();
    assert!(
        conn.next_timeout().unwrap() <= Instant::now(),
        "the close is immediate"
    );
    conn.wait(&mut close, SOON).unwrap();
    assert!(matches!(conn.wait(&mut connect, SOON), Err(Error::Closed)));
    conn.run(SOON).unwrap();
}

#[test]
fn silent_server_is_given_up_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let options = to(listener.local_addr().unwrap()).handshake_timeout(Duration::from_millis(20));
    let mut conn = evented::connect_with(options).unwrap();
    let start = Instant::now();
    let late = conn.wait(&mut conn.client().connect(), SOON).unwrap_err();
    assert!(
        matches!(
            late,
            Error::Timeout {
                what: "the handshake",
                ..
            }
        ),
        "{late:?}"
    );
    assert!(start.elapsed() < SOON.unwrap() / 2, "{:?}", start.elapsed());
}
