//! Follows the evaluator from another process: a copy of what it knows, to answer questions before an action is recorded.
//!
//! ```text
//!   agent.sessions ─► [changelog] ─► Replica of each partition ◄─ [actions] ◄─ agent.actions, from the replica's progress on
//!   governance.agents, governance.bundles ─► [tables]
//!   ends of agent.actions and of the tables, each second ─► [freshness]: how old the copy may be
//! ```
//!
//! The follower reads all partitions, joins no group and commits nothing, so any number of processes may follow. It never
//! answers from a torn state: the entries of a transaction are applied together, and a partition counts only once its
//! changelog was read to an end. When it cannot know a session, it says why ([`Unavailable`]).

mod actions;
mod changelog;
mod follower;
mod freshness;
mod state;
mod tables;

pub use follower::{Follower, FollowerConfig, Tables};
pub use state::{After, SessionView, Unavailable};
