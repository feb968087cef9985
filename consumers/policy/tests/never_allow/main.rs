//! Checks that an error never allows a call: no change of the arguments of a denied call allows it, and no change of a result that
//! makes a later call denied allows that call.
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
