//! End-to-end tests on a real stack. All tests share a broker, a registry, a ClickHouse engine and one set of stages, and
//! are separated by tenant. Asynchronous results are awaited by condition, with a deadline.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test says what it expects by failing loudly"
)]

mod actions;
mod checks;
mod headers;
mod held_back;
mod stack;

mod approvals;
mod asking;
mod bad_input;
mod bundles;
mod completeness;
mod decide;
mod decisions;
mod demo;
mod desk;
mod failpoints;
mod gateway;
mod gone;
mod hooks;
mod json;
mod keys;
mod log_sink;
mod no_stack;
mod queries;
mod reject_share;
mod rerun;
mod restart;
mod session_show;
mod status;
mod suspension;
mod tools;
