//! F1: see `puka_fuzz::frame`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| puka_fuzz::frame(data));
