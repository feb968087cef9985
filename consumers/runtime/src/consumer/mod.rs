//! Parts shared by the consumers of both loops: configuration, error classification, rebalance listener and outage
//! probe; and the group membership with which a processor commits.

mod config;
mod errors;
mod membership;
mod outage;
mod rebalance;

pub(crate) use config::member_config;
pub(crate) use errors::{is_connection_lost, is_offset_gone, is_topic_gone};
pub(crate) use membership::membership;
pub(crate) use outage::OutageProbe;
pub(crate) use rebalance::Rebalance;
pub use rebalance::{RebalanceListener, TopicPartition};
