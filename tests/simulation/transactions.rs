//! Transactions and calls of applications.

use crate::checker::PublishOutcome;
use crate::observer::body_of;
use crate::pending::{OpenTransaction, Pending, Request};
use crate::plan::Feature;
use crate::publishing::publish_of;
use crate::random::Random;
use crate::violation::{Checked, Violation, ensure};
use crate::world::World;
use puka::machine::{Body, Publish, Reply};
use puka::protocol::Properties;
use puka::protocol::method::{basic, tx};
use puka::{Error, Message};

/// Returns a publish to a queue that is neither mandatory nor persistent.
fn publish_to<'a>(queue: &'a str, body: &'a [u8], properties: &'a Properties<'a>) -> Publish<'a> {
    Publish {
        properties,
        ..publish_of(("", queue), (false, false), Body::Borrowed(body))
    }
}

impl World {
    /// Begins a transaction, publishes in one, or ends one.
    pub(crate) fn transact(&mut self, client: usize, random: &mut Random) -> Checked {
        let Some(session) = self.session(client) else {
            return Ok(());
        };
        if session.transactions.is_empty() || random.chance(20) {
            let sent = session.machine.transaction();
            return self
                .record_result(client, sent, Request::BeginTransaction, tx::Select::ID)
                .map(|_| ());
        }
        let index = random.below(session.transactions.len());
        match random.below(5) {
            0 | 1 => self.end_transaction(client, index, true),
            2 => self.end_transaction(client, index, false),
            _ => (0..random.within(1..5)).try_for_each(|_| self.publish_in(client, index, random)),
        }
    }

    /// Publishes a message in a transaction.
    fn publish_in(&mut self, client: usize, index: usize, random: &mut Random) -> Checked {
        let named = *random.pick(&["q0", "q1", "q2"]).unwrap_or(&"q0");
        let is_server_named = self.plan.has(Feature::Renamed) && random.chance(50);
        let server_named = if is_server_named {
            self.server_named_queue(client, random)
        } else {
            None
        };
        let queue = server_named.unwrap_or_else(|| named.to_owned());
        let id = self.checker.record_publish(("", &queue), (false, true), 20);
        let body = body_of(id, 20);
        let publish = publish_of(("", &queue), (false, true), Body::Borrowed(&body));
        let Some(session) = self.session(client) else {
            return Ok(());
        };
        let Some(transaction) = session.transactions.get_mut(index) else {
            return Ok(());
        };
        let sent = session.machine.publish_in(transaction.id, &publish);
        match sent {
            Ok(promise) => {
                transaction.ids.push(id);
                let outcome = session.machine.fetch(promise);
                let is_complete = matches!(outcome, Some(Ok(Reply::Done)));
                self.note(client, || {
                    format!("publishes message {id} in a transaction")
                });
                ensure(is_complete, || {
                    format!("a publish of a transaction is not complete at once: {outcome:?}")
                })
            }
            Err(_) => self
                .checker
                .record_outcome(id, PublishOutcome::Refused("not sent".into())),
        }
    }

    /// Returns the first or the current name of a random server-named queue.
    pub(crate) fn server_named_queue(
        &mut self,
        client: usize,
        random: &mut Random,
    ) -> Option<String> {
        let session = self.session(client)?;
        let first = random.pick(&session.server_named)?;
        let current = session.machine.current_name(first.as_bytes());
        let name = if random.chance(50) {
            first.as_bytes()
        } else {
            &current
        };
        Some(String::from_utf8_lossy(name).into_owned())
    }

    /// Checks that an accepted message to a server-named queue was routed to it. The queue lives as
    /// long as its connection and is declared again before the next one is open, unless recovery
    /// skips it because the broker closed the connection over it.
    pub(crate) fn check_routed(&mut self, id: u64) -> Checked {
        if self.plan.has(Feature::Internal) {
            Ok(())
        } else {
            self.checker.check_routed(id)
        }
    }

    /// Commits a transaction, or rolls it back.
    pub(crate) fn end_transaction(
        &mut self,
        client: usize,
        index: usize,
        commits: bool,
    ) -> Checked {
        let Some(session) = self.session(client) else {
            return Ok(());
        };
        let OpenTransaction { id, ids } = session.transactions.remove(index);
        let sent = if commits {
            session.machine.commit(id)
        } else {
            session.machine.rollback(id)
        };
        let method = if commits {
            tx::Commit::ID
        } else {
            tx::Rollback::ID
        };
        match sent {
            Ok(promise) => {
                let request = Request::EndTransaction { ids, commits };
                self.record_pending(client, promise, request, method);
                Ok(())
            }
            Err(error) => self.record_no_effect(client, &ids, &error),
        }
    }

    /// Records that the messages of a transaction that could not be ended have no effect.
    fn record_no_effect(&mut self, client: usize, ids: &[u64], error: &Error) -> Checked {
        self.note(client, || {
            format!("messages {ids:?} have no effect: {error}")
        });
        ids.iter().try_for_each(|id| {
            self.checker
                .record_outcome(*id, PublishOutcome::Refused("not committed".into()))
        })
    }

