//! Status of the whole pipeline, with its faults, for operators.
//!
//! ```text
//!   parts ──────► availability, latency, version ───────────┐
//!   groups ─────► members, partitions, lag ─────────────────┤
//!   tables ─────► rows, rejects, alerts, gaps, skipped, … ──┼──► Status ──► faults, each with the action to take
//!   processes ──► readiness, with reasons ──────────────────┤
//!   topology ───► differences to the cluster ───────────────┘
//! ```
//!
//! Each item has an answer, or a reason for which it is unknown, so an unavailable part does not hide the others.
//!
//! - [`collect`]: collects the status within a few seconds · [`Status`]: the answers and the faults

mod collect;
mod groups;
mod log;
mod parts;
mod process;
mod status;

pub use collect::{ProcessAddresses, collect};
pub use groups::{Group, GroupState, HeldBack, TopicLag};
pub use log::Log;
pub use parts::Part;
pub use process::Process;
pub use status::{Answer, Fault, Health, Stage, Status, Table, TopologyState};
