//! Parts of the stack that are away, killed or hanging, with the stages as real processes and load on. Needs the native
//! backend: one stack for all tests of this binary, which take turns.
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
