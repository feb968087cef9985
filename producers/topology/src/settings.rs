//! Settings of a topic by Kafka's names, and the changes of each that lose no record.

use agentgov_schemas::topology::{Cleanup, Topic};

/// Changes of a setting that lose no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AllowedChange {
    /// Every change.
    Any,
    /// Only to a larger value; -1 is the largest.
    Increase,
    /// No change: the value is set when the topic is created.
    None,
}

/// A setting of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) name: &'static str,
    pub(crate) value: String,
    pub(crate) allowed: AllowedChange,
}

/// Returns the settings that the topology defines. All other settings of a topic belong to the operator and stay unchanged.
pub(crate) fn settings_of(topic: &Topic) -> Vec<Setting> {
    let set = |name, value: &str, allowed| Setting { name, value: value.to_owned(), allowed };
    let cleanup = match topic.cleanup {
        Cleanup::Delete => "delete",
        Cleanup::Compact => "compact",
    };
    let mut settings = vec![
        set("cleanup.policy", cleanup, AllowedChange::None),
        set("max.message.bytes", &topic.max_message_bytes.value.to_string(), AllowedChange::Increase),
        // `logged_at` is the broker's time, not the producer's.
        set("message.timestamp.type", "LogAppendTime", AllowedChange::Any),
        set("retention.ms", &topic.retention.value.to_kafka(), AllowedChange::Increase),
    ];
    if topic.cleanup == Cleanup::Compact {
        // A stage reads its changelog to the end before its first record. Compaction shortens that, but skips the active
        // segment. So segments are small, close hourly, and are compacted from a tenth of dirty records on.
        settings.push(set("min.cleanable.dirty.ratio", "0.1", AllowedChange::Any));
        settings.push(set("segment.bytes", "67108864", AllowedChange::Any));
        settings.push(set("segment.ms", "3600000", AllowedChange::Any));
    }
    if let Some(replicas) = topic.replication {
        // One replica may be unavailable; all others have every acknowledged record.
        settings.push(set(
            "min.insync.replicas",
            &(replicas - 1).max(1).to_string(),
            AllowedChange::Increase,
        ));
    }
    settings.sort_by_key(|setting| setting.name);
    settings
}
