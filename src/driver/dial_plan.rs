//! The order in which endpoints and addresses are tried, and how long each step may take.
//!
//! The plan does no I/O and has no clock, so it is tested in virtual time. Every driver executes
//! the same one: it carries out a step and reports the outcome, which returns the next step.

use crate::error::Error;
use crate::machine::later;
use crate::options::Options;
use crate::uri::Endpoint;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
#[cfg(unix)]
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// An address to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    #[cfg(unix)]
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            #[cfg(unix)]
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// The step to carry out next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DialStep {
    /// Resolve the host, and report the addresses to [`DialPlan::resolved`].
    Resolve { host: String, port: u16 },
    /// Connect, and report it to [`DialPlan::connected`].
    Connect(Address),
}

/// The timeout of each step.
#[derive(Debug)]
struct Timeouts {
    resolve: Duration,
    connect: Duration,
    tls: Duration,
}

/// One round over all endpoints, and over all addresses of each.
#[derive(Debug)]
pub(crate) struct DialPlan {
    timeouts: Timeouts,
    /// The endpoints that were not tried yet, each with its index in the options.
    endpoints: VecDeque<(usize, Endpoint)>,
    /// The addresses of the current host that were not tried yet.
    addresses: VecDeque<Address>,
    /// The index of the current endpoint.
    endpoint: usize,
    /// The current host.
    host: String,
    /// The current address; none while the host is resolved.
    address: Option<Address>,
    /// The name of the current step and how long it may take, for errors.
    step: (&'static str, Duration),
    deadline: Instant,
}

impl DialPlan {
    /// Returns a plan that begins at the endpoint with this index and wraps around.
    pub(crate) fn new(options: &Options, first: usize, now: Instant) -> Self {
        let mut endpoints: VecDeque<_> = options
            .get_endpoints()
            .iter()
            .cloned()
            .enumerate()
            .collect();
        let count = endpoints.len();
        endpoints.rotate_left(first.min(count));
        Self {
            timeouts: Timeouts {
                resolve: options.get_resolve_timeout(),
                connect: options.get_dial_timeout(),
                tls: options.get_tls_timeout(),
            },
            endpoints,
            addresses: VecDeque::new(),
            endpoint: first,
            host: String::new(),
            address: None,
            step: ("", Duration::ZERO),
            deadline: now,
        }
    }

    /// Returns the index of the endpoint of the current step.
    pub(crate) fn endpoint(&self) -> usize {
        self.endpoint
    }

    /// Returns the host to verify in the TLS handshake; `None` for a Unix socket, which has none.
    pub(crate) fn host(&self) -> Option<&str> {
        matches!(self.address, Some(Address::Tcp(_))).then_some(&self.host)
    }

    /// Returns when the current step fails with [`timed_out`](Self::timed_out).
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Returns the error of a step that has reached its deadline.
    pub(crate) fn timed_out(&self) -> Error {
        let (what, after) = self.step;
        Error::Timeout { what, after }
    }

    /// Returns the error of a step that failed in the system, with the host or address.
    pub(crate) fn io_error(&self, error: &io::Error) -> Error {
        let text = match &self.address {
            Some(address) => format!("{address}: {error}"),
            None => format!("{}: {error}", self.host),
        };
        io::Error::new(error.kind(), text).into()
    }

    /// Returns the first step.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if there is no endpoint.
    pub(crate) fn start(&mut self, now: Instant) -> Result<DialStep, Error> {
        self.failed(
            Error::invalid("endpoints", "at least one endpoint is required"),
            now,
        )
    }

    /// Returns the step after the current host was resolved to these addresses.
    ///
    /// # Errors
    /// If there is none, and no other endpoint is left.
    pub(crate) fn resolved(
        &mut self,
        addresses: impl IntoIterator<Item = SocketAddr>,
        now: Instant,
    ) -> Result<DialStep, Error> {
        self.addresses = addresses.into_iter().map(Address::Tcp).collect();
        let none = io::Error::new(
            io::ErrorKind::NotFound,
            format!("{} has no address", self.host),
        );
        self.failed(none.into(), now)
    }

    /// Notes that the current address was connected to. The TLS handshake is the next step if the
    /// options ask for TLS and there is a [`host`](Self::host).
    pub(crate) fn connected(&mut self, now: Instant) {
        self.begin_step("the TLS handshake", self.timeouts.tls, now);
    }

    /// Returns the step after the current one has failed: the next address, or the next endpoint.
    ///
    /// # Errors
    /// This error, if there is none left.
    pub(crate) fn failed(&mut self, error: Error, now: Instant) -> Result<DialStep, Error> {
        if let Some(address) = self.addresses.pop_front() {
            return Ok(self.connect(address, now));
        }
        let Some((index, endpoint)) = self.endpoints.pop_front() else {
            return Err(error);
        };
        self.endpoint = index;
        match endpoint {
            Endpoint::Tcp { host, port } => {
                self.host.clone_from(&host);
                self.address = None;
                self.begin_step("resolving the host", self.timeouts.resolve, now);
                Ok(DialStep::Resolve { host, port })
            }
            #[cfg(unix)]
            Endpoint::Unix(path) => Ok(self.connect(Address::Unix(path), now)),
            #[cfg(not(unix))]
            Endpoint::Unix(_) => self.failed(
                Error::invalid(
                    "endpoints",
                    "Unix sockets are not supported on this platform",
                ),
                now,
            ),
        }
    }

