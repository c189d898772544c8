//! Runs all seeds or one, and reduces a failing one to the smallest part that still fails.

use crate::checker::Violation;
use crate::plan::{Feature, Plan};
use crate::run::run;
use std::collections::BTreeMap;
use std::env;
use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The default number of seeds, without `SEEDS`.
pub(crate) const SEEDS: u64 = 600;

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
        plan = plan.ops(ops as usize);
    }
    let off = env::var("OFF").unwrap_or_default();
    for feature in Feature::ALL {
        if off.split(',').any(|name| name == format!("{feature:?}")) {
            plan = plan.without(*feature);
        }
    }
    Some(plan)
}

/// Removes the parts of a plan that are not needed to fail.
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
        .unwrap_or_else(|| Violation("it fails only sometimes".into()));
    loop {
        let before = (smallest.ops, smallest.features().count());
        let mut step = smallest.ops / 2;
        while step > 0 {
            match fails(smallest.ops(smallest.ops - step)) {
                Some(found) => {
                    smallest = smallest.ops(smallest.ops - step);
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

fn report(plan: Plan) -> String {
    let (smallest, violation) = shrink(plan);
    let has: Vec<_> = smallest.features().collect();
    format!(
        "seed {}: {}\n  replay: {}\n  smallest: {}\n  with {has:?}",
        plan.seed,
        violation.0,
        replay(plan),
        replay(smallest)
    )
}

/// Runs `check` for all numbers up to `count`, on every core, until one returns a value.
pub(crate) fn on_all_cores<T: Send>(
    count: u64,
    most: usize,
    check: impl Fn(u64) -> Option<T> + Sync,
) -> Vec<T> {
    let (next, found) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= count || found.lock().unwrap().len() >= most {
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

#[test]
fn every_invariant_holds_in_all_seeds() {
    if let Some(plan) = plan_from_environment() {
        print_line(&format!(
            "{plan:?} {:?}",
            plan.features().collect::<Vec<_>>()
        ));
        let outcome = run(plan, true);
        outcome
            .trace
            .iter()
            .for_each(|transport| print_line(transport));
        let (deliveries, answered, faults) = (outcome.deliveries, outcome.answered, outcome.faults);
        let (transports, time) = (outcome.transports, outcome.time);
        print_line(&format!(
            "{deliveries} deliveries, {answered} publishes completed, {faults} faults, \
             {transports} transports, {time:?}"
        ));
        if let Some(violation) = outcome.violation {
            panic!("{}\n  replay: {}", violation.0, replay(plan));
        }
        return;
    }
    let count = number("SEEDS").unwrap_or(SEEDS);
    let first = number("FROM").unwrap_or(0);
    let began = Instant::now();
    let totals = Mutex::new([0; 5]);
    let most = number("MOST");
    let failed = on_all_cores(count, most.unwrap_or(1000) as usize, |seed| {
        let plan = Plan::new(first + seed);
        let outcome = run(plan, false);
        let of_it = [
            outcome.deliveries,
            outcome.answered,
            outcome.faults,
            outcome.transports,
            outcome.time.as_secs() as usize,
        ];
        totals
            .lock()
            .unwrap()
            .iter_mut()
            .zip(of_it)
            .for_each(|(total, of_it)| *total += of_it);
        outcome.violation.map(|violation| (plan, violation))
    });
    let seconds = began.elapsed().as_secs_f64();
    let [deliveries, answered, faults, transports, time] = totals
        .into_inner()
        .unwrap()
        .map(|total| total as u64 / count);
    print_line(&format!(
        "{count} seeds in {seconds:.1} s, each with {deliveries} deliveries, {answered} publishes, \
         {faults} faults, {transports} transports, in {time} s of virtual time"
    ));
    if failed.is_empty() {
        return;
    }
    if most.is_some() {
        panic!(
            "{}",
            failed
                .iter()
                .map(|(plan, it)| format!("\nseed {}: {}", plan.seed, it.0))
                .collect::<String>()
        );
    }
    // One of each kind suffices.
    let kind = |violation: &Violation| -> String {
        violation
            .0
            .chars()
            .filter(|character| !character.is_ascii_digit())
            .take(60)
            .collect()
    };
    let mut kinds: BTreeMap<String, Vec<&(Plan, Violation)>> = BTreeMap::new();
    for failure in &failed {
        kinds.entry(kind(&failure.1)).or_default().push(failure);
    }
    let all = kinds
        .values()
        .map(|failures| format!("{} times: {}", failures.len(), report(failures[0].0)));
    panic!("{}", all.collect::<Vec<_>>().join("\n"));
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
