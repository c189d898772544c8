//! Bounds the allocations of a target. An allocation above the bound on live memory fails, which
//! ends the target. The bound on the total also finds code that allocates and frees repeatedly, so
//! the work is proportional to the input.

use cap::Cap;
use std::alloc::System;
use std::panic;
use std::sync::Once;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Runs a target whose input is the bytes of a peer.
#[allow(dead_code, reason = "not every target uses it")]
pub fn bytes(data: &[u8], body: fn(&[u8])) {
    bounded(
        data,
        body,
        MIB + 64 * data.len(),
        Some(4 * MIB + 4 * KIB * data.len()),
    );
}

/// Runs a target whose input is a series of choices, with small limits in its options.
#[allow(dead_code, reason = "not every target uses it")]
pub fn choices(data: &[u8], body: fn(&[u8])) {
    bounded(data, body, 6 * MIB, None);
}

/// Removes the bound before a panic is reported. Otherwise a backtrace that runs out of memory
/// would deadlock.
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
    ALLOCATOR
        .set_limit(before + most)
        .expect("the limit is above the allocated size");
    body(data);
    ALLOCATOR
        .set_limit(usize::MAX)
        .expect("the limit is above the allocated size");
    let total = ALLOCATOR.total_allocated() - total;
    assert!(
        in_all.is_none_or(|most| total <= most),
        "allocated {total} bytes for {} bytes of input",
        data.len()
    );
}
