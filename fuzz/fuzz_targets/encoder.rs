//! Runs `puka_fuzz::encoder`.

#![no_main]

mod bounded;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bounded::bytes(data, puka_fuzz::encoder));
