//! Dialling in virtual time: order of endpoints and addresses, and deadlines.

use crate::pipe::{ManualClock, Pipe};
use futures_lite::AsyncWriteExt;
use futures_lite::future::{block_on, pending, poll_once};
use puka::{Broken, Dial, Endpoint, Error, Options, Transport};
use std::collections::BTreeMap;
use std::future::Future;
use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::Mutex;
use std::time::Duration;

/// The result of an attempt.
#[derive(Clone, Copy)]
enum Outcome {
    Connects,
    Fails(ErrorKind),
    Hangs,
}

/// A network of hosts, addresses and paths, each with its result, and a log of the calls.
#[derive(Default)]
struct Net {
    hosts: BTreeMap<&'static str, Result<Vec<SocketAddr>, Outcome>>,
    places: BTreeMap<String, Outcome>,
    calls: Mutex<Vec<String>>,
}

impl Net {
    /// Returns a network with these hosts and their addresses.
    fn new(hosts: &[(&'static str, &[&str])], places: &[(&str, Outcome)]) -> Self {
        let addresses =
            |texts: &[&str]| Ok(texts.iter().map(|text| text.parse().unwrap()).collect());
        Self {
            hosts: hosts
                .iter()
                .map(|(host, texts)| (*host, addresses(texts)))
                .collect(),
            places: places
                .iter()
                .map(|(place, outcome)| ((*place).to_owned(), *outcome))
                .collect(),
            calls: Mutex::default(),
        }
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }

    async fn apply<T>(&self, outcome: Outcome, gives: T) -> io::Result<T> {
        match outcome {
            Outcome::Connects => Ok(gives),
            Outcome::Fails(kind) => Err(kind.into()),
            Outcome::Hangs => pending().await,
        }
    }

    async fn connect_to(&self, place: String) -> io::Result<Transport> {
        let outcome = self
            .places
            .get(&place)
            .copied()
            .unwrap_or(Outcome::Fails(ErrorKind::NotFound));
        self.calls.lock().unwrap().push(place);
        self.apply(outcome, Transport::new(Pipe::default())).await
    }
}

impl Dial for Net {
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        self.calls.lock().unwrap().push(format!("{host}:{port}?"));
        match self.hosts.get(host) {
            Some(Ok(addresses)) => Ok(addresses.clone()),
            Some(Err(outcome)) => self.apply(*outcome, Vec::new()).await,
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<Transport> {
        self.connect_to(address.to_string()).await
    }

    #[cfg(unix)]
    async fn connect_unix(&self, path: &Path) -> io::Result<Transport> {
        self.connect_to(path.display().to_string()).await
    }
}

fn options(endpoints: impl IntoIterator<Item = Endpoint>) -> Options {
    Options::default().endpoints(endpoints).unwrap()
}

/// Dials. Time advances by `step` whenever nothing else happens. Also returns the elapsed time.
fn dial(net: &Net, options: &Options, step: Duration) -> (Result<Transport, Error>, Duration) {
    let clock = ManualClock::default();
    let mut dialling = pin!(puka::dial(net, &clock, options));
    let mut passed = Duration::ZERO;
    loop {
        if let Some(result) = block_on(poll_once(&mut dialling)) {
            return (result, passed);
        }
        clock.pass(step);
        passed += step;
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn every_endpoint_and_address_is_tried_in_order() {
    let net = Net::new(
        &[
            ("one", &["10.0.0.1:1", "10.0.0.2:1"]),
            ("two", &["10.0.0.3:2", "10.0.0.4:2", "10.0.0.5:2"]),
        ],
        &[
            ("10.0.0.1:1", Outcome::Fails(ErrorKind::ConnectionRefused)),
            ("10.0.0.4:2", Outcome::Connects),
        ],
    );
    let options = options([Endpoint::tcp("one", 1), Endpoint::tcp("two", 2)]);
    for _ in 0..2 {
        dial(&net, &options, SECOND).0.unwrap();
        assert_eq!(
            net.calls(),
            [
                "one:1?",
                "10.0.0.1:1",
                "10.0.0.2:1",
                "two:2?",
                "10.0.0.3:2",
                "10.0.0.4:2"
            ]
        );
    }
}

#[test]
fn unresolvable_host_is_skipped() {
    let net = Net::new(
        &[("two", &["10.0.0.3:2"])],
        &[("10.0.0.3:2", Outcome::Connects)],
    );
    let options = options([Endpoint::tcp("one", 1), Endpoint::tcp("two", 2)]);
    dial(&net, &options, SECOND).0.unwrap();
}

#[test]
fn last_error_names_its_endpoint_when_all_fail() {
    let net = Net::new(
        &[("one", &["10.0.0.1:1", "10.0.0.2:1"])],
        &[("10.0.0.2:1", Outcome::Fails(ErrorKind::ConnectionRefused))],
    );
    let error = dial(&net, &options([Endpoint::tcp("one", 1)]), SECOND)
        .0
        .unwrap_err();
    let Error::ConnectionBroken(Broken::Io(io)) = &error else {
        panic!("{error:?}")
    };
    assert_eq!(io.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(error.to_string(), "10.0.0.2:1: connection refused");
}

#[test]
fn host_without_an_address_is_an_error() {
    let net = Net::new(&[("one", &[])], &[]);
    let error = dial(&net, &options([Endpoint::tcp("one", 1)]), SECOND)
        .0
        .unwrap_err();
    assert_eq!(error.to_string(), "one has no address");
}

#[test]
fn resolving_has_its_deadline() {
    let mut net = Net::new(&[], &[]);
    net.hosts.insert("one", Err(Outcome::Hangs));
    let options = options([Endpoint::tcp("one", 1)]).resolve_timeout(3 * SECOND);
    let (result, took) = dial(&net, &options, SECOND);
    assert_eq!(
        result.unwrap_err().to_string(),
        "resolving the host took longer than 3 s"
    );
    assert_eq!(took, 3 * SECOND);
}

#[test]
fn each_address_has_its_own_deadline() {
    let net = Net::new(
        &[("one", &["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"])],
        &[
            ("10.0.0.1:1", Outcome::Hangs),
            ("10.0.0.2:1", Outcome::Hangs),
            ("10.0.0.3:1", Outcome::Connects),
        ],
    );
    let options = options([Endpoint::tcp("one", 1)]).dial_timeout(4 * SECOND);
    let (result, took) = dial(&net, &options, SECOND);
    assert!(!result.unwrap().is_private());
    assert_eq!(took, 8 * SECOND);
}

#[test]
fn silent_address_is_a_timeout() {
    let net = Net::new(
        &[("one", &["10.0.0.1:1"])],
        &[("10.0.0.1:1", Outcome::Hangs)],
    );
    let options = options([Endpoint::tcp("one", 1)]).dial_timeout(4 * SECOND);
    let (result, took) = dial(&net, &options, SECOND);
    assert!(
        matches!(result, Err(Error::Timeout { what: "dialling", after }) if after == 4 * SECOND)
    );
    assert_eq!(took, 4 * SECOND);
}

#[cfg(unix)]
#[test]
fn unix_socket_is_dialled_with_the_same_deadline() {
    let net = Net::new(
        &[],
        &[
            ("/run/broker", Outcome::Connects),
            ("/run/stuck", Outcome::Hangs),
        ],
    );
    let options = options([Endpoint::unix("/run/stuck"), Endpoint::unix("/run/broker")]);
    let (result, took) = dial(&net, &options.dial_timeout(5 * SECOND), SECOND);
    assert!(result.unwrap().is_private());
    assert_eq!(
        (net.calls(), took),
        (
            vec!["/run/stuck".to_owned(), "/run/broker".to_owned()],
            5 * SECOND
        )
    );
}

#[cfg(feature = "tls")]
#[test]
fn tls_handshake_with_a_silent_server_times_out() {
    let net = Net::new(
        &[("one", &["10.0.0.1:1"])],
        &[("10.0.0.1:1", Outcome::Connects)],
    );
    let options = options([Endpoint::tcp("one", 1)])
        .tls(puka::TlsOptions::default())
        .tls_timeout(2 * SECOND);
    let (result, took) = dial(&net, &options, SECOND);
    assert_eq!(
        result.unwrap_err().to_string(),
        "the TLS handshake took longer than 2 s"
    );
    assert_eq!(took, 2 * SECOND);
}

/// Compiles.
#[test]
fn dialling_can_be_spawned_on_any_thread() {
    fn spawn(_: impl Future<Output = Result<Transport, Error>> + Send) {}
    let (net, clock, options) = (Net::default(), ManualClock::default(), Options::default());
    spawn(puka::dial(&net, &clock, &options));
}

#[test]
fn dropped_driver_ends_the_attempt_to_connect() {
    for polls in 0..2 {
        let net = Net::new(
            &[("one", &["10.0.0.1:1"])],
            &[("10.0.0.1:1", Outcome::Hangs)],
        );
        let options = options([Endpoint::tcp("one", 1)]);
        let (client, mut driver) = puka::connect(net, ManualClock::default(), options);
        let connecting = client.connect();
        for _ in 0..polls {
            assert!(block_on(poll_once(&mut driver)).is_none());
        }
        drop(driver);
        let end = block_on(poll_once(connecting)).expect("it has ended");
        assert!(
            matches!(end, Err(Error::ConnectionBroken(Broken::DriverDropped))),
            "{end:?}"
        );
        let why = client.why_closed();
        assert!(
            matches!(why, Some(Error::ConnectionBroken(Broken::DriverDropped))),
            "{why:?}"
        );
    }
}

#[test]
fn transport_writes_the_given_bytes() {
    let pipe = Pipe::default();
    let mut transport = Transport::new(pipe.clone());
    assert_eq!(block_on(transport.write(b"abc")).unwrap(), 3);
    let pieces = [IoSlice::new(b"de"), IoSlice::new(b"f")];
    assert_eq!(block_on(transport.write_vectored(&pieces)).unwrap(), 3);
    assert_eq!(pipe.take_written(), b"abcdef");
}
