//! Checks results: each promise gets one, of the requested kind, and each error has a reason.

use crate::checker::PublishOutcome;
use crate::pending::{Consumer, Pending, Request};
use crate::plan::{Feature, PlantedFault};
use crate::violation::{Checked, Violation, ensure};
use crate::world::World;
use puka::machine::{Event, Notice, PromiseId, Reply};
use puka::protocol::method::basic;
use puka::protocol::{MethodId, ReplyCode};
use puka::{Error, Peer};
use std::time::Duration;

impl World {
    /// Handles the events of a session.
    pub(crate) fn handle_events(&mut self, client: usize) -> Checked {
        let (now, plan) = (self.now, self.plan);
        loop {
            let Some(session) = self.session(client) else {
                return Ok(());
            };
            match session.machine.poll_event() {
                None => {
                    session.record_ended_consumers(now, &plan);
                    return Ok(());
                }
                Some(Event::Notices(listener)) => {
                    let mut notices = Vec::new();
                    while let Some(notice) = session.machine.take_notice(listener) {
                        notices.push(notice);
                    }
                    for notice in notices {
                        if self.plan.planted_fault == PlantedFault::LostInterruption
                            && matches!(notice, Notice::ConsumerInterrupted { .. })
                        {
                            continue;
                        }
                        self.note(client, || format!("notice {notice:?}"));
                        if let Some(session) = self.session(client) {
                            session.handle_notice(notice, now)?;
                        }
                    }
                }
                Some(Event::Deliveries(id)) => {
                    if let Some(consumer) = session.consumers.get_mut(&id) {
                        consumer.notified = true;
                    }
                    if plan.planted_fault == PlantedFault::ReturnedDeliveries {
                        session.return_deliveries(id);
                    }
                }
                Some(Event::Completed(promise)) => self.complete_promise(client, promise)?,
                Some(event) => return Err(Violation(format!("an unknown event {event:?}"))),
            }
        }
    }

    /// Records and checks the result of a promise.
    fn complete_promise(&mut self, client: usize, promise: PromiseId) -> Checked {
        let Some(session) = self.session(client) else {
            return Ok(());
        };
        let Some((pending, outcome)) = session.fetch(promise)? else {
            return Ok(());
        };
        self.note(client, || match &outcome {
            Ok(reply) => format!("{:?}: {}", pending.request, name_of(reply)),
            Err(error) => format!("{:?}: {error}", pending.request),
        });
        if pending.must_succeed
            && let Err(error) = &outcome
        {
            return Err(Violation(format!(
                "I9: {:?} had to succeed: {error}",
                pending.request
            )));
        }
        match pending.request {
            Request::Publish(id) => return self.complete_publish(client, &pending, id, outcome),
            Request::Call(id) => return self.complete_call(client, &pending, id, outcome),
            Request::Unconfirmed(id) => {
                if let Err(error) = &outcome {
                    self.check_error(client, &pending, error)?;
                }
                return self.complete_unconfirmed_publish(client, id, &outcome);
            }
            Request::EndTransaction { .. } => {
                return self.complete_transaction(client, &pending, outcome);
            }
            _ => {}
        }
        match outcome {
            Ok(reply) => self.handle_reply(client, pending, reply),
            Err(error) => {
                if let Some(session) = self.session(client)
                    && let Some(name) = pending.request.name()
                {
                    session
                        .declared
                        .record_failure(pending.method, name, &error);
                }
                self.check_error(client, &pending, &error)
            }
        }
    }

    /// Records the result of a publish without a confirm.
    pub(crate) fn complete_unconfirmed_publish(
        &mut self,
        client: usize,
        id: u64,
        outcome: &Result<Reply, Error>,
    ) -> Checked {
        match outcome {
            Ok(Reply::Done) => {
                if let Some(session) = self.session(client) {
                    session.record_unconfirmed(id);
                }
                self.checker.record_outcome(id, PublishOutcome::Unknown)
            }
            Ok(reply) => Err(Violation(format!(
                "a publish was completed with {}",
                name_of(reply)
            ))),
            Err(error) => self
                .checker
                .record_outcome(id, PublishOutcome::Refused(error.to_string())),
        }
    }

