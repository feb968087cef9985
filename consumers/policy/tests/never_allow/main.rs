//! An error is never an allow: no change of the arguments of a denied call makes it allowed, and no change of a result that makes a
//! later call denied leaves that call allowed.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail loudly"
)]

mod arguments;
mod change;
mod fixture;
mod results;
#[path = "../support/mod.rs"]
mod support;
