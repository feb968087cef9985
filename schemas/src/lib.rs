//! Types that producers and consumers share. No I/O, no clock, no thread.
//!
//! - [`event`], [`verdict`], [`basis`], [`alert`], [`reject`], [`state`], [`governance`]: records, one module for each
//!   schema family, borrowed from the bytes that they are decoded from
//! - [`readiness`]: reasons for which a stage is not ready
//! - [`definition`]: digests of tools' definitions, over RFC 8785 JSON
//! - [`catalogue`]: event types, and which of them are judged
//! - [`subject`]: schemas by subject, with all versions; [`record`]: the Rust type of each subject
//! - [`wire`]: Confluent wire format, Avro encoding and decoding
//! - [`topology`]: typed `topology.yaml`
//! - [`yaml`]: YAML parser that reports every mistake with its location
//! - [`bounds`]: limits on depth and length of input, and the stack size for them
//! - [`escape`]: escaping of untrusted text for display
//! - [`vocabulary`]: enums of names that records carry as strings; unknown names are kept
//! - [`key`], [`digest`], [`timestamp`]: small types that the other modules use

pub mod alert;
pub mod basis;
pub mod bounds;
pub mod catalogue;
mod clocks;
mod configuration;
mod datum_error;
pub mod definition;
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

pub use configuration::is_configuration;
pub use digest::Digest;
pub use key::SessionKey;
pub use readiness::NotReadyReason;
pub use record::{Record, RecordEncoder};
pub use timestamp::{Micros, Millis};
pub use vocabulary::{OpenEnum, Vocabulary};
