//! End to end, on a real stack: one broker, one registry, one ClickHouse engine and one set of stages for all tests of
//! this binary. Tests keep apart by tenant. What is asynchronous is waited for by its condition, with a deadline.
#![allow(missing_docs, reason = "tests")]

mod actions;
mod checks;
mod stack;

mod bad_input;
mod completeness;
mod demo;
mod log_sink;
mod rerun;
