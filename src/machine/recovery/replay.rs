//! The replay of the topology: which steps are next, pending and failed.
//!
//! The steps are sent on one channel, many at a time. When the broker closes the channel over a
//! step, that step has failed. The pending steps behind it, which the broker has ignored, are sent
//! again on another channel.
//!
//! An auto-delete entity may be deleted again after it was declared. If the broker notices late
//! that the previous connection is lost, it removes that connection's consumers and bindings. With
//! the last of them it deletes an auto-delete queue or exchange, unless the new connection has
//! added others. A binding or a consumer then fails because the entity is missing, and the whole
//! replay is repeated.

use crate::error::Error;
use crate::machine::deadline::Deadline;
use crate::machine::recovery::quarantine::Quarantine;
use crate::machine::recovery::refusal::is_temporary;
use crate::machine::recovery::report::Recovered;
use crate::machine::recovery::step::{ReplayStep, StepGroup};
use crate::machine::recovery::topology::Topology;
use crate::options::Recovery;
use crate::protocol::method::Encode;
use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// The largest number of pending steps. It hides the round trips of most replays. After a step
/// fails, the steps behind it are sent again, so each failure costs at most this many repeated
/// ones.
const MAX_PENDING: usize = 64;

/// The delay before a step is retried, in which the broker may notice that the previous connection
/// is lost. That takes it an instant or several seconds, so the delay is short, and a locked queue
/// is retried many times. It is also the first delay of a refused consumer.
pub(crate) const RETRY_DELAY: Duration = Duration::from_millis(500);

/// How often the replay may be repeated because an entity is missing. Each lost connection that the
/// broker has not noticed yet can delete an entity once, and there are rarely several. Without a
/// limit, a broker that deletes an entity after each declaration would cause an endless recovery.
const MAX_REPEATS: usize = 3;

/// The replay of one connection.
#[derive(Debug)]
pub(crate) struct Replay {
    /// The next group of steps to list; `None` after the last.
    next_group: Option<StepGroup>,
    /// The listed steps that are to be sent.
    steps: VecDeque<ReplayStep>,
    /// The steps of a group are with the user's filter.
    is_filtering: bool,
    /// The sent steps without a reply, the oldest first.
    pending: VecDeque<ReplayStep>,
    /// Steps on queues that another connection locks, which are retried after a delay.
    locked: VecDeque<ReplayStep>,
    /// When locked steps are retried, or the replay is repeated; [`Deadline::None`] if no delay is
    /// running.
    retry: Deadline,
    /// Until when locked steps are retried; [`Deadline::None`] once it has passed.
    retry_limit: Deadline,
    /// The declared exchanges and queues. They stay here when the replay is repeated: server-named
    /// queues are not declared again, and the report counts each entity once.
    declared: BTreeSet<ReplayStep>,
    /// The number of bindings declared since the replay began or was last repeated.
    declared_bindings: usize,
    /// The entities that could not be declared, with the errors.
    failures: Vec<(Box<str>, Error)>,
    /// Those of them that were refused temporarily. They are retried once the connection is open.
    refused: BTreeSet<ReplayStep>,
    /// A declared entity is missing, so the replay is repeated.
    is_missing: bool,
    /// How often the replay may still be repeated.
    repeats_left: usize,
    /// The channel of the replay.
    pub(crate) channel: Option<u16>,
    pub(crate) report: Recovered,
}

/// The next action of the replay.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NextStep {
    /// Send this step.
    Declare(ReplayStep),
    /// Pass these steps to the user's filter.
    Filter(Vec<ReplayStep>),
    /// Wait for a reply, the filter or a deadline.
    Wait,
    /// All steps are done.
    Done,
}

/// Returns `true` if a close of the connection names the method of a step.
pub(crate) fn names_step(error: &Error, step: &ReplayStep, topology: &Topology) -> bool {
    let request = topology.request(step);
    request.is_some_and(|request| error.names_method(request.id()))
}

