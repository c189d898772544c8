//! Tests of dialling with sockets of the system.

use super::*;
use crate::machine::Dialled;
use crate::uri::Endpoint;
use socket2::{Domain, Type};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

/// Returns an unconnected stream, and a dialler with one endpoint for each of the addresses.
fn dialler(addresses: &[SocketAddr]) -> (Stream, EndpointDialler) {
    let endpoints = addresses
        .iter()
        .map(|address| Endpoint::tcp("127.0.0.1", address.port()));
    let options = Options::default()
        .endpoints(endpoints)
        .unwrap()
        .dial_timeout(SOON);
    (
        Stream::disconnected().unwrap(),
        EndpointDialler::new(options),
    )
}

/// Continues until the stream is connected or dialling fails. A refusal on loopback is
/// immediate.
fn end_of(addresses: &[SocketAddr], first: usize) -> Result<(Stream, Dialled), Error> {
    let (mut stream, mut dialler) = dialler(addresses);
    let mut progress = dialler.begin(&mut stream, &from(first), Instant::now())?;
    loop {
        if let Progress::Ready(dialled) = progress {
            return Ok((stream, dialled));
        }
        std::thread::yield_now();
        progress = dialler.continue_dialling(&mut stream, Instant::now())?;
    }
}

fn from(first: usize) -> Dialling {
    Dialling {
        first,
        ..Dialling::default()
    }
}

fn deadline(progress: Result<Progress, Error>) -> Instant {
    match progress.unwrap() {
        Progress::Pending(DialInterest {
            deadline,
            readable: false,
            writable: true,
        }) => deadline,
        other => panic!("{other:?}"),
    }
}

#[test]
fn addresses_are_tried_in_turn_from_the_first() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addresses = [
        free_address(),
        listener.local_addr().unwrap(),
        free_address(),
    ];
    for first in 0..3 {
        let (stream, dialled) = end_of(&addresses, first).unwrap();
        assert_eq!((dialled.endpoint, dialled.address), (1, Some(addresses[1])));
        assert!(!dialled.is_private);
        let failed = [2, 0]
            .into_iter()
            .filter(|it| first == 2 || (first == 0 && *it == 0));
        assert!(dialled.failed.iter().map(|it| it.index).eq(failed));
        assert_eq!(
            stream.tcp().unwrap().peer_addr().unwrap(),
            listener.local_addr().unwrap()
        );
        assert!(stream.tcp().unwrap().nodelay().unwrap());
    }
}

#[test]
fn failed_address_is_not_dialled_again() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addresses = [free_address(), listener.local_addr().unwrap()];
    let (mut stream, mut dialler) = dialler(&addresses);
    let mut dialling = from(1);
    dialling.failed = vec![(1, Some(addresses[1]))];
    let now = Instant::now();
    let mut progress = dialler.begin(&mut stream, &dialling, now);
    while let Ok(Progress::Pending(_)) = progress {
        std::thread::yield_now();
        progress = dialler.continue_dialling(&mut stream, Instant::now());
    }
    let Err(Error::CannotConnect(failed)) = progress else {
        panic!("{progress:?}")
    };
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].address, Some(addresses[0]));
    // The only address of each endpoint has failed.
    dialling.failed.push((0, Some(addresses[0])));
    let nothing = dialler.begin(&mut stream, &dialling, now).unwrap_err();
    assert!(matches!(nothing, Error::CannotConnect(failed) if failed.is_empty()));
}

#[test]
fn error_lists_every_address() {
    let addresses = [free_address(), free_address()];
    let refused = end_of(&addresses, 0).unwrap_err();
    assert!(refused.is_connection_broken(), "{refused:?}");
    let text = addresses.map(|it| format!("{it}: Connection refused (os error 111)"));
    assert_eq!(refused.to_string(), text.join("; "));
}

