//! The interface between a stage from Kafka to Kafka and the loop that runs it (`agentgov_runtime::processor`). No Kafka here:
//! a stage is a synchronous pure step over records, and the loop does all I/O.
//!
//! - [`Processor`]: functions that a stage implements
//! - [`Outputs`]: buffer for the records that a step emits, and for changelog entries
//! - [`Reject`]: reason for which a record cannot be processed

mod outputs;
mod processor;

pub use outputs::{Outgoing, OutputError, OutputMark, Outputs};
pub use processor::{Processor, Reject, RestoreError, RestoreValue, TableRecord};