impl Replay {
    /// Begins a replay. Locked queues are retried for the duration of `retry_limit`, before the
    /// connection becomes open.
    pub(crate) fn new(retry_limit: Duration, report: Recovered) -> Self {
        Self {
            next_group: Some(StepGroup::Exchanges),
            steps: VecDeque::new(),
            is_filtering: false,
            pending: VecDeque::new(),
            locked: VecDeque::new(),
            retry: Deadline::None,
            retry_limit: Deadline::In(retry_limit),
            declared: BTreeSet::new(),
            declared_bindings: 0,
            failures: Vec::new(),
            refused: BTreeSet::new(),
            is_missing: false,
            repeats_left: MAX_REPEATS,
            channel: None,
            report,
        }
    }

    /// Determines the next action. A step or a list of steps to filter is removed from the replay.
    pub(crate) fn next_step(
        &mut self,
        topology: &Topology,
        policy: &Recovery,
        quarantine: &Quarantine,
    ) -> NextStep {
        let max_pending = if quarantine.one_at_a_time {
            1
        } else {
            MAX_PENDING
        };
        loop {
            if self.pending.len() >= max_pending {
                return NextStep::Wait;
            }
            if let Some(step) = self.steps.pop_front() {
                return NextStep::Declare(step);
            }
            if self.is_done() {
                return NextStep::Done;
            }
            // A group is listed only after the one before is done, because queues may have new
            // names.
            if !self.is_group_done() {
                return NextStep::Wait;
            }
            let Some(group) = self.next_group else {
                // An entity is missing, so the replay is repeated after the delay.
                if !matches!(self.retry, Deadline::None) {
                    return NextStep::Wait;
                }
                self.start_over();
                continue;
            };
            self.next_group = group.next();
            let mut steps = topology.steps(group, policy.topology);
            // A server-named queue cannot be missing, and declaring it again would create another.
            if group == StepGroup::ServerNamedQueues {
                steps.retain(|step| !self.declared.contains(step));
            }
            steps.retain(|step| !quarantine.contains(step));
            if policy.filter.is_some() && !steps.is_empty() {
                self.is_filtering = true;
                return NextStep::Filter(steps);
            }
            self.steps = steps.into();
        }
    }

    /// Continues with the steps that the user's filter returned.
    pub(crate) fn continue_with(&mut self, wanted: Vec<ReplayStep>) {
        self.is_filtering = false;
        self.steps = wanted.into();
    }

    /// Repeats the replay from the first group.
    fn start_over(&mut self) {
        self.next_group = Some(StepGroup::Exchanges);
        self.is_missing = false;
        self.declared_bindings = 0;
        self.failures.clear();
        self.refused.clear();
    }

    /// Records that entities are missing. Returns `true` if they were declared before and the
    /// replay is repeated.
    pub(crate) fn note_missing(&mut self, missing: &[ReplayStep]) -> bool {
        if !missing.iter().all(|step| self.declared.contains(step)) {
            return false;
        }
        if !self.is_missing {
            if self.repeats_left == 0 {
                return false;
            }
            self.repeats_left -= 1;
            self.is_missing = true;
        }
        self.start_delay();
        true
    }

    /// Starts the delay before a retry, unless it is running.
    fn start_delay(&mut self) {
        if matches!(self.retry, Deadline::None) {
            self.retry = Deadline::In(RETRY_DELAY);
        }
    }

    /// Returns the report of the replay, and the steps that were refused temporarily.
    pub(crate) fn into_report(mut self) -> (Recovered, BTreeSet<ReplayStep>) {
        self.report.entities = self.declared.len() + self.declared_bindings;
        self.report.failed.splice(0..0, self.failures);
        (self.report, self.refused)
    }

    /// Returns `true` if all steps are done or have failed.
    pub(crate) fn is_done(&self) -> bool {
        self.next_group.is_none() && self.is_group_done() && !self.is_missing
    }

    /// Returns `true` if the steps of all listed groups are done or have failed.
    fn is_group_done(&self) -> bool {
        self.steps.is_empty()
            && !self.is_filtering
            && self.pending.is_empty()
            && self.locked.is_empty()
    }