    /// Records and checks the result of a publish with a confirm.
    fn complete_publish(
        &mut self,
        client: usize,
        pending: &Pending,
        id: u64,
        outcome: Result<Reply, Error>,
    ) -> Checked {
        self.checker.sync(&self.broker)?;
        let is_planted = self.plan.planted_fault == PlantedFault::WrongOutcome;
        let error = match outcome {
            Ok(Reply::Done) => {
                self.checker.record_outcome(id, PublishOutcome::Confirmed)?;
                return self.check_routed(id);
            }
            Ok(reply) => {
                return Err(Violation(format!(
                    "a publish was completed with {}",
                    name_of(&reply)
                )));
            }
            Err(Error::Nacked | Error::NotFound(_)) if is_planted => {
                return self.checker.record_outcome(id, PublishOutcome::Confirmed);
            }
            Err(error) => error,
        };
        match &error {
            Error::NoRoute(returned) => {
                self.checker.check_returned_message(id, &returned.message)?;
                self.checker.record_outcome(id, PublishOutcome::Returned)?;
                self.check_routed(id)
            }
            Error::Nacked => {
                ensure(self.plan.has(Feature::Full), || {
                    format!("message {id} is nacked without a reason")
                })?;
                self.checker.record_outcome(id, PublishOutcome::Nacked)
            }
            Error::Unconfirmed(cause) => {
                // A refused republished message may have reached the broker at its first attempt.
                let is_refusal = match **cause {
                    Error::Nacked => self.plan.has(Feature::Full),
                    Error::NoRoute(_) => true,
                    _ => false,
                };
                if !(is_refusal && self.plan.has(Feature::Republish)) {
                    self.check_error(client, pending, cause)?;
                }
                self.checker.record_outcome(id, PublishOutcome::Unknown)
            }
            error => {
                self.check_error(client, pending, error)?;
                self.checker
                    .record_outcome(id, PublishOutcome::Refused(error.to_string()))
            }
        }
    }

    /// Records a successful result, and checks that it is of the requested kind.
    fn handle_reply(&mut self, client: usize, pending: Pending, reply: Reply) -> Checked {
        let wrong = |reply: &Reply| {
            Err(Violation(format!(
                "{:?} was completed with {}",
                pending.request,
                name_of(reply)
            )))
        };
        let Pending { request, .. } = &pending;
        if let Some(session) = self.session(client)
            && let Some(name) = request.name()
        {
            session.declared.record_success(pending.method, name);
        }
        match (request, &reply) {
            (Request::Connect, Reply::Connected(_))
            | (Request::ChangeTopology(_) | Request::Qos(_), Reply::Done) => Ok(()),
            (Request::Close, Reply::Done) => {
                let left = self
                    .session(client)
                    .map_or(0, |session| session.incomplete().certain());
                ensure(left == 0, || {
                    format!("a close left {left} requests incomplete and did not report it")
                })
            }
            (Request::DeclareQueue(name), Reply::Queue(queue)) if *name == queue.name => Ok(()),
            (Request::DeclareQueue(name), Reply::Queue(queue)) if name.is_empty() => {
                self.use_server_named(client, queue.name.clone())
            }
            (Request::BeginTransaction, Reply::Transaction(_)) => {
                self.record_transaction(client, reply);
                Ok(())
            }
            (Request::PurgeOrDelete(_), Reply::Count(_))
            | (Request::Get { .. }, Reply::Delivery(None)) => Ok(()),
            (Request::Cancel(_), Reply::Cancelled(tag)) if tag.starts_with("puka.") => Ok(()),
            (Request::Get { queue, no_ack }, Reply::Delivery(Some(_))) => {
                let (queue, no_ack) = (queue.clone(), *no_ack);
                let Reply::Delivery(Some(got)) = reply else {
                    return Ok(());
                };
                ensure(got.delivered.is_settled() == no_ack, || {
                    "a get of the wrong kind".into()
                })?;
                self.receive(client, &queue, None, got.delivered)
            }
            (
                Request::Consume {
                    queue,
                    no_ack,
                    prefetch,
                    ..
                },
                Reply::Consumer(id),
            ) => {
                let consumer = Consumer {
                    queue: queue.clone(),
                    no_ack: *no_ack,
                    prefetch: *prefetch,
                    end: None,
                    is_cancelled: false,
                    interruptions: 0,
                    // A stream is polled once before it waits for its waker.
                    notified: true,
                    last_position: None,
                };
                if let Some(session) = self.session(client) {
                    session.consumers.insert(*id, consumer);
                }
                Ok(())
            }
            _ => wrong(&reply),
        }
    }

