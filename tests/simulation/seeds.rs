//! Runs many seeds or one, and reduces a failing seed to the smallest part that still fails.

use crate::plan::{Feature, Plan};
use crate::run::{Outcome, run};
use crate::violation::Violation;
use std::collections::BTreeMap;
use std::env;
use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The default number of seeds, without `SEEDS`.
pub(crate) const SEEDS: u64 = 600;

/// Returns the number in an environment variable.
fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap())
}

/// Prints a line even though the test harness captures output.
fn print_line(text: &str) {
    std::io::stderr()
        .write_all(format!("{text}\n").as_bytes())
        .unwrap();
}

/// Returns the plan that `SEED`, `OPS` and `OFF` define.
fn plan_from_environment() -> Option<Plan> {
    let mut plan = Plan::new(number("SEED")?);
    if let Some(ops) = number("OPS") {
        plan = plan.with_ops(ops as usize);
    }
    let off = env::var("OFF").unwrap_or_default();
    for feature in Feature::ALL {
        if off.split(',').any(|name| name == format!("{feature:?}")) {
            plan = plan.without(*feature);
        }
    }
    Some(plan)
}

/// Removes the parts of a failing plan that are not needed to fail, for at most eight seconds.
/// Returns the rest of the plan, and its violation.
fn shrink(plan: Plan) -> (Plan, Violation) {
    let deadline = Instant::now() + Duration::from_secs(8);
    let fails = |plan: Plan| {
        run(plan, false)
            .violation
            .filter(|_| Instant::now() < deadline)
    };
    let mut smallest = plan;
    let mut violation = run(plan, false)
        .violation
        .unwrap_or_else(|| Violation("a second run of the seed does not fail".into()));
    loop {
        let before = (smallest.ops, smallest.features().count());
        let mut step = smallest.ops / 2;
        while step > 0 {
            match fails(smallest.with_ops(smallest.ops - step)) {
                Some(found) => {
                    smallest = smallest.with_ops(smallest.ops - step);
                    violation = found;
                    step = step.min(smallest.ops / 2);
                }
                None => step /= 2,
            }
        }
        for &feature in Feature::ALL {
            if smallest.has(feature)
                && let Some(found) = fails(smallest.without(feature))
            {
                smallest = smallest.without(feature);
                violation = found;
            }
        }
        if before == (smallest.ops, smallest.features().count()) {
            return (smallest, violation);
        }
    }
}

/// Returns the command that replays a plan.
fn replay(plan: Plan) -> String {
    let whole = Plan::new(plan.seed);
    let off: Vec<_> = whole
        .features()
        .filter(|feature| !plan.has(*feature))
        .map(|it| format!("{it:?}"))
        .collect();
    let ops = if plan.ops == whole.ops {
        String::new()
    } else {
        format!("OPS={} ", plan.ops)
    };
    let off = if off.is_empty() {
        String::new()
    } else {
        format!("OFF={} ", off.join(","))
    };
    format!(
        "SEED={} {ops}{off}cargo test -p puka --test simulation seeds",
        plan.seed
    )
}

/// Describes the failure of a plan, with the commands that replay it.
fn report(plan: Plan) -> String {
    let (smallest, violation) = shrink(plan);
    let features: Vec<_> = smallest.features().collect();
    format!(
        "seed {}: {}\n  replay: {}\n  smallest: {}\n  with {features:?}",
        plan.seed,
        violation.0,
        replay(plan),
        replay(smallest)
    )
}

/// Runs `check` for all numbers below `count`, on every core. Returns what it returned. Stops when
/// there are `max_findings`.
pub(crate) fn on_all_cores<T: Send>(
    count: u64,
    max_findings: usize,
    check: impl Fn(u64) -> Option<T> + Sync,
) -> Vec<T> {
    let (next, found) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= count || found.lock().unwrap().len() >= max_findings {
                        break;
                    }
                    if let Some(finding) = check(seed) {
                        found.lock().unwrap().push(finding);
                    }
                }
            });
        }
    });
    found.into_inner().unwrap()
}

