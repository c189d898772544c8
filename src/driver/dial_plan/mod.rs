//! The order in which endpoints and addresses are tried, when each attempt begins, and how long it
//! may take.
//!
//! The plan does no I/O and has no clock, so it is tested in virtual time. Every driver uses it:
//! the driver carries out the steps and reports their outcomes. Several steps are pending at once,
//! as in RFC 8305 ("happy eyeballs"): the next one begins when one fails, or 250 ms after the last
//! one has begun. The first TCP connection that is established wins, and the others are dropped.
//!
//! RFC 8305 is about the addresses of one host. The plan treats the addresses of all endpoints as
//! one list, because an endpoint that does not answer must not cost its timeout either. The price
//! is that a later endpoint may win although an earlier one would answer after more than 250 ms.

use super::addresses::{Addresses, interleave};
use crate::error::{Error, FailedAttempt, Located};
use crate::machine::{Dialled, Dialling, earlier, later};
use crate::options::Options;
use crate::uri::Endpoint;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
#[cfg(unix)]
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long an attempt is pending before the next one begins beside it. "Connection Attempt Delay
/// [..]. Recommended to be 250 ms" (RFC 8305, 8).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// An address to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    #[cfg(unix)]
    Unix(PathBuf),
}

/// A step to carry out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DialStep {
    /// Resolve the host, and report the addresses to [`DialPlan::handle_resolved`].
    Resolve { host: String, port: u16 },
    /// Connect, and report that to [`DialPlan::handle_connected`].
    Connect(Address),
}

/// The identity of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AttemptId(u32);

/// What was not tried yet: an endpoint, or an address of an endpoint. The number is the index of
/// the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Candidate {
    Endpoint(usize),
    Address(usize, SocketAddr),
}

impl Candidate {
    fn endpoint(self) -> usize {
        match self {
            Self::Endpoint(endpoint) | Self::Address(endpoint, _) => endpoint,
        }
    }

    fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Endpoint(_) => None,
            Self::Address(_, address) => Some(address),
        }
    }
}

/// The phase of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Resolving,
    Connecting,
    /// The TCP connection is established, and the TLS handshake is pending.
    Securing,
}

/// A pending attempt.
#[derive(Debug)]
struct Attempt {
    id: AttemptId,
    candidate: Candidate,
    phase: Phase,
    deadline: Instant,
}

/// One round over all endpoints, and over all addresses of each.
#[derive(Debug)]
pub(crate) struct DialPlan {
    endpoints: Vec<Endpoint>,
    resolve_timeout: Duration,
    connect_timeout: Duration,
    tls_timeout: Duration,
    preferred: Addresses,
    /// The endpoints and addresses that have failed before, which are skipped.
    skipped: Vec<(usize, Option<SocketAddr>)>,
    queue: VecDeque<Candidate>,
    /// The pending attempts, in the order in which they began.
    pending: Vec<Attempt>,
    failed: Vec<FailedAttempt>,
    /// The earliest time for the next attempt.
    next_at: Instant,
    next_id: u32,
}

impl DialPlan {
    /// Returns a plan for the endpoints of the options, and their addresses, that have not failed.
    /// It begins with the first one and wraps around. `preferred` are the addresses to try first.
    pub(crate) fn new(
        options: &Options,
        dialling: &Dialling,
        preferred: Addresses,
        now: Instant,
    ) -> Self {
        let endpoints = options.get_endpoints().to_vec();
        let mut order: VecDeque<usize> = (0..endpoints.len()).collect();
        order.rotate_left(dialling.first.min(endpoints.len()));
        order.retain(|endpoint| !dialling.failed.contains(&(*endpoint, None)));
        Self {
            endpoints,
            resolve_timeout: options.get_resolve_timeout(),
            connect_timeout: options.get_dial_timeout(),
            tls_timeout: options.get_tls_timeout(),
            preferred,
            skipped: dialling.failed.clone(),
            queue: order.into_iter().map(Candidate::Endpoint).collect(),
            pending: Vec::new(),
            failed: Vec::new(),
            next_at: now,
            next_id: 0,
        }
    }

