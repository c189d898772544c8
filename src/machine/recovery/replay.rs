//! The replay of the topology: which steps are next, pending and failed.
//!
//! The steps are sent on one channel, many at a time. When the broker closes the channel over a
//! step, that step is skipped. The pending steps behind it, which the broker has ignored, are sent
//! again on another channel.
//!
//! An auto-delete entity may be deleted once more after it was declared. If the broker notices late
//! that the previous connection is lost, it removes that connection's consumers and bindings, and
//! deletes an auto-delete queue or exchange with the last of them, unless a new one exists. Then
//! all steps are replayed once more.

use crate::error::Error;
use crate::machine::deadline::Deadline;
use crate::machine::recovery::quarantine::Quarantine;
use crate::machine::recovery::report::Recovered;
use crate::machine::recovery::step::ReplayStep;
use crate::machine::recovery::topology::{PARTS, Topology};
use crate::options::Recovery;
use crate::protocol::MethodId;
use crate::protocol::method::Encode;
use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// The largest number of pending steps.
const WINDOW: usize = 64;

/// The delay before a step is retried, in which the broker may notice that the previous connection
/// is lost.
pub(crate) const CLEARING: Duration = Duration::from_millis(500);

/// How often all steps may be replayed once more.
const ROUNDS: usize = 3;

/// The part with the server-named queues. Those cannot be missing, and declaring them once more
/// would create others.
const NAMED_BY_BROKER: usize = 1;

/// The replay of one connection.
#[derive(Debug)]
pub(crate) struct Replay {
    /// The next of the topology's four parts. Each part needs the ones before it.
    part: usize,
    steps: VecDeque<ReplayStep>,
    /// The steps of this part are with the user's filter.
    is_filtering: bool,
    pending: VecDeque<ReplayStep>,
    /// Steps on queues that another connection locks, which are retried later.
    locked: VecDeque<ReplayStep>,
    retry: Deadline,
    /// Until when locked steps are retried.
    patience: Deadline,
    /// The declared exchanges and queues.
    declared: BTreeSet<ReplayStep>,
    /// The number of bindings declared in this round.
    bound: usize,
    /// The entities that could not be declared, with the errors.
    failures: Vec<(Box<str>, Error)>,
    /// A declared entity is missing again, so another round follows.
    is_missing: bool,
    /// The number of further rounds.
    rounds: usize,
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

impl Replay {
    /// Begins a replay. Locked queues are retried for the duration of `patience`, in which the
    /// broker is sure to notice that the previous connection is lost.
    pub(crate) fn new(patience: Duration, report: Recovered) -> Self {
        Self {
            part: 0,
            steps: VecDeque::new(),
            is_filtering: false,
            pending: VecDeque::new(),
            locked: VecDeque::new(),
            retry: Deadline::None,
            patience: Deadline::In(patience),
            declared: BTreeSet::new(),
            bound: 0,
            failures: Vec::new(),
            is_missing: false,
            rounds: ROUNDS,
            channel: None,
            report,
        }
    }

    /// Returns the next action.
    pub(crate) fn next(
        &mut self,
        topology: &Topology,
        policy: &Recovery,
        quarantine: &Quarantine,
    ) -> NextStep {
        let window = if quarantine.one_at_a_time { 1 } else { WINDOW };
        loop {
            if self.pending.len() >= window {
                return NextStep::Wait;
            }
            if let Some(step) = self.steps.pop_front() {
                return NextStep::Declare(step);
            }
            if !self.pending.is_empty() || !self.locked.is_empty() || self.is_filtering {
                return NextStep::Wait;
            }
            // A part is listed only after the previous one is done, because queues may have new
            // names.
            let Some(mut steps) = topology.steps(self.part, policy.topology) else {
                match (self.is_missing, &self.retry) {
                    (false, _) => return NextStep::Done,
                    (true, Deadline::None) => self.start_over(),
                    (true, _) => return NextStep::Wait,
                }
                continue;
            };
            if self.part == NAMED_BY_BROKER {
                steps.retain(|step| !self.declared.contains(step));
            }
            steps.retain(|step| !quarantine.contains(step));
            self.part += 1;
            if policy.filter.is_some() && !steps.is_empty() {
                self.is_filtering = true;
                return NextStep::Filter(steps);
            }
            self.steps = steps.into();
        }
    }

    /// Continues with the steps that the user's filter returned.
    pub(crate) fn filtered(&mut self, wanted: Vec<ReplayStep>) {
        self.is_filtering = false;
        self.steps = wanted.into();
    }

