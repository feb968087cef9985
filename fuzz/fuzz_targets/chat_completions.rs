#![no_main]

#[path = "../src/chat_completions.rs"]
mod chat_completions;

libfuzzer_sys::fuzz_target!(|data: &[u8]| chat_completions::check(data));