    /// Returns the next step, if it is due. Call it until it returns `None`.
    pub(crate) fn poll_step(&mut self, now: Instant) -> Option<(AttemptId, DialStep)> {
        while self.may_begin() && self.next_at <= now {
            let candidate = self.queue.pop_front()?;
            match self.step_of(candidate) {
                Ok(step) => return Some((self.begin(candidate, &step, now), step)),
                Err(error) => self.add_failure(candidate, error),
            }
        }
        None
    }

    /// Returns when to call [`poll_step`](Self::poll_step) or [`poll_expired`](Self::poll_expired).
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let next = (self.may_begin() && !self.queue.is_empty()).then_some(self.next_at);
        let deadlines = self.pending.iter().map(|attempt| Some(attempt.deadline));
        deadlines.fold(next, earlier)
    }

    /// Returns `true` if nothing is pending and nothing is left to try.
    pub(crate) fn is_over(&self) -> bool {
        self.pending.is_empty() && self.queue.is_empty()
    }

    /// Returns the error of the round, which lists all failed attempts, also a single one. The list
    /// is empty if everything has failed before.
    pub(crate) fn into_error(self) -> Error {
        Error::CannotConnect(self.failed.into())
    }

    /// Returns the transport that an attempt has dialled, with what has failed before it, and the
    /// endpoints of which something is left to try.
    pub(crate) fn take_dialled(&mut self, id: AttemptId, is_private: bool) -> Option<Dialled> {
        let attempt = self.remove(id)?;
        let mut dialled = Dialled::new(attempt.candidate.endpoint(), is_private);
        dialled.address = attempt.candidate.address();
        dialled.failed = std::mem::take(&mut self.failed);
        dialled.unfinished = self.queue.iter().map(|it| it.endpoint()).collect();
        dialled.unfinished.sort_unstable();
        dialled.unfinished.dedup();
        Some(dialled)
    }

    /// Handles the addresses of a host. The first one that has not failed is due at once.
    pub(crate) fn handle_resolved(
        &mut self,
        id: AttemptId,
        addresses: impl IntoIterator<Item = SocketAddr>,
        now: Instant,
    ) {
        let Some(Attempt { candidate, .. }) = self.remove(id) else {
            return;
        };
        self.next_at = now;
        let endpoint = candidate.endpoint();
        let mut addresses: Vec<SocketAddr> = addresses.into_iter().collect();
        if addresses.is_empty() {
            let text = format!("{} has no address", self.host(endpoint).unwrap_or_default());
            let none = io::Error::new(io::ErrorKind::NotFound, text);
            self.add_failure(candidate, none.into());
        }
        addresses.retain(|address| !self.skipped.contains(&(endpoint, Some(*address))));
        let ordered = interleave(addresses, self.preferred.get(&endpoint).copied());
        for address in ordered.into_iter().rev() {
            self.queue.push_front(Candidate::Address(endpoint, address));
        }
    }

    /// Begins the TLS handshake of an attempt that is connected. All other attempts end: the driver
    /// drops them, and they begin again if the handshake fails. Restarting them is simpler than
    /// keeping them, and no broker waits meanwhile for the first byte of a connection.
    ///
    /// The timeout also starts if there is no TLS, in which case the driver has nothing to do in
    /// this step. There is none if the options do not ask for it, or there is no
    /// [`tls_host`](Self::tls_host).
    pub(crate) fn handle_connected(&mut self, id: AttemptId, now: Instant) {
        let deadline = later(now, self.tls_timeout);
        let Some(winner) = self.remove(id) else {
            return;
        };
        for other in std::mem::take(&mut self.pending).into_iter().rev() {
            self.queue.push_front(other.candidate);
        }
        self.pending.push(Attempt {
            phase: Phase::Securing,
            deadline,
            ..winner
        });
    }

    /// Handles a failed attempt. The next one is due at once.
    pub(crate) fn handle_failure(&mut self, id: AttemptId, error: Error, now: Instant) {
        if let Some(Attempt { candidate, .. }) = self.remove(id) {
            self.add_failure(candidate, error);
            self.next_at = now;
        }
    }

    /// Handles an error of the operating system, and adds the host or address to it.
    pub(crate) fn handle_io_error(&mut self, id: AttemptId, error: &io::Error, now: Instant) {
        let Some(attempt) = self.pending.iter().find(|attempt| attempt.id == id) else {
            return;
        };
        let endpoint = attempt.candidate.endpoint();
        let place = match (attempt.candidate.address(), self.endpoints.get(endpoint)) {
            (Some(address), _) => address.to_string(),
            (None, Some(Endpoint::Tcp { host, .. })) => host.clone(),
            (None, Some(endpoint)) => endpoint.to_string(),
            (None, None) => String::new(),
        };
        self.handle_failure(id, Located::wrap(place, error).into(), now);
    }

    /// Returns an attempt whose deadline has passed. It has failed, and the driver drops it.
    pub(crate) fn poll_expired(&mut self, now: Instant) -> Option<AttemptId> {
        let attempt = self
            .pending
            .iter()
            .find(|attempt| attempt.deadline <= now)?;
        let (what, after) = match attempt.phase {
            Phase::Resolving => ("resolving the host", self.resolve_timeout),
            Phase::Connecting => ("dialling", self.connect_timeout),
            Phase::Securing => ("the TLS handshake", self.tls_timeout),
        };
        let id = attempt.id;
        self.handle_failure(id, Error::Timeout { what, after }, now);
        Some(id)
    }

    /// Returns the host to verify in the TLS handshake; `None` for a Unix socket, which has none.
    pub(crate) fn tls_host(&self, id: AttemptId) -> Option<&str> {
        let attempt = self.pending.iter().find(|attempt| attempt.id == id)?;
        self.host(attempt.candidate.endpoint())
    }

    fn host(&self, endpoint: usize) -> Option<&str> {
        match self.endpoints.get(endpoint)? {
            Endpoint::Tcp { host, .. } => Some(host),
            Endpoint::Unix(_) => None,
        }
    }

    /// Returns `true` if another attempt may begin. None begins during a TLS handshake.
    fn may_begin(&self) -> bool {
        self.pending
            .iter()
            .all(|attempt| attempt.phase != Phase::Securing)
    }

    fn step_of(&self, candidate: Candidate) -> Result<DialStep, Error> {
        if let Some(address) = candidate.address() {
            return Ok(DialStep::Connect(Address::Tcp(address)));
        }
        match self.endpoints.get(candidate.endpoint()) {
            Some(Endpoint::Tcp { host, port }) => Ok(DialStep::Resolve {
                host: host.clone(),
                port: *port,
            }),
            #[cfg(unix)]
            Some(Endpoint::Unix(path)) => Ok(DialStep::Connect(Address::Unix(path.clone()))),
            _ => Err(Error::invalid(
                "endpoints",
                "Unix sockets are not supported on this platform",
            )),
        }
    }

    fn begin(&mut self, candidate: Candidate, step: &DialStep, now: Instant) -> AttemptId {
        let id = AttemptId(self.next_id);
        self.next_id = self.next_id.wrapping_add(1);
        let (phase, timeout) = match step {
            DialStep::Resolve { .. } => (Phase::Resolving, self.resolve_timeout),
            DialStep::Connect(_) => (Phase::Connecting, self.connect_timeout),
        };
        self.next_at = later(now, ATTEMPT_DELAY);
        self.pending.push(Attempt {
            id,
            candidate,
            phase,
            deadline: later(now, timeout),
        });
        id
    }

    fn remove(&mut self, id: AttemptId) -> Option<Attempt> {
        let index = self.pending.iter().position(|attempt| attempt.id == id)?;
        Some(self.pending.remove(index))
    }

    fn add_failure(&mut self, candidate: Candidate, error: Error) {
        let index = candidate.endpoint();
        if let Some(endpoint) = self.endpoints.get(index).cloned() {
            let failed = FailedAttempt::new(index, endpoint, candidate.address(), error);
            self.failed.push(failed);
        }
    }
}

#[cfg(test)]
mod tests;
