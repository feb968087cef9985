//! Follows the evaluator from another process: a copy of its state, to decide about actions before they are recorded.
//!
//! ```text
//!   agent.sessions ─► [changelog] ─► Replica of each partition ◄─ [actions] ◄─ agent.actions, from the replica's progress on
//!   governance.agents, governance.tools, governance.bundles, governance.keys ─► [tables]
//!   ends of all topics, each second ─► [freshness]: how old the copy may be
//!   a partition without events ─► [stalls]: the reader starts again
//! ```
//!
//! The follower reads all partitions, joins no group and commits nothing, so any number of processes may follow. It
//! never reads an inconsistent state: it applies the entries of a transaction together, and uses a partition only once
//! its changelog was read to the end. If it does not know a session, it returns the reason ([`Unavailable`]).

mod actions;
mod changelog;
mod follower;
mod freshness;
mod stalls;
mod state;
mod tables;

pub use follower::{Follower, FollowerConfig, Tables};
pub use state::{After, SessionView, Unavailable};
