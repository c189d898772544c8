//! The latencies as an SVG chart.

use crate::meter::{Latencies, buckets};
use std::fmt::Write;

const WIDTH: usize = 720;
const HEIGHT: usize = 320;
const MARGIN: usize = 48;

/// Returns a chart with a bar for each power of two, and the quantiles above.
pub(crate) fn svg(latencies: &Latencies) -> String {
    let buckets = buckets(latencies);
    let most = buckets
        .iter()
        .map(|(_, count)| *count)
        .max()
        .unwrap_or(0)
        .max(1);
    let step = (WIDTH - 2 * MARGIN) / buckets.len().max(1);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let milliseconds = |quantile| latencies.value_at_quantile(quantile) as f64 / 1000.0;
    let _ = writeln!(
        text,
        "<text x=\"{MARGIN}\" y=\"24\" font-size=\"14\">from publish to delivery: {} messages, p50 \
         {:.2} ms, p95 {:.2} ms, p99 {:.2} ms</text>",
        latencies.len(),
        milliseconds(0.5),
        milliseconds(0.95),
        milliseconds(0.99),
    );
    for (place, (up_to, count)) in buckets.iter().enumerate() {
        let room = HEIGHT - 2 * MARGIN;
        let height = (*count as usize * room).div_ceil(most as usize);
        let (x, y) = (MARGIN + place * step, HEIGHT - MARGIN - height);
        let _ = writeln!(
            text,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{height}\" fill=\"#3b6ea5\"/>\n\
             <text x=\"{x}\" y=\"{}\">{}</text>",
            step.saturating_sub(4).max(1),
            HEIGHT - MARGIN + 16,
            *up_to as f64 / 1000.0,
        );
    }
    let _ = writeln!(
        text,
        "<text x=\"{MARGIN}\" y=\"{}\">latency up to (ms)</text>\n</svg>",
        HEIGHT - 12
    );
    text
}
