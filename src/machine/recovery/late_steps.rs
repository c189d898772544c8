//! Sending the steps of the late replay, and handling their replies.

use crate::error::Error;
use crate::machine::Notice;
use crate::machine::channel::{Awaited, Role};
use crate::machine::context::{Context, Stage};
use crate::machine::deadline::later;
use crate::machine::recovery::Recovering;
use crate::machine::recovery::refusal::is_temporary;
use crate::machine::recovery::step::ReplayStep;
use crate::protocol::Method;

impl Recovering {
    /// Returns `true` if a step is retried once the connection is open.
    pub(crate) fn is_restored_later(&self, step: &ReplayStep) -> bool {
        let replay = self.replay.as_ref();
        self.late.contains(step)
            || self.quarantine.contains(step)
            || replay.is_some_and(|replay| replay.is_refused(step))
    }

    /// Sends the next step that is due, on a channel of its own. Closes the channel of a step
    /// without a reply. The connection must be open.
    pub(crate) fn continue_late_replay(&mut self, cx: &mut Context) {
        if self.late.is_overdue(cx.now) {
            if let Some(number) = self.late.channel.take() {
                cx.close_channel(number);
            }
            if let Some(step) = self.late.take_pending() {
                self.late.retry(&step, cx.now);
            }
        }
        if self.late.is_pending() || cx.stage != Stage::Open {
            return;
        }
        while let Some(step) = self.late.next_due(cx.now) {
            if !cx.topology.has(&step) {
                // The program has deleted the entity meanwhile.
                self.late.remove(&step);
                continue;
            }
            let idle = self
                .late
                .channel
                .or_else(|| cx.channels.take_idle(Role::Restore));
            let Some(number) = idle.or_else(|| cx.open_channel(Role::Restore)) else {
                return self.late.retry(&step, cx.now);
            };
            self.late.channel = Some(number);
            match Self::write_step(cx, number, &step) {
                Ok(info) => {
                    cx.await_reply(number, info, Awaited::ReplayStep { is_late: true });
                    let overdue = later(cx.now, cx.options.timeouts.request);
                    cx.attention = true;
                    return self.late.record_sent(step, overdue);
                }
                // It exceeds the size of a frame, or an argument cannot be encoded.
                Err(_) => self.late.remove(&step),
            }
        }
        if let Some(number) = self.late.channel.take() {
            cx.channels.put_idle(number);
        }
    }

    /// Handles the reply to a step of the replay or of the late replay.
    pub(crate) fn handle_reply(&mut self, cx: &mut Context, is_late: bool, reply: &Method<'_>) {
        if is_late {
            self.handle_late_reply(cx, reply);
        } else {
            self.handle_step_reply(cx, reply);
        }
    }

    /// Handles the reply to the pending step: its entity is restored.
    fn handle_late_reply(&mut self, cx: &mut Context, reply: &Method<'_>) {
        // Unreachable: one reply follows each step.
        let Some(mut step) = self.late.take_pending() else {
            return;
        };
        self.late.remove(&step);
        self.record_name(cx, &mut step, reply);
        // The program may have deleted it before the broker has handled the declaration.
        if cx.topology.has(&step) {
            let restored = Notice::EntityRestored(step.describe().into());
            cx.notices.notify(&restored);
        }
        self.continue_late_replay(cx);
    }

    /// Handles the close of the channel of the pending step. The step is retried if the refusal is
    /// temporary, or if an entity that the step needs is restored later.
    pub(crate) fn handle_late_close(&mut self, cx: &mut Context, error: &Error) {
        self.late.channel = None;
        let Some(step) = self.late.take_pending() else {
            return;
        };
        let is_missing = matches!(error, Error::NotFound(_)) && self.late.lacks_needs(&step);
        if is_temporary(error, false) || is_missing {
            self.late.retry(&step, cx.now);
        } else {
            self.late.remove(&step);
        }
        self.continue_late_replay(cx);
    }
}
