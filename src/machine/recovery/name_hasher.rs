//! A fast hash for exchange names.

use std::hash::Hasher;

/// Hashes the name of an exchange. The names come from the program itself, so no attacker chooses
/// them to collide, and a fast hash is enough.
#[derive(Debug, Default)]
pub(crate) struct NameHasher(u64);

impl Hasher for NameHasher {
    fn write(&mut self, bytes: &[u8]) {
        let (chunks, rest) = bytes.as_chunks();
        for chunk in chunks {
            self.write_u64(u64::from_ne_bytes(*chunk));
        }
        self.write_u64(
            rest.iter()
                .fold(0, |number, byte| number << 8 | u64::from(*byte)),
        );
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(26) ^ number).wrapping_mul(0xF135_7AEA_2E62_A9C5);
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn finish(&self) -> u64 {
        self.0.rotate_left(26)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::hash::{BuildHasher, BuildHasherDefault};

    #[test]
    #[cfg_attr(miri, ignore = "it takes Miri minutes")]
    fn similar_names_spread_over_a_table() {
        let builder = BuildHasherDefault::<NameHasher>::default();
        let names = (0..1024).map(|number| format!("exchange-{number}"));
        let hashes: Vec<u64> = names
            .map(|name| builder.hash_one(name.as_bytes()))
            .collect();
        assert_eq!(hashes.iter().collect::<BTreeSet<_>>().len(), 1024);
        // A table uses the low bits of a hash as a place. At random, 63 % of the places are used.
        let places: BTreeSet<u64> = hashes.iter().map(|hash| hash % 1024).collect();
        assert!(places.len() > 512, "{}", places.len());
    }
}
