//! Counts messages and records their latencies.

use hdrhistogram::{CreationError, Histogram};
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Latencies in microseconds.
pub(crate) type Latencies = Histogram<u64>;

pub(crate) struct Meter {
    start: Instant,
    sent: AtomicU64,
    confirmed: AtomicU64,
    received: AtomicU64,
    histograms: Mutex<Histograms>,
}

struct Histograms {
    confirms: Latencies,
    deliveries: Latencies,
    /// The latencies since the last report.
    recent: Latencies,
    looked: Instant,
    /// The counts at the last report.
    counts: [u64; 3],
}

/// Returns a histogram of up to an hour, with three significant digits.
fn latencies() -> Result<Latencies, CreationError> {
    Histogram::new_with_bounds(1, 3_600_000_000, 3)
}

/// Formats the usual quantiles.
fn quantiles(histogram: &Latencies) -> String {
    if histogram.is_empty() {
        return "no latency".to_owned();
    }
    let milliseconds = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
    format!(
        "p50 {:.2} ms, p95 {:.2} ms, p99 {:.2} ms, max {:.2} ms",
        milliseconds(0.5),
        milliseconds(0.95),
        milliseconds(0.99),
        histogram.max() as f64 / 1000.0,
    )
}

impl Meter {
    pub(crate) fn new() -> Result<Self, CreationError> {
        let start = Instant::now();
        let histograms = Histograms {
            confirms: latencies()?,
            deliveries: latencies()?,
            recent: latencies()?,
            looked: start,
            counts: [0; 3],
        };
        Ok(Self {
            start,
            sent: AtomicU64::new(0),
            confirmed: AtomicU64::new(0),
            received: AtomicU64::new(0),
            histograms: Mutex::new(histograms),
        })
    }

    fn histograms(&self) -> MutexGuard<'_, Histograms> {
        self.histograms
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the time as stored in a body.
    pub(crate) fn stamp(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_nanos() as u64
    }

    pub(crate) fn sent(&self) {
        self.sent.fetch_add(1, Relaxed);
    }

    pub(crate) fn confirmed(&self, latency: Duration) {
        self.confirmed.fetch_add(1, Relaxed);
        self.histograms()
            .confirms
            .saturating_record(latency.as_micros() as u64);
    }

    pub(crate) fn received(&self, stamp: Option<u64>) {
        self.received.fetch_add(1, Relaxed);
        let Some(stamp) = stamp else { return };
        let latency = self.stamp(Instant::now()).saturating_sub(stamp) / 1000;
        let mut histograms = self.histograms();
        histograms.deliveries.saturating_record(latency);
        histograms.recent.saturating_record(latency);
    }

    fn counts(&self) -> [u64; 3] {
        [&self.sent, &self.confirmed, &self.received].map(|count| count.load(Relaxed))
    }

    /// Formats the counts and latencies since the last report.
    pub(crate) fn progress(&self) -> String {
        let counts = self.counts();
        let mut histograms = self.histograms();
        let now = Instant::now();
        let seconds = now.duration_since(histograms.looked).as_secs_f64();
        let mut text = format!("{:6.1} s", self.start.elapsed().as_secs_f64());
        for ((name, count), before) in ["sent", "confirmed", "received"]
            .iter()
            .zip(counts)
            .zip(histograms.counts)
        {
            let _ = write!(text, "  {name} {:.0}/s", (count - before) as f64 / seconds);
        }
        let _ = write!(text, "  {}", quantiles(&histograms.recent));
        histograms.recent.reset();
        histograms.looked = now;
        histograms.counts = counts;
        text
    }

    /// Formats the counts and latencies of the whole run.
    pub(crate) fn summary(&self) -> String {
        let seconds = self.start.elapsed().as_secs_f64();
        let mut text = String::new();
        for (name, count) in ["sent", "confirmed", "received"].iter().zip(self.counts()) {
            let _ = writeln!(text, "{name}: {count}, {:.0}/s", count as f64 / seconds);
        }
        let histograms = self.histograms();
        let _ = writeln!(
            text,
            "from publish to confirm: {}",
            quantiles(&histograms.confirms)
        );
        let _ = writeln!(
            text,
            "from publish to delivery: {}",
            quantiles(&histograms.deliveries)
        );
        let buckets = buckets(&histograms.deliveries);
        let most = buckets
            .iter()
            .map(|(_, count)| *count)
            .max()
            .unwrap_or(0)
            .max(1);
        for (up_to, count) in buckets {
            let bar = "#".repeat((count * 50).div_ceil(most) as usize);
            let _ = writeln!(text, "{:>12.3} ms {bar} {count}", up_to as f64 / 1000.0);
        }
        text
    }

    pub(crate) fn latencies(&self) -> Latencies {
        self.histograms().deliveries.clone()
    }
}

/// Counts the latencies up to each power of two and above the previous one, from the first
/// non-empty bucket.
pub(crate) fn buckets(latencies: &Latencies) -> Vec<(u64, u64)> {
    if latencies.is_empty() {
        return Vec::new();
    }
    let counts = latencies.iter_log(1, 2.0);
    let buckets = counts.map(|value| {
        (
            value.value_iterated_to() + 1,
            value.count_since_last_iteration(),
        )
    });
    buckets.skip_while(|(_, count)| *count == 0).collect()
}
