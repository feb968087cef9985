//! What an error of a consumer means for its positions.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// True if the topic, or a partition of it, is not there: it was deleted, and may come back as another.
pub(crate) fn is_topic_gone(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition
        )
    )
}

/// True if the topic holds no such offset: retention deleted it, or the topic was created anew.
pub(crate) fn is_offset_gone(error: &KafkaError) -> bool {
    let code = error.rdkafka_error_code();
    matches!(code, Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange))
}

/// True for the errors that broken connections leave in a consumer's queue. Of an outage that is over there is one for each, and
/// to give up at each would make a recovery take minutes.
pub(crate) fn is_connection_lost(error: &KafkaError) -> bool {
    let code = error.rdkafka_error_code();
    matches!(code, Some(RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::AllBrokersDown))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_one_class() {
        use RDKafkaErrorCode as Code;
        let meanings = |code| {
            let error = KafkaError::MessageConsumption(code);
            (is_topic_gone(&error), is_offset_gone(&error), is_connection_lost(&error))
        };
        for (code, expected) in [
            (Code::UnknownTopicOrPartition, (true, false, false)),
            (Code::UnknownTopic, (true, false, false)),
            (Code::UnknownPartition, (true, false, false)),
            (Code::AutoOffsetReset, (false, true, false)),
            (Code::OffsetOutOfRange, (false, true, false)),
            (Code::BrokerTransportFailure, (false, false, true)),
            (Code::AllBrokersDown, (false, false, true)),
            (Code::OperationTimedOut, (false, false, false)),
            (Code::TopicAuthorizationFailed, (false, false, false)),
        ] {
            assert_eq!(meanings(code), expected, "{code:?}");
        }
        assert!(!is_topic_gone(&KafkaError::PartitionEOF(0)));
    }
}
