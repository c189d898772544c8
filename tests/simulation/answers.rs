//! Checks results: each promise gets one, of the requested kind, and each error has a reason.

use crate::checker::{Checked, PublishOutcome, Violation, ensure};
use crate::pending::{Consumer, Pending, Request};
use crate::plan::{Feature, PlantedFault};
use crate::session::Session;
use crate::world::World;
use puka::machine::{Event, PromiseId, Reply};
use puka::protocol::method::basic;
use puka::protocol::{MethodId, ReplyCode};
use puka::{Error, Peer};
use std::time::Duration;

impl World {
    /// Processes the events of a session.
    pub(crate) fn events(&mut self, client: usize) -> Checked {
        let now = self.now;
        if let Some(session) = self.session(client) {
            session.watch_consumers(now);
        }
        loop {
            let Some(session) = self.session(client) else {
                return Ok(());
            };
            match session.machine.poll_event() {
                None => return Ok(()),
                Some(Event::Notices(listener)) => {
                    while let Some(notice) = session.machine.take_notice(listener) {
                        session.handle_notice(notice)?;
                    }
                }
                Some(Event::Deliveries(id)) => {
                    if let Some(consumer) = session.consumers.get_mut(&id) {
                        consumer.awake = true;
                    }
                }
                Some(Event::Completed(promise)) => self.answered(client, promise)?,
                Some(event) => return Err(Violation(format!("an unknown event {event:?}"))),
            }
        }
    }

    fn answered(&mut self, client: usize, promise: PromiseId) -> Checked {
        let Some(session) = self.session(client) else {
            return Ok(());
        };
        if session.abandoned.remove(&promise) {
            return ensure(session.machine.fetch(promise).is_none(), || {
                "an abandoned promise was stored".into()
            });
        }
        if session.planted_fault == PlantedFault::LostOutcome && session.hash.is_multiple_of(7) {
            return Ok(());
        }
        let Some(pending) = session.pending.remove(&promise) else {
            return Err(Violation(format!(
                "I2: {promise:?} was completed and is not pending"
            )));
        };
        let Some(mut outcome) = session.machine.fetch(promise) else {
            return Err(Violation(format!(
                "I2: {:?} is reported as completed and is pending",
                pending.request
            )));
        };
        ensure(session.machine.fetch(promise).is_none(), || {
            "I2: a result was fetched twice".into()
        })?;
        if session.planted_fault == PlantedFault::SilentClose
            && matches!(outcome, Err(Error::CloseIncomplete { .. }))
        {
            outcome = Ok(Reply::Done);
        }
        if session.closing {
            session.left.count(&pending.request, &outcome);
        }
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
        if let Request::Publish(id) = pending.request {
            return self.publish_answered(client, &pending, id, outcome);
        }
        match pending.request {
            Request::Call(id) => return self.called(client, &pending, id, outcome),
            Request::Unconfirmed(id) => {
                if let Err(error) = &outcome {
                    self.check_error(client, &pending, error)?;
                }
                return self.publish_unconfirmed_done(client, id, &outcome);
            }
            Request::Finish { .. } => return self.finished(client, &pending, outcome),
            _ => {}
        }
        match outcome {
            Ok(reply) => self.reply(client, pending, reply),
            Err(error) => {
                if let Some(session) = self.session(client)
                    && let Some(name) = pending.request.name()
                {
                    session.record.failed(pending.method, name, &error);
                }
                self.check_error(client, &pending, &error)
            }
        }
    }