    /// Checks that there is a reason for an error.
    pub(crate) fn check_error(
        &mut self,
        client: usize,
        pending: &Pending,
        error: &Error,
    ) -> Checked {
        let (plan, now) = (self.plan, self.now);
        let may_have_broken = self.may_have_broken(client);
        let closing = self
            .session(client)
            .is_some_and(|session| session.is_closing());
        let holds = match error {
            Error::Closed => closing,
            Error::CloseIncomplete {
                pending: incomplete,
            } if pending.request == Request::Close => {
                let timeout = plan.close_timeout();
                self.session(client)
                    .is_some_and(|session| session.may_leave(*incomplete, now, timeout))
            }
            Error::ConnectionBroken(_) | Error::ConnectionForced(_) | Error::LoginRefused => {
                may_have_broken
            }
            Error::InternalError(_) => {
                may_have_broken && (plan.has(Feature::Internal) || plan.has(Feature::Crash))
            }
            Error::AccessRefused(fault)
                if pending.request == Request::Connect || !fault.text.contains('\'') =>
            {
                may_have_broken && (plan.has(Feature::Refused) || plan.has(Feature::Refusals))
            }
            Error::NotAllowed(fault) if fault.text.contains("vhost / not found") => {
                may_have_broken && plan.has(Feature::Refusals)
            }
            // The close of the connection, without recovery or with `fail_fast`.
            Error::NotAllowed(fault) if fault.text.contains("user limit") => {
                may_have_broken && plan.has(Feature::UserLimit)
            }
            Error::NotAmqp(_) => may_have_broken && plan.has(Feature::Mixed),
            // A request's deadline passes while the client is suspended, too.
            Error::Timeout { .. } => {
                let was_suspended = self
                    .session(client)
                    .is_some_and(|session| !session.slept().is_zero());
                // The client changes the prefetch count of a consumer once it has restarted.
                let waits_for_restart = match pending.request {
                    Request::Qos(id) => self
                        .session(client)
                        .and_then(|session| session.consumers.get(&id))
                        .is_none_or(|consumer| consumer.interruptions > 0),
                    _ => false,
                };
                plan.may_time_out() || may_have_broken || was_suspended || waits_for_restart
            }
            Error::ReadingPaused(_) => plan.has(Feature::SmallBounds),
            Error::Stale => matches!(pending.request, Request::Cancel(_) | Request::Qos(_)),
            Error::ChannelLimit if plan.has(Feature::UserLimit) => true,
            Error::ChannelLimit => match pending.request {
                // Consumers may use all channels.
                Request::Consume { .. } | Request::BeginTransaction => plan.has_few_channels(),
                // Without a channel, the consumer could not be started again.
                Request::Cancel(_) | Request::Qos(_) => plan.has(Feature::FewerChannels),
                // The remaining channels are reserved for other requests.
                Request::Get { no_ack, .. } => !no_ack && plan.has_few_channels(),
                _ => false,
            },
            // An exclusive consumer cannot have another prefetch count.
            Error::InvalidArgument { .. } => {
                matches!(pending.request, Request::Qos(_)) && plan.has(Feature::Exclusive)
            }
            // An earlier get on the same channel was not acknowledged in time. The broker closed
            // the channel before it received this request.
            Error::PreconditionFailed(fault) if fault.text.contains("delivery acknowledgement") => {
                plan.has(Feature::Overdue) && fault.method == MethodId::NONE
            }
            Error::ConsumerCancelled(_) => {
                matches!(pending.request, Request::Consume { .. } | Request::Qos(_))
            }
            error => match error.fault() {
                Some(fault) => {
                    fault.found_by == Peer::Server
                        && (fault.method == pending.method || fault.method == basic::Consume::ID)
                        && self.may_be_refused(pending, fault.code, &fault.text)
                }
                None => false,
            },
        };
        ensure(holds, || {
            format!("{:?} failed without a reason: {error:?}", pending.request)
        })
    }