    /// Records and checks the result of the end of a transaction.
    pub(crate) fn complete_transaction(
        &mut self,
        client: usize,
        pending: &Pending,
        outcome: Result<Reply, Error>,
    ) -> Checked {
        let Request::EndTransaction { ids, commits } = &pending.request else {
            // Unreachable: the only caller has matched the request.
            return Ok(());
        };
        self.checker.sync(&self.broker)?;
        let record_all = |world: &mut Self, outcome: PublishOutcome| -> Checked {
            ids.iter()
                .try_for_each(|id| world.checker.record_outcome(*id, outcome.clone()))
        };
        match outcome {
            Ok(Reply::Committed(returned)) if *commits => {
                ensure(returned.is_empty(), || {
                    "nothing was mandatory, but a message was returned".into()
                })?;
                record_all(self, PublishOutcome::Confirmed)?;
                ids.iter().try_for_each(|id| self.check_routed(*id))
            }
            Ok(Reply::Done) if !*commits => {
                record_all(self, PublishOutcome::Refused("rolled back".into()))
            }
            Ok(reply) => Err(Violation(format!(
                "{:?} was completed with {reply:?}",
                pending.request
            ))),
            Err(Error::Unconfirmed(cause)) if *commits => {
                self.check_error(client, pending, &cause)?;
                record_all(self, PublishOutcome::Unknown)
            }
            Err(error) => {
                self.check_error(client, pending, &error)?;
                record_all(self, PublishOutcome::Refused(error.to_string()))
            }
        }
    }

    /// Makes a call.
    pub(crate) fn call(&mut self, client: usize, random: &mut Random) -> Checked {
        let queue = *random.pick(&["q0", "q1", "nowhere"]).unwrap_or(&"q0");
        let id = self.checker.record_publish(("", queue), (true, false), 20);
        let body = body_of(id, 20);
        let Some(session) = self.session(client) else {
            return Ok(());
        };
        let sent = session
            .machine
            .call(&publish_to(queue, &body, &Properties::NONE), None);
        if !self.record_result(client, sent, Request::Call(id), basic::Publish::ID)? {
            self.checker
                .record_outcome(id, PublishOutcome::Refused("never sent".into()))?;
        }
        Ok(())
    }

    /// Records and checks the result of a call.
    pub(crate) fn complete_call(
        &mut self,
        client: usize,
        pending: &Pending,
        id: u64,
        outcome: Result<Reply, Error>,
    ) -> Checked {
        self.checker.sync(&self.broker)?;
        match outcome {
            Ok(Reply::Message(reply)) => {
                self.checker.check_reply(id, &reply)?;
                self.checker.record_outcome(id, PublishOutcome::Confirmed)
            }
            Err(Error::NoRoute(returned)) => {
                self.checker.check_returned_message(id, &returned.message)?;
                self.checker.record_outcome(id, PublishOutcome::Returned)
            }
            // The application of another client may not take the message, and so does not reply.
            Err(Error::Timeout { .. } | Error::ReadingPaused(_)) => {
                self.checker.record_outcome(id, PublishOutcome::Unknown)
            }
            Err(Error::Unconfirmed(cause)) => {
                self.check_error(client, pending, &cause)?;
                self.checker.record_outcome(id, PublishOutcome::Unknown)
            }
            Err(error) => {
                self.check_error(client, pending, &error)?;
                self.checker
                    .record_outcome(id, PublishOutcome::Refused(error.to_string()))
            }
            Ok(reply) => Err(Violation(format!("a call was completed with {reply:?}"))),
        }
    }

    /// Publishes the reply to a call that an application has taken.
    pub(crate) fn reply_to(&mut self, client: usize, call: u64, message: &Message) -> Checked {
        let properties = message.properties();
        let Some(address) = properties.reply_to.and_then(|it| it.as_str()) else {
            return Ok(());
        };
        let id = self
            .checker
            .record_publish(("", address), (false, false), 20);
        self.checker.record_reply(id, call)?;
        let body = body_of(id, 20);
        let mut reply = Properties::default();
        reply.correlation_id = properties.correlation_id;
        let Some(session) = self.session(client) else {
            return Ok(());
        };
        let sent = session.machine.publish(&publish_to(address, &body, &reply));
        if !self.record_result(client, sent, Request::Publish(id), basic::Publish::ID)? {
            self.checker
                .record_outcome(id, PublishOutcome::Refused("never sent".into()))?;
        }
        Ok(())
    }

    /// Records the start of a transaction.
    pub(crate) fn record_transaction(&mut self, client: usize, reply: Reply) {
        if let (Reply::Transaction(id), Some(session)) = (reply, self.session(client)) {
            session.transactions.push(OpenTransaction {
                id,
                ids: Vec::new(),
            });
        }
    }
}
