//! Tests of the fault harness: it finds planted mistakes, and stages react to panics.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test says what it expects by failing loudly"
)]

mod panics;
mod planted;
mod stack;
