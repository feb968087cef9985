#![no_main]

#[path = "../src/topology.rs"]
mod topology;

libfuzzer_sys::fuzz_target!(|data: &[u8]| topology::check(data));
