//! Tests of killed and suspended parts, with the stages as real processes under load. They need the native backend, and
//! share one stack one after another.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test says what it expects by failing loudly"
)]

mod away;
mod fenced;
mod load;
mod reassigned;
mod stack;
mod stage;