/// Runs a plan, and prints its events.
fn replay_with_trace(plan: Plan) {
    let features: Vec<_> = plan.features().collect();
    print_line(&format!("{plan:?} {features:?}"));
    let outcome = run(plan, true);
    for event in &outcome.trace {
        print_line(event);
    }
    let Outcome {
        deliveries,
        completed_publishes,
        faults,
        transports,
        time,
        ..
    } = outcome;
    print_line(&format!(
        "{deliveries} deliveries, {completed_publishes} publishes completed, {faults} faults, \
         {transports} transports, {time:?}"
    ));
    if let Some(violation) = outcome.violation {
        panic!("{}\n  replay: {}", violation.0, replay(plan));
    }
}

/// Runs seeds, and prints the averages of what they did. Returns the failures.
fn run_seeds(first: u64, count: u64, max_failures: usize) -> Vec<(Plan, Violation)> {
    let began = Instant::now();
    let totals = Mutex::new([0; 5]);
    let failures = on_all_cores(count, max_failures, |seed| {
        let plan = Plan::new(first + seed);
        let outcome = run(plan, false);
        let counts = [
            outcome.deliveries,
            outcome.completed_publishes,
            outcome.faults,
            outcome.transports,
            outcome.time.as_secs() as usize,
        ];
        for (total, count) in totals.lock().unwrap().iter_mut().zip(counts) {
            *total += count;
        }
        outcome.violation.map(|violation| (plan, violation))
    });
    let seconds = began.elapsed().as_secs_f64();
    let totals = totals.into_inner().unwrap();
    let [deliveries, publishes, faults, transports, time] = totals.map(|it| it as u64 / count);
    print_line(&format!(
        "{count} seeds in {seconds:.1} s, each with {deliveries} deliveries, {publishes} \
         publishes, {faults} faults, {transports} transports, in {time} s of virtual time"
    ));
    failures
}

/// Returns the kind of a violation: its text without the numbers, which differ between seeds.
fn kind(violation: &Violation) -> String {
    let letters = violation.0.chars().filter(|c| !c.is_ascii_digit());
    letters.take(60).collect()
}

#[test]
fn every_invariant_holds_in_all_seeds() {
    if let Some(plan) = plan_from_environment() {
        return replay_with_trace(plan);
    }
    let count = number("SEEDS").unwrap_or(SEEDS);
    let max_failures = number("MOST").map(|max| max as usize);
    let failures = run_seeds(
        number("FROM").unwrap_or(0),
        count,
        max_failures.unwrap_or(1000),
    );
    if failures.is_empty() {
        return;
    }
    if max_failures.is_some() {
        let describe = |(plan, it): &(Plan, Violation)| format!("\nseed {}: {}", plan.seed, it.0);
        panic!("{}", failures.iter().map(describe).collect::<String>());
    }
    // Reducing a plan takes seconds, so only the first failure of each kind is reported.
    let mut kinds: BTreeMap<String, Vec<&(Plan, Violation)>> = BTreeMap::new();
    for failure in &failures {
        kinds.entry(kind(&failure.1)).or_default().push(failure);
    }
    let reports = kinds
        .values()
        .map(|failures| format!("{} times: {}", failures.len(), report(failures[0].0)));
    panic!("{}", reports.collect::<Vec<_>>().join("\n"));
}

#[test]
fn same_seed_produces_the_same_bytes() {
    let differ = on_all_cores(20, 1, |seed| {
        let (one, other) = (run(Plan::new(seed), true), run(Plan::new(seed), true));
        let first = one
            .trace
            .iter()
            .zip(&other.trace)
            .find(|(one, other)| one != other);
        (one.hash != other.hash || first.is_some()).then(|| format!("seed {seed}: {first:?}"))
    });
    assert_eq!(differ, Vec::<String>::new());
}
