//! The interface between a stage from Kafka to Kafka and the loop that runs it (`agentgov_runtime::processor`). No Kafka here:
//! a stage is a synchronous pure step over records, and the loop does all I/O.
//!
//! - [`Processor`]: the functions that a stage implements
//! - [`Outputs`]: the records that its step emits, and the entries of its changelog
//! - [`Reject`]: why a record cannot be processed

mod outputs;
mod processor;

pub use outputs::{Outgoing, OutputError, OutputMark, Outputs};
pub use processor::{Processor, Reject, RestoreError, RestoreValue, TableRecord};