    fn start_over(&mut self) {
        (self.part, self.is_missing, self.bound) = (0, false, 0);
        self.failures.clear();
    }

    /// Records that entities are missing. Returns `true` if they were declared and another round
    /// follows.
    pub(crate) fn miss(&mut self, missing: &[ReplayStep]) -> bool {
        if !missing.iter().all(|step| self.declared.contains(step)) {
            return false;
        }
        if !self.is_missing {
            if self.rounds == 0 {
                return false;
            }
            self.rounds -= 1;
            self.is_missing = true;
        }
        if matches!(self.retry, Deadline::None) {
            self.retry = Deadline::In(CLEARING);
        }
        true
    }

    /// Returns the report of the replay.
    pub(crate) fn into_report(mut self) -> Recovered {
        self.report.entities = self.declared.len() + self.bound;
        self.report.failed.splice(0..0, self.failures);
        self.report
    }

    /// Returns `true` if all steps are done or have failed.
    pub(crate) fn is_done(&self) -> bool {
        !self.is_missing
            && self.part == PARTS
            && self.steps.is_empty()
            && !self.is_filtering
            && self.pending.is_empty()
            && self.locked.is_empty()
    }

    /// Returns the step over which the broker closed the connection, if there is one: the oldest
    /// pending step, if the close names its method, or if it names none and no other step was
    /// pending.
    pub(crate) fn blamed(
        &mut self,
        error: &Error,
        topology: &Topology,
        is_alone: bool,
    ) -> Option<(ReplayStep, (Box<str>, Error))> {
        let step = self.pending.pop_front()?;
        let is_blamed =
            is_alone && error.is_caused_by_request() && error.names_method(MethodId::NONE)
                || topology
                    .request(&step)
                    .is_some_and(|request| error.names_method(request.id()));
        is_blamed.then(|| (step.clone(), (step.describe().into(), error.clone())))
    }

    /// Records that the request of a step is sent.
    pub(crate) fn sent(&mut self, step: ReplayStep) {
        self.pending.push_back(step);
    }

    /// Records that a step cannot be written.
    pub(crate) fn skip(&mut self, step: &ReplayStep, error: Error) {
        self.failures.push((step.describe().into(), error));
    }

    /// Removes the oldest pending step, because its reply has arrived.
    pub(crate) fn done(&mut self) -> Option<ReplayStep> {
        self.pending.pop_front()
    }

    /// Records that an entity is declared. The caller has set its current name.
    pub(crate) fn declared(&mut self, step: ReplayStep) {
        match step {
            // Nothing needs a binding, so it is only counted.
            ReplayStep::Binding(_) => self.bound += 1,
            ReplayStep::Exchange(_) | ReplayStep::Queue(_) => _ = self.declared.insert(step),
        }
    }

    /// Handles the close of the channel, over the oldest pending step.
    pub(crate) fn failed(&mut self, error: &Error) {
        self.channel = None;
        let failed = self.pending.pop_front();
        for step in self.pending.drain(..).rev() {
            self.steps.push_front(step);
        }
        let Some(step) = failed else { return };
        let is_patient = !matches!(self.patience, Deadline::None);
        if matches!(error, Error::ResourceLocked(_)) && is_patient {
            self.locked.push_back(step);
            if matches!(self.retry, Deadline::None) {
                self.retry = Deadline::In(CLEARING);
            }
        } else if !(matches!(error, Error::NotFound(_)) && self.misses_for(&step)) {
            self.failures.push((step.describe().into(), error.clone()));
        }
    }

    /// Records that what a step needs is missing. Returns `true` if another round follows.
    fn misses_for(&mut self, step: &ReplayStep) -> bool {
        let needs = step.needs();
        !needs.is_empty() && self.miss(&needs)
    }

    /// Starts the deadlines.
    pub(crate) fn stamp(&mut self, now: Instant) {
        self.retry.stamp(now);
        self.patience.stamp(now);
    }

    /// Returns when locked or missing steps are retried.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.retry.instant()
    }

    /// Handles passed deadlines. Returns `true` if there are steps to send.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> bool {
        if self.patience.has_passed(now) {
            self.patience = Deadline::None;
        }
        if !self.retry.has_passed(now) {
            return false;
        }
        self.retry = Deadline::None;
        self.steps.extend(self.locked.drain(..));
        true
    }
}
