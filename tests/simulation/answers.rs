//! Answers: each once, each of the kind that was asked for, each with a reason.

use crate::ledger::{Checked, Fate, Violation, ensure};
use crate::plan::{Feature, Mischief};
use crate::session::{Asked, Consumer, Session, Waiting};
use crate::world::World;
use puka::machine::{Event, PromiseId, Reply};
use puka::protocol::method::basic;
use puka::protocol::{MethodId, ReplyCode};
use puka::{Error, Peer};
use std::time::Duration;

impl World {
    /// Takes what a session tells its application.
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
                        session.hear(notice)?;
                    }
                }
                Some(Event::Deliveries(id)) => {
                    if let Some(consumer) = session.consumers.get_mut(&id) {
                        consumer.awake = true;
                    }
                }
                Some(Event::Answered(promise)) => self.answered(client, promise)?,
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
                "an abandoned promise was kept".into()
            });
        }
        if session.mischief == Mischief::LostAnswer && session.hash.is_multiple_of(7) {
            return Ok(());
        }
        let Some(waiting) = session.waiting.remove(&promise) else {
            return Err(Violation(format!(
                "I2: {promise:?} was answered, and nobody waits for it"
            )));
        };
        let Some(mut outcome) = session.machine.fetch(promise) else {
            return Err(Violation(format!(
                "I2: {:?} is said to be answered and is not",
                waiting.asked
            )));
        };
        ensure(session.machine.fetch(promise).is_none(), || {
            "I2: an answer was fetched twice".into()
        })?;
        if session.mischief == Mischief::SilentClose
            && matches!(outcome, Err(Error::CloseIncomplete { .. }))
        {
            outcome = Ok(Reply::Done);
        }
        if session.closing {
            session.left.count(&waiting.asked, &outcome);
        }
        self.note(client, || match &outcome {
            Ok(reply) => format!("{:?}: {}", waiting.asked, name_of(reply)),
            Err(error) => format!("{:?}: {error}", waiting.asked),
        });
        if waiting.surely
            && let Err(error) = &outcome
        {
            return Err(Violation(format!(
                "I9: {:?} had to succeed: {error}",
                waiting.asked
            )));
        }
        if let Asked::Publish(id) = waiting.asked {
            return self.publish_answered(client, &waiting, id, outcome);
        }
        match waiting.asked {
            Asked::Call(id) => return self.called(client, &waiting, id, outcome),
            Asked::Unconfirmed(id) => {
                if let Err(error) = &outcome {
                    self.check_error(client, &waiting, error)?;
                }
                return self.on_its_way(client, id, &outcome);
            }
            Asked::Finish { .. } => return self.finished(client, &waiting, outcome),
            _ => {}
        }
        match outcome {
            Ok(reply) => self.reply(client, waiting, reply),
            Err(error) => {
                if let Some(session) = self.session(client)
                    && let Some(name) = waiting.asked.name()
                {
                    session.record.failed(waiting.method, name, &error);
                }
                self.check_error(client, &waiting, &error)
            }
        }
    }

    /// A publish without a confirm is on its way, or was given up before.
    pub(crate) fn on_its_way(
        &mut self,
        client: usize,
        id: u64,
        outcome: &Result<Reply, Error>,
    ) -> Checked {
        match outcome {
            Ok(Reply::Done) => {
                // It may have been lost since, in the same moment.
                if let Some(session) = self
                    .session(client)
                    .filter(|session| session.line.is_some())
                {
                    session.unconfirmed.push(id);
                }
                self.ledger.fate(id, Fate::Unknown)
            }
            Ok(reply) => Err(Violation(format!(
                "a publish was answered by {}",
                name_of(reply)
            ))),
            Err(error) => self.ledger.fate(id, Fate::Refused(error.to_string())),
        }
    }

    fn publish_answered(
        &mut self,
        client: usize,
        waiting: &Waiting,
        id: u64,
        outcome: Result<Reply, Error>,
    ) -> Checked {
        self.ledger.sync(&self.broker)?;
        let meddles = self.plan.mischief == Mischief::WrongOutcome;
        let error = match outcome {
            Ok(Reply::Done) => {
                self.ledger.fate(id, Fate::Confirmed)?;
                return self.reached(id);
            }
            Ok(reply) => {
                return Err(Violation(format!(
                    "a publish was answered by {}",
                    name_of(&reply)
                )));
            }
            Err(Error::Nacked | Error::NotFound(_)) if meddles => {
                return self.ledger.fate(id, Fate::Confirmed);
            }
            Err(error) => error,
        };
        match &error {
            Error::NoRoute(returned) => {
                self.ledger.came_back(id, &returned.message)?;
                self.ledger.fate(id, Fate::Returned)?;
                self.reached(id)
            }
            Error::Nacked => {
                ensure(self.plan.has(Feature::Full), || {
                    format!("message {id} is nacked without a reason")
                })?;
                self.ledger.fate(id, Fate::Nacked)
            }
            Error::Unconfirmed(cause) => {
                // A republished message that is refused may have been taken at its first attempt.
                let is_refusal = match **cause {
                    Error::Nacked => self.plan.has(Feature::Full),
                    Error::NoRoute(_) => true,
                    _ => false,
                };
                if !(is_refusal && self.plan.has(Feature::Republish)) {
                    self.check_error(client, waiting, cause)?;
                }
                self.ledger.fate(id, Fate::Unknown)
            }
            error => {
                self.check_error(client, waiting, error)?;
                self.ledger.fate(id, Fate::Refused(error.to_string()))
            }
        }
    }

    fn reply(&mut self, client: usize, waiting: Waiting, reply: Reply) -> Checked {
        let wrong = |reply: &Reply| {
            Err(Violation(format!(
                "{:?} was answered by {}",
                waiting.asked,
                name_of(reply)
            )))
        };
        let Waiting { asked, .. } = &waiting;
        if let Some(session) = self.session(client)
            && let Some(name) = asked.name()
        {
            session.record.done(waiting.method, name);
        }
        match (asked, &reply) {
            (Asked::Connect, Reply::Connected(_))
            | (Asked::Done(_) | Asked::Qos(_), Reply::Done) => Ok(()),
            (Asked::Close, Reply::Done) => {
                let left = self.session(client).map_or(0, |session| session.left.least);
                ensure(left == 0, || {
                    format!("a close left {left} undone and said that it did not")
                })
            }
            (Asked::Queue(name), Reply::Queue(queue)) if *name == queue.name => Ok(()),
            (Asked::Queue(name), Reply::Queue(queue)) if name.is_empty() => {
                self.has_unnamed(client, queue.name.clone())
            }
            (Asked::Begin, Reply::Transaction(_)) => {
                self.begun(client, reply);
                Ok(())
            }
            (Asked::Count(_), Reply::Count(_)) | (Asked::Get { .. }, Reply::Delivery(None)) => {
                Ok(())
            }
            (Asked::Cancel(_), Reply::Cancelled(tag)) if tag.starts_with("puka.") => Ok(()),
            (Asked::Get { queue, no_ack }, Reply::Delivery(Some(_))) => {
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
                Asked::Consume {
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
                    // A stream is polled once before it waits to be woken.
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

    /// Whether there is a reason for an error.
    pub(crate) fn check_error(
        &mut self,
        client: usize,
        waiting: &Waiting,
        error: &Error,
    ) -> Checked {
        let plan = self.plan;
        let excused = self.is_excused(client);
        let closing = self.session(client).is_some_and(|session| session.closing);
        let holds = match error {
            Error::Closed => closing,
            Error::CloseIncomplete { pending } if waiting.asked == Asked::Close => {
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
                                .contains(pending)
                    },
                )
            }
            Error::ConnectionBroken(_) | Error::ConnectionForced(_) | Error::LoginRefused => {
                excused
            }
            Error::InternalError(_) => excused && plan.has(Feature::Internal),
            Error::AccessRefused(fault)
                if waiting.asked == Asked::Connect || !fault.text.contains('\'') =>
            {
                excused && plan.has(Feature::Refused)
            }
            Error::Timeout { .. } => plan.may_time_out() || excused,
            Error::ReadingPaused(_) => plan.has(Feature::SmallBounds),
            Error::Stale => matches!(waiting.asked, Asked::Cancel(_) | Asked::Qos(_)),
            Error::ChannelLimit => match waiting.asked {
                // Other consumers have all the channels.
                Asked::Consume { .. } | Asked::Begin => {
                    plan.has(Feature::FewChannels) || plan.has(Feature::FewerChannels)
                }
                // Its consumer could not be started again.
                Asked::Cancel(_) | Asked::Qos(_) => plan.has(Feature::FewerChannels),
                // The channels left are needed for other requests.
                Asked::Get { no_ack, .. } => {
                    !no_ack && (plan.has(Feature::FewChannels) || plan.has(Feature::FewerChannels))
                }
                _ => false,
            },
            // The consumer was on its way to start again.
            Error::InvalidArgument { .. } => {
                matches!(waiting.asked, Asked::Qos(_)) && plan.has(Feature::Exclusive)
            }
            // It crossed the close of its channel, caused by the late ack of an earlier get, and
            // was not executed.
            Error::PreconditionFailed(fault) if fault.text.contains("delivery acknowledgement") => {
                plan.has(Feature::Overdue) && fault.method == MethodId::NONE
            }
            Error::ConsumerCancelled(_) => {
                matches!(waiting.asked, Asked::Consume { .. } | Asked::Qos(_))
            }
            error => match error.fault() {
                Some(fault) => {
                    fault.found_by == Peer::Server
                        && (fault.method == waiting.method || fault.method == basic::Consume::ID)
                        && self.may_be_refused(waiting, fault.code, &fault.text)
                }
                None => false,
            },
        };
        ensure(holds, || {
            format!("{:?} failed without a reason: {error:?}", waiting.asked)
        })
    }

    fn may_be_refused(&self, waiting: &Waiting, code: ReplyCode, text: &str) -> bool {
        let plan = self.plan;
        let names = |names: &str| {
            names
                .split('|')
                .any(|name| text.contains(&format!("'{name}'")))
        };
        match &waiting.asked {
            Asked::Queue(name) | Asked::Count(name) | Asked::Done(name) => names(name),
            Asked::Get { queue, .. } | Asked::Consume { queue, .. } => names(queue),
            // Its consumer could not start again: the queue is gone, another consumer is exclusive,
            // or the lost connection still owns the queue when patience ends.
            Asked::Qos(_) => {
                matches!(
                    code,
                    ReplyCode::NOT_FOUND | ReplyCode::ACCESS_REFUSED | ReplyCode::RESOURCE_LOCKED
                )
            }
            Asked::Publish(_) => code == ReplyCode::NOT_FOUND,
            Asked::Call(_) => code == ReplyCode::NOT_FOUND,
            Asked::Finish { .. } | Asked::Unconfirmed(_) => false,
            // The channel of the consumer was closed, as it was to start again.
            Asked::Cancel(_) => plan.has(Feature::Qos) || plan.has(Feature::Recover),
            Asked::Connect | Asked::Close | Asked::Begin => false,
        }
    }

    /// Whether a session may have broken.
    pub(crate) fn is_excused(&mut self, client: usize) -> bool {
        self.session(client)
            .is_none_or(|session| session.excuse.is_some())
    }

    /// No promise may be waited for longer than its deadline allows.
    pub(crate) fn check_deadlines(&mut self) -> Checked {
        let (now, plan) = (self.now, self.plan);
        for session in self.clients.iter().flatten() {
            for waiting in session.waiting.values() {
                let limit = match waiting.asked {
                    // It may be tried again and again.
                    Asked::Connect if session.recovers => continue,
                    Asked::Publish(_) if session.recovers && plan.has(Feature::Republish) => {
                        continue;
                    }
                    Asked::Connect => plan.handshake_timeout(),
                    Asked::Close => plan.close_timeout(),
                    // It may be held back first.
                    Asked::Publish(_) => plan.request_timeout().mul_f32(2.2),
                    _ => plan.request_timeout(),
                };
                let waited = now - waiting.since;
                ensure(
                    waited <= limit + session.slept + Duration::from_millis(1),
                    || {
                        format!(
                            "I1/I10: {:?} of session {} waits for {waited:?}",
                            waiting.asked, session.number
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
        // Its correlation id is another each time.
        Reply::Message(reply) => format!("the reply {:?}", crate::observer::id_of(reply.body())),
        reply => format!("{reply:?}"),
    }
}
