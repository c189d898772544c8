//! The checks of the ends of consumers, and of those that the broker has interrupted.

use crate::pending::{Consumer, End, Unsettled};
use crate::plan::{Feature, PlantedFault};
use crate::violation::{Checked, ensure};
use crate::world::World;
use puka::machine::Ended;
use puka::{Broken, Error, Peer};
use std::time::Duration;

/// How long after its limit an interrupted consumer may still wait for the reply to its last
/// restart. The network and the broker delay a reply by less.
const LATE_REPLY: Duration = Duration::from_secs(10);

impl World {
    /// Checks that there is a reason for the end of a consumer.
    pub(crate) fn check_ended(
        &mut self,
        client: usize,
        consumer: &Consumer,
        ended: &Ended,
    ) -> Checked {
        let plan = self.plan;
        let may_have_broken = self.may_have_broken(client);
        let recovers = self
            .session(client)
            .is_none_or(|session| session.recovers());
        let Some(end) = &consumer.end else {
            return ensure(false, || format!("the end {ended:?} was not reported"));
        };
        let recovery_time = plan.consumer_retry_time();
        let was_retried = end.after.is_some_and(|after| after >= recovery_time);
        let is_never_restarted = plan.resubscription().time.is_none();
        let ends_unrestarted = consumer.is_cancelled || end.closing || is_never_restarted;
        let holds = match ended {
            Ended::Cancelled => consumer.is_cancelled,
            Ended::ConnectionBroken(Error::Closed) => end.closing,
            // A consumer over whose restart connections close ends after the retry limit.
            Ended::ConnectionBroken(error) if recovers && !end.has_finished => {
                let crashed = end.after_crash.is_some_and(|after| after >= recovery_time);
                matches!(error, Error::InternalError(_)) && crashed
            }
            Ended::ConnectionBroken(_) => may_have_broken,
            // The consumer was not started again, because there were fewer channels than consumers.
            Ended::ChannelClosed(Error::ChannelLimit) => {
                plan.has(Feature::FewerChannels) || plan.has(Feature::UserLimit)
            }
            // The broker has not replied to its restart in time.
            Ended::ChannelClosed(Error::Timeout { .. }) => plan.may_time_out(),
            _ if end.interruption.is_some() => return self.check_interrupted_end(consumer, ended),
            Ended::CancelledByServer => ends_unrestarted && self.may_be_cancelled(&consumer.queue),
            Ended::AckTimeout(_) => ends_unrestarted && plan.has(Feature::Overdue),
            // The consumer was started again after a loss, and the broker refused that.
            Ended::ChannelClosed(error @ (Error::AccessRefused(_) | Error::ResourceLocked(_))) => {
                ensure(was_retried || ends_unrestarted, || {
                    format!(
                        "a consumer of {} was given up too early: {error}",
                        consumer.queue
                    )
                })?;
                true
            }
            Ended::ChannelClosed(error) => {
                (recovers || ends_unrestarted)
                    && error
                        .fault()
                        .is_some_and(|fault| fault.found_by == Peer::Server)
            }
            _ => false,
        };
        ensure(holds, || {
            format!(
                "a consumer of {} has ended without a reason: {ended:?}",
                consumer.queue
            )
        })
    }

    /// Returns the end of a consumer as a planted fault changes it.
    pub(crate) fn planted_end(&mut self, client: usize, ended: Ended) -> Ended {
        let crashed = self
            .session(client)
            .is_some_and(|it| it.first_crash.is_some());
        match self.plan.planted_fault {
            PlantedFault::OtherCause => Ended::ConnectionBroken(Error::Nacked),
            PlantedFault::EndedByCrash if crashed => {
                Ended::ConnectionBroken(Error::ConnectionBroken(Broken::Eof))
            }
            _ => ended,
        }
    }

    /// Takes a delivery of a closed channel once more, for a planted fault.
    pub(crate) fn repeat_stale_delivery(&mut self, client: usize) -> Checked {
        let Some(session) = self.session(client) else {
            return Ok(());
        };
        let is_stale =
            |it: &Unsettled| it.consumer.is_some() && session.machine.is_stale(&it.delivered);
        let Some(index) = session.unsettled.iter().position(is_stale) else {
            return Ok(());
        };
        let stale = session.unsettled.remove(index);
        self.receive(client, &stale.queue, stale.consumer, stale.delivered)
    }

    /// Returns `true` if the broker may cancel consumers of a queue.
    fn may_be_cancelled(&self, queue: &str) -> bool {
        let reasons = [
            Feature::OutsideDelete,
            Feature::Churn,
            Feature::DeletedAtLoss,
            Feature::Expel,
            Feature::Leader,
        ];
        reasons.iter().any(|it| self.plan.has(*it)) || queue.starts_with(['a', 'x'])
    }

    /// Checks the end of a consumer that was interrupted and has not started again. It ends with
    /// the reason of the interruption, once the broker has refused its restart for good, or has
    /// refused it temporarily until the limit.
    fn check_interrupted_end(&self, consumer: &Consumer, ended: &Ended) -> Checked {
        let queue = &consumer.queue;
        let Some(End {
            at,
            interruption: Some(interruption),
            limit,
            refusal,
            ..
        }) = &consumer.end
        else {
            return Ok(());
        };
        ensure(interruption.is_reason(ended), || {
            format!(
                "a consumer of {queue} was interrupted by {:?} and has ended with {ended:?}",
                interruption.why
            )
        })?;
        let refusal = refusal.as_deref().unwrap_or_default();
        if refusal.is_empty() && (self.plan.has(Feature::FewerChannels) || self.plan.may_time_out())
        {
            // It was not restarted, because there were fewer channels than consumers, or the
            // broker has not replied in time.
            return Ok(());
        }
        ensure(!refusal.is_empty(), || {
            format!("a consumer of {queue} has ended without a refused restart: {ended:?}")
        })?;
        let is_missing = refusal.contains("NOT_FOUND - no queue '");
        let waits = self.plan.resubscription().waits_for_queue;
        let is_final = is_missing && !waits || refusal.contains("- access to");
        // A consumer that waits for its queue does so for the time of its policy.
        let is_waiting = is_missing && waits;
        ensure(is_final || is_waiting || *limit <= Some(*at), || {
            format!("an interrupted consumer of {queue} was given up too early: {refusal}")
        })
    }

    /// Checks that each interrupted consumer is restarted or ends within its limit.
    pub(crate) fn check_interrupted(&mut self) -> Checked {
        let (now, plan) = (self.now, self.plan);
        if plan.may_time_out() {
            return Ok(());
        }
        for session in self.clients.iter().flatten() {
            if !session.is_sound() {
                continue;
            }
            for (tag, interruption) in session.restarts.interrupted() {
                // A consumer whose start the application has abandoned is cancelled.
                if session.consumer_with(tag).is_none() {
                    continue;
                }
                let limit = interruption.limit(session.opened_at(), &plan);
                ensure(now <= limit + LATE_REPLY + session.slept(), || {
                    format!("the consumer {tag} is neither restored nor ended: {interruption:?}")
                })?;
            }
        }
        Ok(())
    }
}