    /// Ends a replay whose connection the broker closed. Returns the step that caused the close, if
    /// it is known.
    ///
    /// The broker handles the steps in order, so only the oldest pending step can be the cause. It
    /// is the cause if the close names its method, or if steps were sent one at a time.
    pub(crate) fn into_close_cause(
        mut self,
        error: &Error,
        topology: &Topology,
        one_at_a_time: bool,
    ) -> Option<ReplayStep> {
        let step = self.pending.pop_front()?;
        let was_alone = one_at_a_time && error.is_caused_by_request();
        (was_alone || names_step(error, &step, topology)).then_some(step)
    }

    /// Records that the request of a step is sent.
    pub(crate) fn record_sent(&mut self, step: ReplayStep) {
        self.pending.push_back(step);
    }

    /// Records that a step has failed. It is retried later if it failed temporarily, or because an
    /// entity that it needs is restored later.
    pub(crate) fn record_failure(
        &mut self,
        step: ReplayStep,
        error: Error,
        quarantine: &Quarantine,
    ) {
        let is_later = |it: &ReplayStep| self.refused.contains(it) || quarantine.contains(it);
        let lacks_needs = matches!(error, Error::NotFound(_)) && step.needs().iter().any(is_later);
        let is_temporary = is_temporary(&error, false) || matches!(error, Error::ChannelLimit);
        self.failures.push((step.describe().into(), error));
        if is_temporary || lacks_needs {
            self.refused.insert(step);
        }
    }

    /// Returns the error of the first step that has failed.
    pub(crate) fn failure(&self) -> Option<&Error> {
        self.failures.first().map(|(_, error)| error)
    }

    /// Returns `true` if a step was refused temporarily.
    pub(crate) fn is_refused(&self, step: &ReplayStep) -> bool {
        self.refused.contains(step)
    }

    /// Removes the oldest pending step, to which the broker has replied, and returns it.
    pub(crate) fn pop_pending(&mut self) -> Option<ReplayStep> {
        self.pending.pop_front()
    }

    /// Records that an entity is declared. The caller has set its current name.
    pub(crate) fn record_declared(&mut self, step: ReplayStep) {
        match step {
            // Nothing needs a binding, so it is only counted.
            ReplayStep::Binding(_) => self.declared_bindings += 1,
            ReplayStep::Exchange(_) | ReplayStep::Queue(_) => _ = self.declared.insert(step),
        }
    }

    /// Handles the close of the channel. The oldest pending step is retried later or has failed,
    /// and the others are sent again.
    pub(crate) fn handle_close(&mut self, error: &Error, quarantine: &Quarantine) {
        self.channel = None;
        let refused = self.pending.pop_front();
        for step in self.pending.drain(..).rev() {
            self.steps.push_front(step);
        }
        // The broker may close the channel while the replay waits for the filter or a delay.
        let Some(step) = refused else { return };
        let may_retry = !matches!(self.retry_limit, Deadline::None);
        if matches!(error, Error::ResourceLocked(_)) && may_retry {
            self.locked.push_back(step);
            self.start_delay();
            return;
        }
        if matches!(error, Error::NotFound(_)) && self.note_missing_needs(&step) {
            return;
        }
        self.record_failure(step, error.clone(), quarantine);
    }

    /// Records that the entities that a step needs are missing. Returns `true` if the replay is
    /// repeated.
    fn note_missing_needs(&mut self, step: &ReplayStep) -> bool {
        let needs = step.needs();
        !needs.is_empty() && self.note_missing(&needs)
    }

    /// Starts the deadlines.
    pub(crate) fn stamp(&mut self, now: Instant) {
        self.retry.stamp(now);
        self.retry_limit.stamp(now);
    }

    /// Returns when locked steps are retried, or the replay is repeated.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.retry.instant()
    }

    /// Handles passed deadlines. Returns `true` if there may be steps to send.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> bool {
        if self.retry_limit.has_passed(now) {
            self.retry_limit = Deadline::None;
        }
        if !self.retry.has_passed(now) {
            return false;
        }
        self.retry = Deadline::None;
        self.steps.extend(self.locked.drain(..));
        true
    }
}