    fn connect(&mut self, address: Address, now: Instant) -> DialStep {
        self.address = Some(address.clone());
        self.begin_step("dialling", self.timeouts.connect, now);
        DialStep::Connect(address)
    }

    fn begin_step(&mut self, what: &'static str, after: Duration, now: Instant) {
        self.step = (what, after);
        self.deadline = later(now, after);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn plan(endpoints: &[Endpoint], first: usize, now: Instant) -> DialPlan {
        let options = Options::default().endpoints(endpoints.to_vec()).unwrap();
        let options = options
            .resolve_timeout(SECOND)
            .dial_timeout(2 * SECOND)
            .tls_timeout(3 * SECOND);
        DialPlan::new(&options, first, now)
    }

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 5672))
    }

    fn connect(last: u8) -> DialStep {
        DialStep::Connect(Address::Tcp(address(last)))
    }

    fn resolve(host: &str) -> DialStep {
        DialStep::Resolve {
            host: host.into(),
            port: 5672,
        }
    }

    fn refused() -> Error {
        io::Error::from(io::ErrorKind::ConnectionRefused).into()
    }

    #[test]
    fn every_address_of_every_endpoint_is_tried_once() {
        let now = Instant::now();
        let mut plan = plan(
            &[Endpoint::tcp("a", 5672), Endpoint::tcp("b", 5672)],
            0,
            now,
        );
        assert_eq!(plan.start(now).unwrap(), resolve("a"));
        assert_eq!(
            plan.resolved([address(1), address(2)], now).unwrap(),
            connect(1)
        );
        assert_eq!(plan.failed(refused(), now).unwrap(), connect(2));
        assert_eq!(plan.endpoint(), 0);
        assert_eq!(plan.failed(refused(), now).unwrap(), resolve("b"));
        assert_eq!(plan.endpoint(), 1);
        assert_eq!(plan.resolved([address(3)], now).unwrap(), connect(3));
        let last = Error::invalid("x", "the last one");
        assert_eq!(
            plan.failed(last.clone(), now).unwrap_err().to_string(),
            last.to_string()
        );
    }

    #[test]
    fn round_begins_at_the_given_endpoint() {
        let now = Instant::now();
        let endpoints = ["a", "b", "c"].map(|host| Endpoint::tcp(host, 5672));
        let mut plan = plan(&endpoints, 2, now);
        assert_eq!(plan.start(now).unwrap(), resolve("c"));
        assert_eq!(plan.endpoint(), 2);
        assert_eq!(plan.failed(refused(), now).unwrap(), resolve("a"));
        assert_eq!(plan.failed(refused(), now).unwrap(), resolve("b"));
        assert_eq!(plan.endpoint(), 1);
        assert!(plan.failed(refused(), now).is_err());
    }

    #[test]
    fn each_step_has_its_own_deadline() {
        let now = Instant::now();
        let mut plan = plan(&[Endpoint::tcp("a", 5672)], 0, now);
        let text = |plan: &DialPlan| plan.timed_out().to_string();
        plan.start(now).unwrap();
        assert_eq!(plan.deadline(), now + SECOND);
        assert_eq!(text(&plan), "resolving the host took longer than 1 s");
        plan.resolved([address(1)], now + SECOND / 2).unwrap();
        assert_eq!(plan.deadline(), now + SECOND / 2 + 2 * SECOND);
        assert_eq!(text(&plan), "dialling took longer than 2 s");
        plan.connected(now + SECOND);
        assert_eq!(plan.host(), Some("a"));
        assert_eq!(plan.deadline(), now + 4 * SECOND);
        assert_eq!(text(&plan), "the TLS handshake took longer than 3 s");
    }

    #[test]
    fn host_without_addresses_fails() {
        let now = Instant::now();
        let mut plan = plan(&[Endpoint::tcp("a", 5672)], 0, now);
        plan.start(now).unwrap();
        let text = plan.resolved([], now).unwrap_err().to_string();
        assert!(text.contains("a has no address"), "{text}");
    }

    #[test]
    fn system_error_names_the_host_or_address() {
        let now = Instant::now();
        let mut plan = plan(&[Endpoint::tcp("a", 5672)], 0, now);
        let error = io::Error::from(io::ErrorKind::ConnectionRefused);
        plan.start(now).unwrap();
        assert!(
            plan.io_error(&error)
                .to_string()
                .contains("a: connection refused")
        );
        plan.resolved([address(1)], now).unwrap();
        assert!(
            plan.io_error(&error)
                .to_string()
                .contains("10.0.0.1:5672: connection refused")
        );
    }

    #[test]
    #[cfg(unix)]
    fn unix_socket_is_used_without_tls() {
        let now = Instant::now();
        let mut plan = plan(
            &[Endpoint::tcp("a", 5672), Endpoint::Unix("/s".into())],
            1,
            now,
        );
        assert_eq!(
            plan.start(now).unwrap(),
            DialStep::Connect(Address::Unix("/s".into()))
        );
        assert_eq!(plan.deadline(), now + 2 * SECOND);
        plan.connected(now);
        assert_eq!(plan.host(), None);
        assert_eq!(plan.failed(refused(), now).unwrap(), resolve("a"));
    }

    #[test]
    fn plan_without_endpoints_is_refused() {
        let now = Instant::now();
        let mut plan = plan(&[Endpoint::tcp("a", 5672)], 0, now);
        plan.endpoints.clear();
        assert!(matches!(
            plan.start(now),
            Err(Error::InvalidArgument { .. })
        ));
    }
}
