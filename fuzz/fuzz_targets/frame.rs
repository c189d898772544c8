//! Runs `puka_fuzz::frame`.

#![no_main]

mod bounded;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bounded::bytes(data, puka_fuzz::frame));