    /// Returns `true` if the broker may refuse a request with this code and text.
    fn may_be_refused(&self, pending: &Pending, code: ReplyCode, text: &str) -> bool {
        let plan = self.plan;
        let names = |names: &str| {
            names
                .split('|')
                .any(|name| text.contains(&format!("'{name}'")))
        };
        // A server-named queue exists as long as its connection, as `check_routed` says, and the
        // client writes its current name.
        if text.contains("no queue 'amq.gen-") && !plan.has(Feature::Internal) {
            return false;
        }
        match &pending.request {
            Request::DeclareQueue(name)
            | Request::PurgeOrDelete(name)
            | Request::ChangeTopology(name) => names(name),
            Request::Get { queue, .. } | Request::Consume { queue, .. } => names(queue),
            // The consumer could not be started again: the queue was deleted, another consumer is
            // exclusive, or the lost connection still owns the queue when the retries end.
            Request::Qos(_) => {
                matches!(
                    code,
                    ReplyCode::NOT_FOUND | ReplyCode::ACCESS_REFUSED | ReplyCode::RESOURCE_LOCKED
                )
            }
            Request::Publish(_) | Request::Call(_) => code == ReplyCode::NOT_FOUND,
            Request::EndTransaction { .. } | Request::Unconfirmed(_) => false,
            // The broker closed the channel of the consumer while it was started again.
            Request::Cancel(_) => plan.has(Feature::Qos) || plan.has(Feature::Recover),
            Request::Connect | Request::Close | Request::BeginTransaction => false,
        }
    }

    /// Returns `true` if a session may have lost its connection.
    pub(crate) fn may_have_broken(&mut self, client: usize) -> bool {
        self.session(client)
            .is_none_or(|session| session.may_have_broken())
    }

    /// Checks that no promise is pending longer than its deadline allows.
    pub(crate) fn check_deadlines(&mut self) -> Checked {
        let (now, plan) = (self.now, self.plan);
        for session in self.clients.iter().flatten() {
            for (_, pending) in session.pending() {
                let limit = match pending.request {
                    // The client may dial, or republish, again and again.
                    Request::Connect if session.recovers() => continue,
                    Request::Publish(_) if session.recovers() && plan.has(Feature::Republish) => {
                        continue;
                    }
                    Request::Connect => plan.handshake_timeout(),
                    Request::Close => plan.close_timeout(),
                    // The publish may be queued for one timeout, and then wait for its confirm for
                    // another.
                    Request::Publish(_) => plan.request_timeout().mul_f32(2.2),
                    _ => plan.request_timeout(),
                };
                let waited = now - pending.since;
                ensure(
                    waited <= limit + session.slept() + Duration::from_millis(1),
                    || {
                        format!(
                            "I2/I10: {:?} of session {} is pending for {waited:?}",
                            pending.request, session.number
                        )
                    },
                )?;
            }
        }
        Ok(())
    }
}

/// Describes a reply for the trace of a seed.
fn name_of(reply: &Reply) -> String {
    match reply {
        Reply::Delivery(Some(got)) => {
            let id = crate::observer::id_of(got.delivered.message.body());
            format!("delivery {} of message {id:?}", got.delivered.tag)
        }
        Reply::Connected(_) => "connected".into(),
        // The correlation id of the reply differs between two runs of a seed.
        Reply::Message(reply) => format!("the reply {:?}", crate::observer::id_of(reply.body())),
        reply => format!("{reply:?}"),
    }
}
