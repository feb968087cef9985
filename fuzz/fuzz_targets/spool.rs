#![no_main]

#[path = "../src/spool.rs"]
mod spool;

libfuzzer_sys::fuzz_target!(|data: &[u8]| spool::check(data));
