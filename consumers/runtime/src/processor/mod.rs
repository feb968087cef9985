//! The loop of stages from Kafka to Kafka. A stage is a synchronous pure step; the loop does all I/O.
//!
//! ```text
//!   assigned ─► committed offsets ─► changelog to its end ─► first record
//!   batch    ─► decode ─► step ─► outputs, state, progress ─┐
//!                            └──► reject, with its reason ──┴─► one Kafka transaction with the input's offsets
//! ```
//!
//! Output partition = origin partition, so the order within a session holds through every hop. What a partition knows
//! is dropped on every doubt and read again from the changelog: memory is never ahead of what was committed.
//!
//! - [`Processor`](agentgov_processor::Processor): what a stage must give, in a crate of its own
//! - [`run`]: the loop

mod batch;
mod first_record;
mod reject_window;
mod restore;
mod run;
mod stall;
mod stepper;
mod tables;
mod transaction;

pub use run::{Config, run};
