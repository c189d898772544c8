//! Counts what a target allocates. An input that has more at once than its bound has no more, which ends the target; one that
//! allocates again and again what it has freed fails, too, so what is done is proportional to what came.

use cap::Cap;
use std::alloc::System;
use std::panic;
use std::sync::Once;

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

/// What reports a panic may have as much as it needs: a backtrace that finds no memory waits for itself.
fn report_unbounded() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            let _ = ALLOCATOR.set_limit(usize::MAX);
            report(panic);
        }));
    });
}

fn bounded(data: &[u8], body: fn(&[u8]), most: usize, in_all: Option<usize>) {
    report_unbounded();
    let (before, total) = (ALLOCATOR.allocated(), ALLOCATOR.total_allocated());
    ALLOCATOR.set_limit(before + most).expect("it is above what there is");
    body(data);
    ALLOCATOR.set_limit(usize::MAX).expect("it is above what there is");
    let total = ALLOCATOR.total_allocated() - total;
    assert!(in_all.is_none_or(|most| total <= most), "{total} octets for {} of input", data.len());
}
