//! Pseudo-random numbers from a seed: `SplitMix64`.

use std::ops::Range;
use std::time::Duration;

/// A pseudo-random number generator.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns any number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Returns a duration within the range. For an empty range this is its start, and no number is
    /// consumed.
    pub(crate) fn within(&mut self, range: &Range<Duration>) -> Duration {
        let span = range.end.saturating_sub(range.start).as_nanos();
        if span == 0 {
            return range.start;
        }
        let nanos = u128::from(self.next()) % span;
        range.start.saturating_add(Duration::from_nanos(
            u64::try_from(nanos).unwrap_or(u64::MAX),
        ))
    }

    /// Returns a name like those that RabbitMQ generates: a prefix and 22 letters and digits.
    pub(crate) fn name(&mut self, prefix: &str) -> String {
        const LETTERS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut name = String::from(prefix);
        for _ in 0..22 {
            let index = usize::try_from(self.next() % 64).unwrap_or(0);
            name.push(char::from(LETTERS[index]));
        }
        name
    }
}
