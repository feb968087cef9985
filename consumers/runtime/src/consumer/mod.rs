//! What the consumers of both loops share: one configuration, one classification of errors, one rebalance listener, one probe of
//! the broker after trouble.

mod config;
mod errors;
mod outage;
mod rebalance;

pub(crate) use config::member_config;
pub(crate) use errors::{is_connection_lost, is_offset_gone, is_topic_gone};
pub(crate) use outage::OutageProbe;
pub use rebalance::TopicPartition;
pub(crate) use rebalance::{Rebalance, RebalanceListener};
