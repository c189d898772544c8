//! The order in which endpoints and addresses are tried, and how long each step may take.
//!
//! The plan does no I/O and has no clock, so it is tested in virtual time. Every driver uses it:
//! the driver carries out a step and reports the outcome, and the plan returns the next step.

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
    /// Resolve the host, and report the addresses to [`DialPlan::handle_resolved`].
    Resolve { host: String, port: u16 },
    /// Connect, and report that to [`DialPlan::handle_connected`].
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
///
/// If no attempt succeeds, the plan returns the error of the last one, so that it has the same type
/// and meaning as that of a single attempt. The other errors are dropped.
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
    /// The name of the current step, for errors.
    step_name: &'static str,
    step_timeout: Duration,
    deadline: Instant,
}

impl DialPlan {
    /// Returns a plan that begins at the endpoint with this index and wraps around.
    pub(crate) fn new(options: &Options, first_endpoint: usize, now: Instant) -> Self {
        let mut endpoints: VecDeque<_> = options
            .get_endpoints()
            .iter()
            .cloned()
            .enumerate()
            .collect();
        let count = endpoints.len();
        endpoints.rotate_left(first_endpoint.min(count));
        Self {
            timeouts: Timeouts {
                resolve: options.get_resolve_timeout(),
                connect: options.get_dial_timeout(),
                tls: options.get_tls_timeout(),
            },
            endpoints,
            addresses: VecDeque::new(),
            endpoint: first_endpoint,
            host: String::new(),
            address: None,
            step_name: "",
            step_timeout: Duration::ZERO,
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

    /// Returns when the current step fails with [`timeout_error`](Self::timeout_error).
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Returns the error of a step that has reached its deadline.
    pub(crate) fn timeout_error(&self) -> Error {
        Error::Timeout {
            what: self.step_name,
            after: self.step_timeout,
        }
    }

    /// Adds the host or address to an error of the operating system.
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
        let none = Error::invalid("endpoints", "at least one endpoint is required");
        self.next_endpoint(none, now)
    }

    /// Handles the addresses of the current host, and returns the next step.
    ///
    /// # Errors
    /// If there are no addresses, and no other endpoint is left.
    pub(crate) fn handle_resolved(
        &mut self,
        addresses: impl IntoIterator<Item = SocketAddr>,
        now: Instant,
    ) -> Result<DialStep, Error> {
        self.addresses = addresses.into_iter().map(Address::Tcp).collect();
        let none = io::Error::new(
            io::ErrorKind::NotFound,
            format!("{} has no address", self.host),
        );
        self.next_step(none.into(), now)
    }

    /// Begins the TLS handshake, after the current address was connected to.
    ///
    /// Its timeout also starts if there is no TLS, in which case the driver has nothing to do in
    /// this step. There is none if the options do not ask for it, or there is no
    /// [`host`](Self::host).
    pub(crate) fn handle_connected(&mut self, now: Instant) {
        self.begin_step("the TLS handshake", self.timeouts.tls, now);
    }

    /// Returns the step after the current one has failed: the next address, or the next endpoint.
    ///
    /// # Errors
    /// The error of the current step, if there is no other step.
    pub(crate) fn next_step(&mut self, error: Error, now: Instant) -> Result<DialStep, Error> {
        match self.addresses.pop_front() {
            Some(address) => Ok(self.connect(address, now)),
            None => self.next_endpoint(error, now),
        }
    }

    /// Returns the first step for the next endpoint that this platform supports.
    ///
    /// # Errors
    /// The last error, which is `error` unless an endpoint is not supported.
    fn next_endpoint(&mut self, mut error: Error, now: Instant) -> Result<DialStep, Error> {
        while let Some((index, endpoint)) = self.endpoints.pop_front() {
            self.endpoint = index;
            match self.begin_endpoint(endpoint, now) {
                Ok(step) => return Ok(step),
                Err(unsupported) => error = unsupported,
            }
        }
        Err(error)
    }

    fn begin_endpoint(&mut self, endpoint: Endpoint, now: Instant) -> Result<DialStep, Error> {
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
            Endpoint::Unix(_) => Err(Error::invalid(
                "endpoints",
                "Unix sockets are not supported on this platform",
            )),
        }
    }

    fn connect(&mut self, address: Address, now: Instant) -> DialStep {
        self.address = Some(address.clone());
        self.begin_step("dialling", self.timeouts.connect, now);
        DialStep::Connect(address)
    }

    fn begin_step(&mut self, name: &'static str, timeout: Duration, now: Instant) {
        self.step_name = name;
        self.step_timeout = timeout;
        self.deadline = later(now, timeout);
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
            plan.handle_resolved([address(1), address(2)], now).unwrap(),
            connect(1)
        );
        assert_eq!(plan.next_step(refused(), now).unwrap(), connect(2));
        assert_eq!(plan.endpoint(), 0);
        assert_eq!(plan.next_step(refused(), now).unwrap(), resolve("b"));
        assert_eq!(plan.endpoint(), 1);
        assert_eq!(plan.handle_resolved([address(3)], now).unwrap(), connect(3));
        let last = Error::invalid("x", "the last one");
        assert_eq!(
            plan.next_step(last.clone(), now).unwrap_err().to_string(),
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
        assert_eq!(plan.next_step(refused(), now).unwrap(), resolve("a"));
        assert_eq!(plan.next_step(refused(), now).unwrap(), resolve("b"));
        assert_eq!(plan.endpoint(), 1);
        assert!(plan.next_step(refused(), now).is_err());
    }

    #[test]
    fn each_step_has_its_own_deadline() {
        let now = Instant::now();
        let mut plan = plan(&[Endpoint::tcp("a", 5672)], 0, now);
        let text = |plan: &DialPlan| plan.timeout_error().to_string();
        plan.start(now).unwrap();
        assert_eq!(plan.deadline(), now + SECOND);
        assert_eq!(text(&plan), "resolving the host took longer than 1 s");
        plan.handle_resolved([address(1)], now + SECOND / 2)
            .unwrap();
        assert_eq!(plan.deadline(), now + SECOND / 2 + 2 * SECOND);
        assert_eq!(text(&plan), "dialling took longer than 2 s");
        plan.handle_connected(now + SECOND);
        assert_eq!(plan.host(), Some("a"));
        assert_eq!(plan.deadline(), now + 4 * SECOND);
        assert_eq!(text(&plan), "the TLS handshake took longer than 3 s");
    }

    #[test]
    fn host_without_addresses_fails() {
        let now = Instant::now();
        let mut plan = plan(&[Endpoint::tcp("a", 5672)], 0, now);
        plan.start(now).unwrap();
        let text = plan.handle_resolved([], now).unwrap_err().to_string();
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
        plan.handle_resolved([address(1)], now).unwrap();
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
        plan.handle_connected(now);
        assert_eq!(plan.host(), None);
        assert_eq!(plan.next_step(refused(), now).unwrap(), resolve("a"));
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
