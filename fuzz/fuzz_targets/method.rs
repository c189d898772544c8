//! F2: see `puka_fuzz::method`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| puka_fuzz::method(data));
