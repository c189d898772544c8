//! F3: see `puka_fuzz::properties`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| puka_fuzz::properties(data));
