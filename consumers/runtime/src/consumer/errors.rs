//! Classification of consumer errors by their effect on positions.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// Returns true if the topic or partition does not exist: it was deleted, and may be created again.
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

/// Returns true if the topic does not hold the offset: retention deleted it, or the topic was created again.
pub(crate) fn is_offset_gone(error: &KafkaError) -> bool {
    let code = error.rdkafka_error_code();
    matches!(code, Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange))
}

/// Returns true for errors of broken connections. After an outage a consumer's queue holds one for each connection; a
/// caller that gave up at each would delay the recovery by minutes.
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
