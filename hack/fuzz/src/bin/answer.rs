#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| sidetrack_fuzz::answered(data));
