//! See `corediscover::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| corediscover::fuzz::run("fleet", bytes));
