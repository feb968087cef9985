#![no_main]

#[path = "../src/registry_file.rs"]
mod registry_file;

libfuzzer_sys::fuzz_target!(|data: &[u8]| registry_file::check(data));
