//! When a record was appended.

use agentgov_schemas::Millis;
use rdkafka::message::Message;

/// What is wrong with a record without a timestamp.
pub const NO_TIMESTAMP: &str = "expected the time at which the broker appended the record, found none; set message.timestamp.type=LogAppendTime \
                                on the topic";

/// Returns when the broker appended a record. `None` if it has no timestamp: its topic does not have
/// `message.timestamp.type=LogAppendTime`, and its producer gave none.
pub fn logged_at(message: &impl Message) -> Option<Millis> {
    message.timestamp().to_millis().map(Millis)
}
