//! Append times of records.

use agentgov_schemas::Millis;
use rdkafka::message::Message;

/// Error message for a record without a timestamp.
pub const NO_TIMESTAMP: &str = "expected the time at which the broker appended the record, found none; set message.timestamp.type=LogAppendTime \
                                on the topic";

/// Returns the time at which the broker appended a record. `None` if the record has no timestamp: the topic does not have
/// `message.timestamp.type=LogAppendTime`, and the producer set none.
pub fn logged_at(message: &impl Message) -> Option<Millis> {
    message.timestamp().to_millis().map(Millis)
}
