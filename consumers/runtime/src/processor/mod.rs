//! Loop of stages from Kafka to Kafka. A stage is a pure synchronous step; the loop does all I/O.
//!
//! ```text
//!   assigned ─► committed offsets ─► changelog to its end ─► first record
//!   batch    ─► decode ─► step ─► outputs, state, progress ─┐
//!                            └──► reject, with its reason ──┴─► one Kafka transaction with the input's offsets
//! ```
//!
//! An output goes to the partition number of its input, so the order within a session is kept from stage to stage. On
//! any uncertainty the loop discards the state of a partition and restores it from the changelog, so memory is never
//! ahead of the committed offsets.
//!
//! - [`Processor`](agentgov_processor::Processor): interface of a stage, in its own crate
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
