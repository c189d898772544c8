//! Dialling in virtual time: order of endpoints and addresses, and deadlines.

use crate::peer::{method, rabbitmq, start, tune};
use crate::pipe::{ManualClock, Pipe, Read};
use futures_lite::AsyncWriteExt;
use futures_lite::future::{block_on, pending, poll_once};
use puka::protocol::method::connection;
use puka::{
    Broken, Client, ConnectionState, Dial, DialDriver, Endpoint, Error, Options, Recovery,
    Transport,
};
use std::collections::BTreeMap;
use std::error::Error as _;
use std::future::Future;
use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
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
    calls: Arc<Mutex<Vec<String>>>,
    /// The stream of every connection.
    pipe: Pipe,
    /// The number of attempts that hung and were dropped.
    dropped: AtomicUsize,
}

/// Counts its drop.
struct CountedDrop<'a>(&'a AtomicUsize);

impl Drop for CountedDrop<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Relaxed);
    }
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
            calls: Arc::default(),
            pipe: Pipe::default(),
            dropped: AtomicUsize::new(0),
        }
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }

    async fn apply<T>(&self, outcome: Outcome, gives: T) -> io::Result<T> {
        match outcome {
            Outcome::Connects => Ok(gives),
            Outcome::Fails(kind) => Err(kind.into()),
            Outcome::Hangs => {
                let _counted = CountedDrop(&self.dropped);
                pending().await
            }
        }
    }

    async fn connect_to(&self, place: String) -> io::Result<Transport> {
        let outcome = self
            .places
            .get(&place)
            .copied()
            .unwrap_or(Outcome::Fails(ErrorKind::NotFound));
        self.calls.lock().unwrap().push(place);
        self.apply(outcome, Transport::new(self.pipe.clone())).await
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

const MOMENT: Duration = Duration::from_millis(50);

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
fn error_lists_every_attempt_with_its_cause() {
    let net = Net::new(
        &[
            ("one", &["10.0.0.1:1", "10.0.0.2:1"]),
            ("10.0.0.2", &["10.0.0.2:1"]),
        ],
        &[("10.0.0.2:1", Outcome::Fails(ErrorKind::ConnectionRefused))],
    );
    let options = options([Endpoint::tcp("one", 1), Endpoint::tcp("10.0.0.2", 1)]);
    let error = dial(&net, &options, SECOND).0.unwrap_err();
    let Error::CannotConnect(failed) = &error else {
        panic!("{error:?}")
    };
    assert_eq!(failed.len(), 3);
    assert_eq!(failed[1].endpoint, Endpoint::tcp("one", 1));
    assert_eq!(failed[1].address, Some("10.0.0.2:1".parse().unwrap()));
    assert!(failed[1].error.is_connection_broken() && error.is_connection_broken());
    assert_eq!(
        error.to_string(),
        "one:1 (10.0.0.1:1): entity not found; one:1 (10.0.0.2:1): connection refused; \
         10.0.0.2:1: connection refused"
    );
    assert!(error.source().is_none(), "the text has all causes");
}

#[test]
fn single_attempt_fails_with_its_own_error() {
    let net = Net::new(
        &[("one", &["10.0.0.2:1"])],
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
    let (result, took) = dial(&net, &options, MOMENT);
    assert!(!result.unwrap().is_private());
    assert_eq!(took, SECOND / 2, "250 ms for each address that is silent");
}

#[test]
fn silent_endpoint_costs_a_quarter_of_a_second() {
    let mut net = Net::new(
        &[("one", &["10.0.0.1:1"]), ("three", &["10.0.0.3:1"])],
        &[
            ("10.0.0.1:1", Outcome::Hangs),
            ("10.0.0.3:1", Outcome::Connects),
        ],
    );
    net.hosts.insert("two", Err(Outcome::Hangs));
    let hosts = ["one", "two", "three"];
    let options = options(hosts.map(|host| Endpoint::tcp(host, 1)));
    let (result, took) = dial(&net, &options, MOMENT);
    result.unwrap();
    assert_eq!(took, SECOND / 2);
    assert_eq!(net.dropped.load(Relaxed), 2, "the losers are dropped");
}

/// A driver that dials one host with two addresses, in virtual time.
struct Redialling {
    calls: Arc<Mutex<Vec<String>>>,
    pipe: Pipe,
    clock: ManualClock,
    client: Client,
    driver: DialDriver<Net, ManualClock>,
}

impl Redialling {
    fn new(first: Outcome, recovery: Recovery) -> Self {
        let net = Net::new(
            &[("one", &["10.0.0.1:1", "10.0.0.2:1"])],
            &[("10.0.0.1:1", first), ("10.0.0.2:1", Outcome::Connects)],
        );
        let (calls, pipe) = (net.calls.clone(), net.pipe.clone());
        let clock = ManualClock::default();
        let options = options([Endpoint::tcp("one", 1)]).dial_timeout(SECOND);
        let options = options.recovery(recovery.seed(1));
        let (client, driver) = puka::connect(net, clock.clone(), options);
        Self {
            calls,
            pipe,
            clock,
            client,
            driver,
        }
    }

    /// Drives for half a second, and returns what was dialled meanwhile.
    fn dialled(&mut self) -> Vec<String> {
        for _ in 0..10 {
            assert!(block_on(poll_once(&mut self.driver)).is_none());
            self.clock.pass(MOMENT);
        }
        std::mem::take(&mut *self.calls.lock().unwrap())
    }

    fn complete_handshake(&mut self) {
        let handshake = [
            start(&rabbitmq(), b"PLAIN"),
            method(0, &tune(2047, 131_072, 0)),
            method(0, &connection::OpenOk {}),
        ];
        self.pipe.feed(&handshake.concat());
        self.dialled();
        assert!(matches!(self.client.state(), ConnectionState::Open));
    }
}

const HTTP: &[u8] = b"HTTP/1.1 503 Service Unavailable";

#[test]
fn address_that_worked_last_is_tried_first() {
    let recovery = Recovery::default().retry_first_connect(true);
    let mut it = Redialling::new(Outcome::Hangs, recovery);
    assert_eq!(it.dialled(), ["one:1?", "10.0.0.1:1", "10.0.0.2:1"]);
    // The address that accepted the TCP connection has not proved that a broker is behind it.
    it.pipe.feed(HTTP);
    assert_eq!(it.dialled(), ["one:1?", "10.0.0.1:1"]);
    assert_eq!(it.dialled(), [""; 0]);
    assert_eq!(it.dialled(), ["one:1?", "10.0.0.1:1", "10.0.0.2:1"]);
    it.complete_handshake();
    it.pipe.read(Read::Eof);
    // All streams are this pipe, so the next handshake fails, too.
    assert_eq!(
        it.dialled(),
        ["one:1?", "10.0.0.2:1", "one:1?", "10.0.0.1:1"]
    );
}

#[test]
fn failed_handshake_does_not_hide_another_address() {
    let mut it = Redialling::new(Outcome::Connects, Recovery::default());
    assert_eq!(it.dialled(), ["one:1?", "10.0.0.1:1"]);
    it.pipe.feed(HTTP);
    assert_eq!(it.dialled(), ["one:1?", "10.0.0.2:1"]);
    it.complete_handshake();
}

#[test]
fn every_address_is_tried_once_with_handshake() {
    let mut it = Redialling::new(Outcome::Connects, Recovery::default());
    for expected in ["10.0.0.1:1", "10.0.0.2:1"] {
        assert_eq!(it.dialled(), ["one:1?", expected]);
        it.pipe.feed(HTTP);
    }
    let end = block_on(poll_once(&mut it.driver)).expect("the round has failed");
    let Err(Error::CannotConnect(failed)) = end else {
        panic!("{end:?}")
    };
    let addresses: Vec<_> = failed.iter().filter_map(|it| it.address).collect();
    let expected = ["10.0.0.1:1", "10.0.0.2:1"].map(|text| text.parse().unwrap());
    assert_eq!(addresses, expected);
    assert!(
        failed
            .iter()
            .all(|it| matches!(it.error, Error::NotAmqp(_)))
    );
    assert!(it.calls.lock().unwrap().is_empty());
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
    let (result, took) = dial(&net, &options.dial_timeout(SECOND / 5), MOMENT);
    assert!(result.unwrap().is_private());
    assert_eq!(
        (net.calls(), took),
        (
            vec!["/run/stuck".to_owned(), "/run/broker".to_owned()],
            SECOND / 5
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

#[cfg(feature = "tls")]
#[test]
fn losers_are_dropped_before_the_tls_handshake() {
    let net = Net::new(
        &[("one", &["10.0.0.1:1", "10.0.0.2:1"])],
        &[
            ("10.0.0.1:1", Outcome::Hangs),
            ("10.0.0.2:1", Outcome::Connects),
        ],
    );
    let options = options([Endpoint::tcp("one", 1)]).tls(puka::TlsOptions::default());
    let clock = ManualClock::default();
    let mut dialling = pin!(puka::dial(&net, &clock, &options));
    for dropped in [0, 0, 0, 0, 0, 1, 1] {
        assert!(block_on(poll_once(&mut dialling)).is_none());
        assert_eq!(net.dropped.load(Relaxed), dropped);
        clock.pass(MOMENT);
    }
}
