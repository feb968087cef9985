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
//! - [`Processor`]: what a stage must give
//! - [`Outputs`]: where its step puts what it says
//! - [`run`]: the loop

mod assignment;
mod batch;
mod opening;
mod outputs;
mod restore;
mod run;
mod share;
mod stage;
mod tables;
mod transaction;
mod work;

pub use outputs::{Outgoing, OutputError, Outputs};
pub use run::{Config, run};
pub use stage::{Processor, Reject, RestoreError, RestoreValue, TableRecord};
