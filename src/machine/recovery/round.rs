//! The attempts of one round, in which every address of every endpoint is tried once.

use crate::error::{Error, FailedAttempt, SocketAddress};
use crate::machine::context::{Context, Stage};
use crate::machine::recovery::backoff::refuses;
use crate::machine::{Dialled, Dialling};
use crate::uri::Endpoint;

/// The port for AMQP over TLS. "amqps 5671/tcp: amqp protocol over TLS/SSL" (IANA).
const TLS_PORT: u16 = 5671;

/// The number of failed handshakes, in addition to one for each endpoint, after which a round ends.
/// Handshakes of a round follow each other without delay, and each resolves its host again. Without
/// a limit, a resolver that returns new addresses each time would make a round endless.
const MAX_OTHER_HANDSHAKES: usize = 64;

/// The endpoint in use, and the failed attempts of a round over the endpoints.
#[derive(Debug, Default)]
pub(crate) struct Round {
    /// The endpoint in use, or the first one to dial.
    endpoint: usize,
    /// The address in use.
    address: Option<SocketAddress>,
    /// The transport in use was dialled. The program's own stream has no endpoint.
    is_dialled: bool,
    /// The last transport became an open connection, and was not reported to the driver yet.
    was_open: bool,
    /// The address was tried twice in this round, because the driver ignores which have failed.
    is_repeated: bool,
    /// The number of failed handshakes in this round.
    handshakes: usize,
    failed: Vec<FailedAttempt>,
    /// The endpoints with addresses that have not failed, as of the last transport.
    unfinished: Vec<usize>,
}

impl Round {
    /// Returns what to dial: the endpoints and addresses that have not failed in this round.
    pub(crate) fn begin_dialling(&mut self, attempt: u32) -> Dialling {
        Dialling {
            attempt,
            first: self.endpoint,
            failed: self.failed_places().collect(),
            was_open: std::mem::take(&mut self.was_open),
        }
    }

    /// Records the endpoint and address in use, and those that failed before it was reached.
    pub(crate) fn record_dialled(&mut self, dialled: Dialled) {
        let is_same = |(endpoint, address): (usize, Option<SocketAddress>)| {
            endpoint == dialled.endpoint && (address.is_none() || address == dialled.address)
        };
        let is_repeated = self.failed_places().any(is_same);
        self.is_repeated = is_repeated;
        self.unfinished = dialled.unfinished;
        self.failed.extend(dialled.failed);
        self.endpoint = dialled.endpoint;
        self.address = dialled.address;
        self.is_dialled = true;
    }

    /// Records that the connection is open, which ends the round.
    pub(crate) fn record_open(&mut self) {
        self.was_open = true;
        self.end();
    }

    /// Records a failed dial, a failed handshake or the loss of a connection. Returns the error for
    /// all failed attempts of the round. The loss of a connection that was open, or was being
    /// restored, is no part of a round.
    pub(crate) fn record(&mut self, cx: &Context, error: Error) -> Error {
        match (cx.stage, error) {
            (Stage::Down, Error::CannotConnect(failed)) => self.failed.extend_from_slice(&failed),
            (Stage::Down, error) => {
                self.address = None;
                self.add(cx, error);
            }
            (Stage::Handshake, error) => {
                self.handshakes += 1;
                if refuses(&error, true) {
                    // The broker was reached, and its other addresses would refuse it, too. So this
                    // is the only error of its endpoint.
                    let refused = self.endpoint;
                    self.unfinished.retain(|endpoint| *endpoint != refused);
                    self.failed.retain(|attempt| attempt.index != refused);
                }
                self.add(cx, error);
            }
            (_, error) => {
                self.end();
                self.add(cx, error);
            }
        }
        Error::of_attempts(self.failed.clone())
    }

    /// Adds a failed attempt at the endpoint in use.
    fn add(&mut self, cx: &Context, error: Error) {
        let endpoint = cx.options.get_endpoints().get(self.endpoint).cloned();
        // Unreachable: the index is that of an endpoint, unless the driver reports another one.
        let endpoint = endpoint.unwrap_or_default();
        let attempt = FailedAttempt::new(self.endpoint, endpoint, self.address, error);
        self.failed.push(attempt);
    }

    /// Returns the failed attempts of this round.
    pub(crate) fn failed(&self) -> Vec<FailedAttempt> {
        self.failed.clone()
    }

    /// Returns the endpoints that have failed in this round. The address is `None` if none of the
    /// endpoint's addresses is left.
    fn failed_places(&self) -> impl Iterator<Item = (usize, Option<SocketAddress>)> {
        self.failed.iter().map(|it| {
            let is_unfinished = self.unfinished.contains(&it.index);
            (it.index, it.address.filter(|_| is_unfinished))
        })
    }

    /// Returns `true` if all addresses of an endpoint have failed in this round.
    fn has_failed(&self, endpoint: usize) -> bool {
        !self.unfinished.contains(&endpoint) && self.failed.iter().any(|it| it.index == endpoint)
    }

    /// Returns `true` if the round continues: an endpoint or address has not failed, no address was
    /// repeated, and the handshake limit is not reached.
    pub(crate) fn may_continue(&self, endpoints: usize) -> bool {
        !self.is_repeated
            && self.handshakes < endpoints.saturating_add(MAX_OTHER_HANDSHAKES)
            && (0..endpoints).any(|endpoint| !self.has_failed(endpoint))
    }

    /// Moves on to the next of this many endpoints that has not failed in this round, unless other
    /// addresses of the current one have not failed.
    pub(crate) fn advance(&mut self, endpoints: usize) {
        if self.unfinished.contains(&self.endpoint) {
            return;
        }
        let turns = (1..=endpoints).map(|turn| (self.endpoint + turn) % endpoints.max(1));
        let next = turns.clone().find(|endpoint| !self.has_failed(*endpoint));
        self.endpoint = next.or(turns.clone().next()).unwrap_or_default();
    }

    /// Ends the round.
    pub(crate) fn end(&mut self) {
        self.failed.clear();
        self.unfinished.clear();
        self.handshakes = 0;
        self.is_repeated = false;
    }

    /// Replaces an error by [`Error::TlsExpected`] if the broker has sent no AMQP and probably
    /// expects TLS: it sent a TLS alert, or closed a transport on port 5671.
    pub(crate) fn explain_tls(&self, cx: &Context, error: Error, is_tls_alert: bool) -> Error {
        match cx.options.get_endpoints().get(self.endpoint) {
            Some(&Endpoint::Tcp { port, .. })
                if self.is_dialled
                    && !cx.options.is_tls()
                    && (is_tls_alert
                        || port == TLS_PORT && matches!(error, Error::ConnectionBroken(_))) =>
            {
                let cause = error.into();
                Error::TlsExpected { port, cause }
            }
            _ => error,
        }
    }
}
