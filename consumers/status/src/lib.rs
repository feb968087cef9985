//! The whole pipeline at a glance, for who has to say what is wrong with it.
//!
//! ```text
//!   parts ──────► do they answer, how fast, which version ──┐
//!   groups ─────► members, partitions, lag ─────────────────┤
//!   tables ─────► rows, rejects, alerts, gaps, skipped, … ──┼──► Status ──► wrong: what someone must see to
//!   processes ──► ready, or why not ────────────────────────┤
//!   topology ───► as the cluster is? (the caller compares) ─┘
//! ```
//!
//! Every question has its own answer or its own reason why there is none: a part that is away is said so in its place.
//!
//! - [`collect`]: asks everything, a few seconds at most · [`Status`]: the answers, and what is wrong

mod collect;
mod groups;
mod log;
mod parts;
mod process;
mod status;

pub use collect::{CompareTopology, collect};
pub use groups::{Group, GroupState, HeldBack, TopicLag};
pub use log::Log;
pub use parts::Part;
pub use process::Process;
pub use status::{Answer, Fault, Health, Stage, Status, Table, TopologyState};
