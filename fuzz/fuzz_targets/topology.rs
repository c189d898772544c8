//! Runs `puka_fuzz::topology`.

#![no_main]

mod bounded;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bounded::choices(data, puka_fuzz::topology));
