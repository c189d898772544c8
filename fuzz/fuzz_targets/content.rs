//! Runs `puka_fuzz::content`.

#![no_main]

mod bounded;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bounded::choices(data, puka_fuzz::content));
