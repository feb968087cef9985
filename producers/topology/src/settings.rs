//! What each topic's settings should be, in Kafka's words, and which way each may be moved.

use agentgov_schemas::topology::{Cleanup, Topic};

/// Which changes of a setting lose nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moves {
    /// Any.
    Freely,
    /// Upwards only; -1 is above all.
    Up,
    /// None: decided when the topic is created.
    Never,
}

/// A setting of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) name: &'static str,
    pub(crate) value: String,
    pub(crate) moves: Moves,
}

/// Every setting that the topology decides. What is not among them is the operator's, and left as it is.
pub(crate) fn settings_of(topic: &Topic) -> Vec<Setting> {
    let set = |name, value: &str, moves| Setting { name, value: value.to_owned(), moves };
    let cleanup = match topic.cleanup {
        Cleanup::Delete => "delete",
        Cleanup::Compact => "compact",
    };
    let mut settings = vec![
        set("cleanup.policy", cleanup, Moves::Never),
        set("max.message.bytes", &topic.max_message_bytes.value.to_string(), Moves::Up),
        // logged_at is the broker's word, whatever a producer claims.
        set("message.timestamp.type", "LogAppendTime", Moves::Freely),
        set("retention.ms", &topic.retention.value.to_kafka(), Moves::Up),
    ];
    if topic.cleanup == Cleanup::Compact {
        // A changelog is read to its end before a stage's first record: how long that takes is what compaction leaves,
        // and it leaves the active segment alone. Hence small segments, closed hourly, cleaned at a tenth of dirt.
        settings.push(set("min.cleanable.dirty.ratio", "0.1", Moves::Freely));
        settings.push(set("segment.bytes", "67108864", Moves::Freely));
        settings.push(set("segment.ms", "3600000", Moves::Freely));
    }
    if let Some(replicas) = topic.replication {
        // One replica may be away; every acknowledged record is on all others.
        settings.push(set("min.insync.replicas", &(replicas - 1).max(1).to_string(), Moves::Up));
    }
    settings.sort_by_key(|setting| setting.name);
    settings
}
