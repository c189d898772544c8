//! Promises that complete when the connection is open.

use crate::error::Error;
use crate::machine::context::Context;
use crate::machine::{PromiseId, Reply};

/// Promises that complete when the connection is open.
#[derive(Debug, Default)]
pub(crate) struct Connecting {
    promises: Vec<PromiseId>,
    /// The number of promises at which abandoned ones are removed.
    cleanup_at: usize,
}

impl Connecting {
    /// Adds a promise.
    pub(crate) fn add(&mut self, cx: &mut Context, promise: PromiseId) {
        self.complete_abandoned(cx);
        self.promises.push(promise);
    }

    /// Completes abandoned promises, if there are twice as many promises as after the last time.
    /// Otherwise a program that calls `connect` repeatedly while there is no broker would add
    /// promises without limit. On average, each call checks two of them.
    fn complete_abandoned(&mut self, cx: &mut Context) {
        if self.promises.len() < self.cleanup_at {
            return;
        }
        let (wanted, abandoned): (_, Vec<PromiseId>) = std::mem::take(&mut self.promises)
            .into_iter()
            .partition(|it| cx.promises.is_wanted(*it));
        self.promises = wanted;
        self.cleanup_at = 2 * self.promises.len().max(8);
        for promise in abandoned {
            cx.complete(promise, Ok(Reply::Done));
        }
    }

    /// Completes one promise with the properties of the server.
    pub(crate) fn complete_one(cx: &mut Context, promise: PromiseId) {
        let server = Box::new(cx.server.clone());
        cx.complete(promise, Ok(Reply::Connected(server)));
    }

    /// Completes all promises, because the connection is open.
    pub(crate) fn complete(&mut self, cx: &mut Context) {
        for promise in std::mem::take(&mut self.promises) {
            Self::complete_one(cx, promise);
        }
    }

    /// Completes all promises with an error.
    pub(crate) fn fail(&mut self, cx: &mut Context, error: &Error) {
        for promise in std::mem::take(&mut self.promises) {
            cx.complete(promise, Err(error.clone()));
        }
    }

    /// Removes the promises without completing them. The caller completes them with all others.
    pub(crate) fn clear(&mut self) {
        self.promises.clear();
    }
}

#[cfg(test)]
mod tests {
    use crate::machine::Connection;
    use crate::options::Options;
    use std::time::Instant;

    /// Returns the number of stored promises after each of these calls.
    fn stored(connection: &mut Connection, calls: usize, abandons: bool) -> Vec<usize> {
        let call = |_| {
            let promise = connection.connect();
            if abandons {
                connection.abandon(promise);
            }
            connection.lifecycle.connecting.promises.len()
        };
        (0..calls).map(call).collect()
    }

    #[test]
    fn abandoned_promises_are_removed_when_they_double() {
        let mut connection = Connection::new(Instant::now(), Options::default());
        let abandoned = stored(&mut connection, 32, true);
        assert_eq!(abandoned, (1..=16).chain(1..=16).collect::<Vec<_>>());
        let wanted = stored(&mut connection, 20, false);
        assert_eq!(wanted, (1..=20).collect::<Vec<_>>());
        let abandoned = stored(&mut connection, 40, true);
        let (before, after) = (21..=32, 21..=40);
        assert_eq!(
            abandoned,
            before.chain(after).chain(21..=28).collect::<Vec<_>>()
        );
    }
}
