//! The printed table.

use crate::runs::Program;
use crate::work::Work;
use puka_benches::{Sample, median};

pub(crate) fn head(programs: &[Program]) {
    let names: String = programs
        .iter()
        .map(|program| format!(" {} |", program.name))
        .collect();
    println!("| work |{names} throughput, of the best other | CPU, of the best other in Rust |");
    println!("| --- |{} --- | --- |", " --- |".repeat(programs.len()));
}

/// Returns the best of the chosen figures, as `best` compares them.
fn best<'a>(
    figures: &[(&'a Program, f64, f64)],
    chosen: fn(&Program) -> bool,
    figure: fn(&(&'a Program, f64, f64)) -> f64,
    best: fn(f64, f64) -> f64,
) -> Option<f64> {
    figures
        .iter()
        .filter(|(program, ..)| chosen(program))
        .map(figure)
        .reduce(best)
}

fn percent(part: Option<f64>, whole: Option<f64>) -> String {
    match (part, whole) {
        (Some(part), Some(whole)) => format!("{:.0} %", part / whole * 100.0),
        _ => String::new(),
    }
}

pub(crate) fn line(work: Work, programs: &[Program], samples: &[Vec<Sample>]) {
    let figures: Vec<_> = programs
        .iter()
        .zip(samples)
        .map(|(program, samples)| {
            let rate = median(samples.iter().map(Sample::rate).collect());
            let cost = median(samples.iter().map(Sample::cost).collect());
            (program, rate, cost)
        })
        .collect();
    let cells: String = figures
        .iter()
        .map(|(_, rate, cost)| format!(" {:.4}, {:.2} |", rate / 1e6, cost / 1e3))
        .collect();
    let rate = |chosen| best(&figures, chosen, |(_, rate, _)| *rate, f64::max);
    let cost = |chosen| best(&figures, chosen, |(_, _, cost)| *cost, f64::min);
    println!(
        "| {work} |{cells} {} | {} |",
        percent(rate(Program::is_puka), rate(|program| !program.is_puka())),
        percent(cost(Program::is_puka), cost(Program::is_other_rust)),
    );
}
