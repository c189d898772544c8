//! F6: see `puka_fuzz::uri`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| puka_fuzz::uri(data));
