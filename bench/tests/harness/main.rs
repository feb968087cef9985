//! The fault harness finds what it is made to find, and the product's stages react to what it does to them.
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
