//! Counts what a target allocates. An input that has more at once than its bound has no more, which ends the target; one that
//! allocates again and again what it has freed fails, too, so what is done is proportional to what came.

use cap::Cap;
use std::alloc::System;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// For targets whose input is the octets of a peer.
#[allow(dead_code, reason = "each target is a program of its own")]
pub fn octets(data: &[u8], body: fn(&[u8])) {
    bounded(data, body, MIB + 64 * data.len(), Some(4 * MIB + 4 * KIB * data.len()));
}

/// For targets whose input is a series of choices, under options with small bounds.
#[allow(dead_code, reason = "each target is a program of its own")]
pub fn choices(data: &[u8], body: fn(&[u8])) {
    bounded(data, body, 6 * MIB, None);
}

fn bounded(data: &[u8], body: fn(&[u8]), most: usize, in_all: Option<usize>) {
    let (before, total) = (ALLOCATOR.allocated(), ALLOCATOR.total_allocated());
    ALLOCATOR.set_limit(before + most).expect("it is above what there is");
    body(data);
    ALLOCATOR.set_limit(usize::MAX).expect("it is above what there is");
    let total = ALLOCATOR.total_allocated() - total;
    assert!(in_all.is_none_or(|most| total <= most), "{total} octets for {} of input", data.len());
}