    /// The promise of a publish without a confirm is still pending, or was dropped before.
    pub(crate) fn publish_unconfirmed_done(
        &mut self,
        client: usize,
        id: u64,
        outcome: &Result<Reply, Error>,
    ) -> Checked {
        match outcome {
            Ok(Reply::Done) => {
                // The connection may have been lost since, at the same instant.
                if let Some(session) = self
                    .session(client)
                    .filter(|session| session.transport.is_some())
                {
                    session.unconfirmed.push(id);
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

    fn publish_answered(
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
                return self.reached(id);
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
                self.checker.came_back(id, &returned.message)?;
                self.checker.record_outcome(id, PublishOutcome::Returned)?;
                self.reached(id)
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

    fn reply(&mut self, client: usize, pending: Pending, reply: Reply) -> Checked {
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
            session.record.done(pending.method, name);
        }
        match (request, &reply) {
            (Request::Connect, Reply::Connected(_))
            | (Request::Done(_) | Request::Qos(_), Reply::Done) => Ok(()),
            (Request::Close, Reply::Done) => {
                let left = self.session(client).map_or(0, |session| session.left.least);
                ensure(left == 0, || {
                    format!("a close left {left} pending and did not report it")
                })
            }
            (Request::Queue(name), Reply::Queue(queue)) if *name == queue.name => Ok(()),
            (Request::Queue(name), Reply::Queue(queue)) if name.is_empty() => {
                self.has_unnamed(client, queue.name.clone())
            }
            (Request::Begin, Reply::Transaction(_)) => {
                self.begun(client, reply);
                Ok(())
            }
            (Request::Count(_), Reply::Count(_)) | (Request::Get { .. }, Reply::Delivery(None)) => {
                Ok(())
            }
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
                    exclusive,
                },
                Reply::Consumer(id),
            ) => {
                let consumer = Consumer {
                    queue: queue.clone(),
                    no_ack: *no_ack,
                    prefetch: *prefetch,
                    exclusive: *exclusive,
                    ended_after: None,
                    // A stream is polled once before it waits for its waker.
                    awake: true,
                    last_place: None,
                };
                if let Some(session) = self.session(client) {
                    session.consumers.insert(*id, consumer);
                }
                Ok(())
            }
            _ => wrong(&reply),
        }
    }

    /// Returns `true` if there is a reason for an error.
    pub(crate) fn check_error(
        &mut self,
        client: usize,
        pending: &Pending,
        error: &Error,
    ) -> Checked {
        let plan = self.plan;
        let may_be_missing = self.may_have_broken(client);
        let closing = self.session(client).is_some_and(|session| session.closing);
        let holds = match error {
            Error::Closed => closing,
            Error::CloseIncomplete {
                pending: incomplete,
            } if pending.request == Request::Close => {
                let now = self.now;
                self.session(client).is_some_and(
                    |Session {
                         left, abandoned, ..
                     }| {
                        let has_waited =
                            (now - left.since.unwrap_or(now)) * 2 >= plan.close_timeout();
                        // An abandoned promise may have timed out.
                        let may_be_early =
                            left.without_transport || left.timed_out || !abandoned.is_empty();
                        (has_waited || may_be_early)
                            && (left.least..=left.least + left.unknown + abandoned.len())
                                .contains(incomplete)
                    },
                )
            }
            Error::ConnectionBroken(_) | Error::ConnectionForced(_) | Error::LoginRefused => {
                may_be_missing
            }
            Error::InternalError(_) => may_be_missing && plan.has(Feature::Internal),
            Error::AccessRefused(fault)
                if pending.request == Request::Connect || !fault.text.contains('\'') =>
            {
                may_be_missing && plan.has(Feature::Refused)
            }
            Error::Timeout { .. } => plan.may_time_out() || may_be_missing,
            Error::ReadingPaused(_) => plan.has(Feature::SmallBounds),
            Error::Stale => matches!(pending.request, Request::Cancel(_) | Request::Qos(_)),
            Error::ChannelLimit => match pending.request {
                // Other consumers use all the channels.
                Request::Consume { .. } | Request::Begin => {
                    plan.has(Feature::FewChannels) || plan.has(Feature::FewerChannels)
                }
                // Its consumer could not be restarted.
                Request::Cancel(_) | Request::Qos(_) => plan.has(Feature::FewerChannels),
                // The remaining channels are reserved for other requests.
                Request::Get { no_ack, .. } => {
                    !no_ack && (plan.has(Feature::FewChannels) || plan.has(Feature::FewerChannels))
                }
                _ => false,
            },
            // The consumer was being restarted.
            Error::InvalidArgument { .. } => {
                matches!(pending.request, Request::Qos(_)) && plan.has(Feature::Exclusive)
            }
            // It crossed the close of its channel, caused by the late ack of an earlier get, and
            // was not executed.
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

    fn may_be_refused(&self, pending: &Pending, code: ReplyCode, text: &str) -> bool {
        let plan = self.plan;
        let names = |names: &str| {
            names
                .split('|')
                .any(|name| text.contains(&format!("'{name}'")))
        };
        match &pending.request {
            Request::Queue(name) | Request::Count(name) | Request::Done(name) => names(name),
            Request::Get { queue, .. } | Request::Consume { queue, .. } => names(queue),
            // Its consumer could not be restarted: the queue is gone, another consumer is
            // exclusive, or the lost connection still owns the queue when the retries end.
            Request::Qos(_) => {
                matches!(
                    code,
                    ReplyCode::NOT_FOUND | ReplyCode::ACCESS_REFUSED | ReplyCode::RESOURCE_LOCKED
                )
            }
            Request::Publish(_) => code == ReplyCode::NOT_FOUND,
            Request::Call(_) => code == ReplyCode::NOT_FOUND,
            Request::Finish { .. } | Request::Unconfirmed(_) => false,
            // The channel of the consumer was closed while it was restarted.
            Request::Cancel(_) => plan.has(Feature::Qos) || plan.has(Feature::Recover),
            Request::Connect | Request::Close | Request::Begin => false,
        }
    }

    /// Returns `true` if a session may have lost its connection.
    pub(crate) fn may_have_broken(&mut self, client: usize) -> bool {
        self.session(client)
            .is_none_or(|session| session.break_reason.is_some())
    }

    /// Checks that no promise is pending longer than its deadline allows.
    pub(crate) fn check_deadlines(&mut self) -> Checked {
        let (now, plan) = (self.now, self.plan);
        for session in self.clients.iter().flatten() {
            for pending in session.pending.values() {
                let limit = match pending.request {
                    // It may be retried repeatedly.
                    Request::Connect if session.recovers => continue,
                    Request::Publish(_) if session.recovers && plan.has(Feature::Republish) => {
                        continue;
                    }
                    Request::Connect => plan.handshake_timeout(),
                    Request::Close => plan.close_timeout(),
                    // It may be delayed first.
                    Request::Publish(_) => plan.request_timeout().mul_f32(2.2),
                    _ => plan.request_timeout(),
                };
                let waited = now - pending.since;
                ensure(
                    waited <= limit + session.slept + Duration::from_millis(1),
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

fn name_of(reply: &Reply) -> String {
    match reply {
        Reply::Delivery(Some(got)) => {
            let id = crate::observer::id_of(got.delivered.message.body());
            format!("delivery {} of message {id:?}", got.delivered.tag)
        }
        Reply::Connected(_) => "connected".into(),
        // The correlation id differs each time.
        Reply::Message(reply) => format!("the reply {:?}", crate::observer::id_of(reply.body())),
        reply => format!("{reply:?}"),
    }
}
