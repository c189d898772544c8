//! Declaring everything again, as a plan: what comes next, what is under way, what has failed.
//!
//! One thing is declared after another on one channel, many at a time. When the broker closes the
//! channel over one of them, that one is left out, and those behind it, which the broker has not
//! looked at, are declared on another channel.
//!
//! What goes by itself may go once more, just after it was declared again: when the broker finds
//! out late that the connection before is gone, it ends that one's consumers and bindings, and with
//! the last of them an auto-delete queue or exchange that nothing has been bound to anew. Then
//! everything is declared once more.

use crate::error::Error;
use crate::machine::deadline::Deadline;
use crate::machine::recovery::quarantine::Quarantine;
use crate::machine::recovery::report::Recovered;
use crate::machine::recovery::topology::{PARTS, ReplayStep, Topology};
use crate::options::Recovery;
use crate::protocol::MethodId;
use crate::protocol::method::Encode;
use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// How many may be under way.
const WINDOW: usize = 64;

/// How long to wait before something is tried again, until the broker has cleared up behind the
/// connection which went.
pub(crate) const CLEARING: Duration = Duration::from_millis(500);

/// How often everything is declared once more.
const ROUNDS: usize = 3;

/// The part with the queues that the broker names: they can't be gone, and declaring them would
/// make others.
const NAMED_BY_BROKER: usize = 1;

#[derive(Debug)]
pub(crate) struct Replay {
    /// The next of the topology's four parts, each of which needs those before it.
    part: usize,
    steps: VecDeque<ReplayStep>,
    /// The steps of this part are with the user's filter.
    is_filtering: bool,
    pending: VecDeque<ReplayStep>,
    /// Those that are locked, and when to try them again.
    locked: VecDeque<ReplayStep>,
    retry: Deadline,
    /// Until when what is locked is tried again.
    patience: Deadline,
    /// The exchanges and queues that are declared.
    declared: BTreeSet<ReplayStep>,
    /// The number of bindings that are declared in this round.
    bound: usize,
    /// What could not be declared.
    failures: Vec<(Box<str>, Error)>,
    /// Something that was declared is gone.
    is_missing: bool,
    rounds: usize,
    /// The channel on which it is done.
    pub(crate) channel: Option<u16>,
    pub(crate) report: Recovered,
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NextStep {
    Declare(ReplayStep),
    /// The steps to pass to the user's filter.
    Filter(Vec<ReplayStep>),
    /// Answers are to come, or time is to pass.
    Wait,
    /// Everything is declared.
    Done,
}

impl Replay {
    /// Exclusive queues are tried for so long, in which the broker surely notices that the
    /// connection before is gone.
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
            // Not before, because names that others use may have changed.
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

    /// Something is gone that was declared. Whether everything will be declared once more.
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

    /// What came of it.
    pub(crate) fn into_report(mut self) -> Recovered {
        self.report.entities = self.declared.len() + self.bound;
        self.report.failed.splice(0..0, self.failures);
        self.report
    }

    /// Whether everything is declared, or has failed.
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
        let is_blamed = is_alone && error.is_a_verdict() && error.blames(MethodId::NONE)
            || topology
                .request(&step)
                .is_some_and(|request| error.blames(request.id()));
        is_blamed.then(|| (step.clone(), (step.describe().into(), error.clone())))
    }

    /// Records that the request of a step is sent.
    pub(crate) fn sent(&mut self, step: ReplayStep) {
        self.pending.push_back(step);
    }

    /// A step can't even be written.
    pub(crate) fn skip(&mut self, step: &ReplayStep, error: Error) {
        self.failures.push((step.describe().into(), error));
    }

    /// The oldest step that is under way is done.
    pub(crate) fn done(&mut self) -> Option<ReplayStep> {
        self.pending.pop_front()
    }

    /// So it is there, under the name that it has now.
    pub(crate) fn declared(&mut self, step: ReplayStep) {
        match step {
            // Nothing needs a binding, so it is only counted.
            ReplayStep::Binding(_) => self.bound += 1,
            ReplayStep::Exchange(_) | ReplayStep::Queue(_) => _ = self.declared.insert(step),
        }
    }

    /// The broker has closed the channel over the oldest step that is under way.
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

    fn misses_for(&mut self, step: &ReplayStep) -> bool {
        let needs = step.needs();
        !needs.is_empty() && self.miss(&needs)
    }

    pub(crate) fn stamp(&mut self, now: Instant) {
        self.retry.stamp(now);
        self.patience.stamp(now);
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.retry.instant()
    }

    /// Time has passed. True when there is something to try again.
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
