//! Assignment and seeking of a consumer's partitions.
//!
//! Offsets are numbers here, never `End` or `Beginning`. librdkafka requests those offsets from the broker. If the response arrives
//! after a seek, librdkafka repeats the request half a second later and moves to the offset of that response
//! (`rd_kafka_toppar_handle_Offset` in librdkafka 2.12; <https://github.com/confluentinc/librdkafka/issues/2256>): records in
//! between are skipped, or delivered again.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::TopicPartitionList;

/// Maximum wait until a consumer has started its partitions, or has moved them. Neither needs a broker.
const SEEK_TIMEOUT: Duration = Duration::from_secs(2);

/// Assigns these partitions and no others, and waits until the consumer has started them. Revoking them before the previous ones
/// have stopped would end the process (<https://github.com/confluentinc/librdkafka/issues/5573>).
pub fn assign<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    partitions: &TopicPartitionList,
) -> KafkaResult<()> {
    consumer.assign(partitions)?;
    let began = Instant::now();
    while !seek(consumer, partitions) && began.elapsed() < SEEK_TIMEOUT {
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Moves partitions to the given offsets. Returns false if the consumer has not started one of them, because it was just assigned
/// or because its topic was deleted.
pub fn seek<C: ConsumerContext>(consumer: &BaseConsumer<C>, partitions: &TopicPartitionList) -> bool {
    if partitions.count() == 0 {
        return true;
    }
    match consumer.seek_partitions(partitions.clone(), SEEK_TIMEOUT) {
        Ok(moved) => moved.elements().iter().all(|moved| moved.error().is_ok()),
        Err(error) => {
            tracing::warn!(%error, "the consumer cannot seek");
            false
        }
    }
}

/// Rounds a poll timeout up to whole milliseconds. rust-rdkafka polls in whole milliseconds, and would poll repeatedly during the
/// remaining fraction.
pub fn ceil_to_millis(wait: Duration) -> Duration {
    Duration::from_millis(u64::try_from(wait.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeout_is_rounded_up_to_milliseconds() {
        for (micros, millis) in [(0, 0), (1, 1), (999, 1), (1_000, 1), (1_001, 2), (70_000, 70)] {
            assert_eq!(ceil_to_millis(Duration::from_micros(micros)), Duration::from_millis(millis));
        }
    }
}