#[test]
fn silent_address_does_not_delay_the_next() {
    let (silent, _listener, _full) = silent();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (mut stream, mut dialler) = dialler(&[silent, listener.local_addr().unwrap()]);
    let nowhere = stream.generation();
    let now = Instant::now();
    let next = deadline(dialler.begin(&mut stream, &from(0), now));
    let delay = Duration::from_millis(250);
    assert!(
        next >= now + delay && next < now + 2 * delay,
        "{:?}",
        next - now
    );
    let first = stream.generation();
    assert_ne!(first, nowhere);
    let early = next - Duration::from_millis(1);
    assert_eq!(
        deadline(dialler.continue_dialling(&mut stream, early)),
        next
    );
    // The second one is connecting, and the first one is still in the stream.
    let progress = dialler.continue_dialling(&mut stream, next).unwrap();
    let dialled = match progress {
        Progress::Ready(dialled) => dialled,
        Progress::Pending(interest) => {
            assert_eq!(interest.deadline, next + CHECK_INTERVAL);
            assert_eq!(stream.generation(), first);
            match dialler
                .continue_dialling(&mut stream, next + CHECK_INTERVAL)
                .unwrap()
            {
                Progress::Ready(dialled) => dialled,
                pending => panic!("{pending:?}"),
            }
        }
    };
    assert_eq!((dialled.endpoint, dialled.failed.len()), (1, 0));
    assert_ne!(
        stream.generation(),
        first,
        "the generation must change with the descriptor"
    );
    assert_eq!(
        stream.tcp().unwrap().peer_addr().unwrap(),
        listener.local_addr().unwrap()
    );
}

#[test]
fn each_silent_address_has_its_own_timeout() {
    let (silent, _listener, _full) = silent();
    let (mut stream, mut dialler) = dialler(&[silent, silent]);
    let now = Instant::now();
    let next = deadline(dialler.begin(&mut stream, &from(0), now));
    let check = deadline(dialler.continue_dialling(&mut stream, next));
    assert_eq!(check, next + CHECK_INTERVAL, "a timer looks at the second");
    let first = stream.generation();
    // The first has begun 250 ms before the second, whose socket takes its place.
    let last = deadline(dialler.continue_dialling(&mut stream, next + SOON * 999 / 1000));
    assert!(last >= next + SOON && last < next + SOON * 3 / 2);
    assert!(stream.tcp().is_some() && stream.generation() > first);
    let late = dialler.continue_dialling(&mut stream, last).unwrap_err();
    let Error::CannotConnect(failed) = &late else {
        panic!("{late:?}")
    };
    let texts: Vec<_> = failed.iter().map(|it| it.error.to_string()).collect();
    assert_eq!(texts, ["dialling took longer than 60 s"; 2]);
    assert!(stream.tcp().is_none() && stream.generation() > first);
}

#[test]
fn socket_outside_the_stream_may_win() {
    let (silent, _listener, _full) = self::silent();
    let (late, listener, _queued) = self::silent();
    let (mut stream, mut dialler) = dialler(&[silent, late]);
    let mut progress = dialler
        .begin(&mut stream, &from(0), Instant::now())
        .unwrap();
    let first = stream.generation();
    let mut checks = 0;
    let dialled = loop {
        match progress {
            Progress::Ready(dialled) => break dialled,
            Progress::Pending(interest) => {
                assert_eq!(stream.generation(), first, "the first is in the stream");
                let left = interest.deadline.saturating_duration_since(Instant::now());
                std::thread::sleep(left);
            }
        }
        checks += 1;
        if checks == 2 {
            // The system connects when it repeats the first segment, after a second.
            listener.accept().unwrap();
        }
        progress = dialler
            .continue_dialling(&mut stream, Instant::now())
            .unwrap();
    };
    assert_eq!(dialled.endpoint, 1);
    assert_eq!(stream.tcp().unwrap().peer_addr().unwrap(), late);
    assert_ne!(stream.generation(), first);
}

#[test]
fn options_for_tcp_are_set() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap());
    let second = Duration::from_secs(1);
    let set = Options::default()
        .tcp_keepalive(120 * second)
        .tcp_user_timeout(7 * second);
    let off = Options::default().tcp_keepalive(None);
    for (options, idle, timeout) in [
        (Options::default(), Some((60, 10)), None),
        (set, Some((120, 20)), Some(7 * second)),
        (off, None, None),
    ] {
        let socket = Socket::begin_connect(&address, &options).unwrap();
        let socket = socket2::SockRef::from(&socket);
        assert!(socket.tcp_nodelay().unwrap());
        assert_eq!(socket.keepalive().unwrap(), idle.is_some());
        if let Some((idle, interval)) = idle {
            assert_eq!(socket.tcp_keepalive_time().unwrap().as_secs(), idle);
            assert_eq!(socket.tcp_keepalive_interval().unwrap().as_secs(), interval);
            assert_eq!(socket.tcp_keepalive_retries().unwrap(), 6);
        }
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_user_timeout().unwrap(), timeout);
    }
}

/// Returns an address that neither accepts nor refuses a connection: its backlog is full.
fn silent() -> (SocketAddr, socket2::Socket, Vec<TcpStream>) {
    let listener = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener
        .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    (
        address,
        listener,
        vec![TcpStream::connect(address).unwrap()],
    )
}
