//! The limits of what a client repeats within a minute: connection attempts, restarts of a
//! consumer, and redeliveries of a message.

use crate::violation::{Checked, ensure};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

const MINUTE: Duration = Duration::from_secs(60);

/// The largest number of attempts to connect, for each endpoint.
///
/// The delays of [`Plan::options`](crate::plan::Plan::options) begin with 50 ms at most, and their
/// maximum doubles to 2 s. So six attempts have shorter delays, and all others follow after 1 s on
/// average: about 66 in a minute. The standard deviation is below 5, and ten of them are added. An
/// attempt that fails in the handshake is repeated at once with the next endpoint.
const MAX_ATTEMPTS: usize = 66 + 50;

/// The delays before the restarts of a consumer on one connection, from
/// [`Resubscribe`](puka::Resubscribe): after 0.5, 1, 2, 4, and then 5 seconds each.
const DELAYS: [u64; 4] = [500, 1000, 2000, 4000];
const LONGEST_DELAY: u64 = 5000;

/// How many restarts of a consumer on one connection have no delay or a shorter one: the first of
/// the connection, the first after an interruption, one after its missing queue was declared
/// again, and the last one at each of two limits, that of the recovery and that of an interruption.
const FREE_RESTARTS: usize = 5;

/// The largest number of redeliveries of a message.
///
/// A message is redelivered when its consumer is restarted: in a minute [`FREE_RESTARTS`] + 14
/// times (after 0.5 + 1 + 2 + 4 s, then after 5 s each), by each of at most three clients. It is
/// redelivered when a connection is lost, or when the application returns it. Both are operations,
/// which are random, and few of the up to 320 of a seed are about the same message.
const MAX_REDELIVERIES: usize = 3 * (FREE_RESTARTS + 14) + 40 + 60;

/// The instants of the last minute at which something happened.
#[derive(Debug, Default)]
struct LastMinute(VecDeque<Instant>);

impl LastMinute {
    /// Adds an instant. Returns how many there are in the last minute.
    fn add(&mut self, now: Instant) -> usize {
        while self.0.front().is_some_and(|at| now - *at >= MINUTE) {
            self.0.pop_front();
        }
        self.0.push_back(now);
        self.0.len()
    }
}

/// The attempts of a session to connect.
#[derive(Debug, Default)]
pub(crate) struct Attempts(LastMinute);

impl Attempts {
    /// Records an attempt, and checks that there were not too many.
    pub(crate) fn record(&mut self, now: Instant, endpoints: usize) -> Checked {
        let count = self.0.add(now);
        ensure(count <= MAX_ATTEMPTS * endpoints, || {
            format!("I13: {count} connection attempts in a minute")
        })
    }
}

/// The starts of the consumers of one connection, by their tags.
#[derive(Debug, Default)]
pub(crate) struct Starts(BTreeMap<String, LastMinute>);

impl Starts {
    /// Records a `basic.consume`, and checks that the ones before it are far enough in the past.
    pub(crate) fn record(&mut self, tag: &str, now: Instant) -> Checked {
        let starts = self.0.entry(tag.to_owned()).or_default();
        starts.add(now);
        // Each restart follows the reply to the one before, so that a delay of the network does not
        // bring them closer to each other.
        for (restarts, since) in starts.0.iter().rev().enumerate() {
            let least = least_time(restarts);
            ensure(now - *since >= least, || {
                format!("I13: {restarts} restarts of {tag} in {:?}", now - *since)
            })?;
        }
        Ok(())
    }
}

/// Returns the least time in which a consumer is restarted this many times.
fn least_time(restarts: usize) -> Duration {
    let delays = DELAYS.into_iter().chain(std::iter::repeat(LONGEST_DELAY));
    Duration::from_millis(delays.take(restarts.saturating_sub(FREE_RESTARTS)).sum())
}

/// The redeliveries of each copy of a message.
#[derive(Debug, Default)]
pub(crate) struct Redeliveries(BTreeMap<u64, LastMinute>);

impl Redeliveries {
    /// Records a redelivery, and checks that there were not too many.
    pub(crate) fn record(&mut self, copy: u64, now: Instant) -> Checked {
        let count = self.0.entry(copy).or_default().add(now);
        ensure(count <= MAX_REDELIVERIES, || {
            format!("I13: a message was redelivered {count} times in a minute")
        })
    }
}
