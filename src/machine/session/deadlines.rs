//! The deadlines of the session: starting them, the earliest one, and what happens when they pass.

use crate::error::Error;
use crate::machine::context::Stage;
use crate::machine::deadline::earlier;
use crate::machine::recovery::replay::Replay;
use crate::machine::request::Requests;
use crate::machine::session::Session;
use std::time::{Duration, Instant};

impl Session {
    /// Starts the deadlines that were set by calls without a clock.
    #[inline]
    pub(crate) fn stamp(&mut self, now: Instant) {
        let cx = &mut self.cx;
        cx.now = now;
        cx.promises.stamp(now);
        cx.channels.stamp(now);
        let timeout = cx.options.timeouts.request;
        self.publishing.publishers.stamp(now, timeout);
        cx.transmit.heartbeat.stamp(now);
        self.recovery.restore_deadline.stamp(now);
        self.consuming.reading.stamp(now);
        if let Some(replay) = &mut self.recovery.replay {
            replay.stamp(now);
        }
        self.consuming.restarts.stamp(now);
        self.consuming.drops.stamp(now);
    }

    /// Returns the earliest deadline of the parts. There must be a transport.
    #[inline]
    pub(crate) fn deadline(&mut self, wants_input: bool) -> Option<Instant> {
        let (cx, publishing) = (&mut self.cx, &mut self.publishing);
        let (consuming, recovery) = (&mut self.consuming, &self.recovery);
        // Iterating over an array of the deadlines took 110 instructions more, and each request
        // computes this twice.
        let mut earliest = match cx.stage {
            Stage::Restoring if consuming.reading.is_on() => recovery.restore_deadline.instant(),
            Stage::Open => earlier(consuming.restarts.deadline(), recovery.late.deadline()),
            _ => None,
        };
        earliest = earlier(earliest, cx.transmit.heartbeat.deadline(wants_input));
        if publishing.blocked.is_none() {
            earliest = earlier(earliest, cx.transmit.stall_deadline());
        }
        earliest = earlier(earliest, publishing.publishers.deadline());
        earliest = earlier(earliest, consuming.pause_deadline(cx));
        earliest = earlier(earliest, consuming.drops.deadline());
        let replay = recovery.replay.as_ref();
        earlier(earliest, replay.and_then(Replay::deadline))
    }

    /// Completes the promises whose deadline has passed, and ends what belongs to them. Returns the
    /// number of promises.
    pub(crate) fn expire(&mut self, now: Instant) -> usize {
        let mut count = 0;
        while let Some((promise, after)) = self.cx.promises.expired(now) {
            let timeout = self.consuming.timeout_error("the request", after);
            let error = self.transactions.error_at_timeout(promise, timeout);
            self.cx.complete(promise, Err(error));
            count += 1;
        }
        if count > 0 {
            self.remove_completed_queued();
            let (cx, publishers) = (&mut self.cx, &mut self.publishing.publishers);
            publishers.forget_completed_calls(&cx.promises);
            Requests::close_overdue(cx);
            self.transactions
                .fail_overdue_transactions(cx, &mut self.consuming);
        }
        let after = self.cx.options.timeouts.request;
        let mut late = Vec::new();
        let publishers = &mut self.publishing.publishers;
        publishers.expire(now, |promise| late.push(promise));
        count += late.len();
        for promise in late {
            let timeout = self.consuming.timeout_error("the confirm", after);
            let error = Error::Unconfirmed(timeout.into());
            self.cx.complete(promise, Err(error));
        }
        count
    }

    /// Removes the queued work whose promise is completed, because its deadline has passed.
    fn remove_completed_queued(&mut self) {
        let (promises, bytes) = (&self.cx.promises, &mut self.cx.queued_request_bytes);
        self.requests.queue.retain(|request| {
            let is_pending = promises.is_pending(request.promise);
            if !is_pending {
                *bytes -= request.payload.len();
            }
            is_pending
        });
        self.consuming.queued.retain(|consume| {
            let is_pending = promises.is_pending(consume.promise);
            if !is_pending {
                *bytes -= consume.size();
            }
            is_pending
        });
        self.transactions
            .queued
            .retain(|queued| promises.is_pending(queued.promise));
        self.publishing
            .queued
            .retain(|pending| promises.is_pending(pending.promise));
    }

    /// Returns `true` if the recovery has made no progress within the request timeout. The timeout
    /// does not count while reading is paused.
    pub(crate) fn has_restore_timed_out(&self, now: Instant) -> bool {
        self.consuming.reading.is_on() && self.recovery.restore_deadline.has_passed(now)
    }

    /// Continues the replay of the topology if the delay before its next round has passed.
    pub(crate) fn continue_delayed_replay(&mut self, now: Instant) {
        if let Some(replay) = &mut self.recovery.replay
            && replay.handle_timeout(now)
        {
            self.recovery.continue_replay(&mut self.cx);
        }
    }

    /// Returns for how long the transport has accepted no bytes, if that is too long. Returns
    /// `None` while the connection is blocked, because the broker then does not read.
    pub(crate) fn stalled_for(&self, now: Instant) -> Option<Duration> {
        let stalled = self.cx.transmit.stalled_for(now);
        stalled.filter(|_| self.publishing.blocked.is_none())
    }

    /// Reports a pause of reading that is too long, and resumes reading if a reply may be unread.
    pub(crate) fn expire_pause(&mut self, now: Instant) {
        if self.consuming.expire_pause(&mut self.cx, now) {
            self.resume_reading();
        }
    }
}
