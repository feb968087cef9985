//! What the two sides of agentgov agree on, and nothing else: no I/O, no clock, no thread.
//!
//! - [`event`], [`verdict`], [`alert`], [`reject`], [`state`], [`governance`]: the records, one module a schema family,
//!   borrowed from the bytes they are decoded from
//! - [`readiness`]: why a stage is not ready
//! - [`catalogue`]: the types of events, and which of them are judged
//! - [`subject`]: the schemas themselves, by subject, with their versions; [`record`]: which type each has
//! - [`wire`]: the Confluent wire format, and datum encoding and decoding
//! - [`topology`]: the typed `topology.yaml`
//! - [`yaml`]: files that people write, with every mistake at its place
//! - [`bounds`]: how deep and long all of these may be, and the stack for it
//! - [`escape`]: text of others, safe to print
//! - [`vocabulary`]: names that records carry as texts, as enums that keep what they do not know
//! - [`key`], [`digest`], [`timestamp`]: the small types that all of them use

pub mod alert;
pub mod bounds;
pub mod catalogue;
mod clocks;
pub mod digest;
pub mod escape;
pub mod event;
pub mod governance;
pub mod key;
pub mod readiness;
pub mod record;
pub mod reject;
pub mod state;
pub mod subject;
pub mod timestamp;
pub mod topology;
pub mod verdict;
pub mod vocabulary;
pub mod wire;
mod writers;
pub mod yaml;

pub use digest::Digest;
pub use key::SessionKey;
pub use readiness::NotReadyReason;
pub use record::{Record, RecordEncoder};
pub use timestamp::{Micros, Millis};
pub use vocabulary::{OpenEnum, Vocabulary};
