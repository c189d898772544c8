//! F4: see `puka_fuzz::table`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| puka_fuzz::table(data));
