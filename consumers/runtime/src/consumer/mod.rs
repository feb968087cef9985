//! What the consumers of both loops share: one configuration, one classification of errors, one rebalance listener, one probe of
//! the broker after trouble; and the membership under which a processor commits.

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
