//! Giving a consumer its partitions, moving them, and waiting for records.
//!
//! Offsets are numbers here, never `End` or `Beginning`. librdkafka asks the broker where those are, and an answer that comes after
//! the partition was moved makes it ask once more half a second later and go where that says (`rd_kafka_toppar_handle_Offset` in
//! librdkafka 2.12; <https://github.com/confluentinc/librdkafka/issues/2256>): records in between are passed over, or come again.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::TopicPartitionList;

/// Longest wait until a consumer has moved, or has started. It asks no broker for that.
const MOVE: Duration = Duration::from_secs(2);

/// Gives the consumer these partitions and no others, and waits until it has started them: to take them away again before those
/// that it had have stopped would end the process (<https://github.com/confluentinc/librdkafka/issues/5573>).
pub fn assign<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    partitions: &TopicPartitionList,
) -> KafkaResult<()> {
    consumer.assign(partitions)?;
    let began = Instant::now();
    while !seek(consumer, partitions) && began.elapsed() < MOVE {
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Moves partitions. `false`: the consumer has not started one of them, as it was just assigned, or as its topic was deleted.
pub fn seek<C: ConsumerContext>(consumer: &BaseConsumer<C>, partitions: &TopicPartitionList) -> bool {
    if partitions.count() == 0 {
        return true;
    }
    match consumer.seek_partitions(partitions.clone(), MOVE) {
        Ok(moved) => moved.elements().iter().all(|moved| moved.error().is_ok()),
        Err(error) => {
            tracing::warn!(%error, "the consumer did not move");
            false
        }
    }
}

/// A wait for records, rounded up: rust-rdkafka asks for whole milliseconds, and then again and again through what is left.
pub fn ceil_to_millis(wait: Duration) -> Duration {
    Duration::from_millis(u64::try_from(wait.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_rounded_up() {
        for (micros, millis) in [(0, 0), (1, 1), (999, 1), (1_000, 1), (1_001, 2), (70_000, 70)] {
            assert_eq!(ceil_to_millis(Duration::from_micros(micros)), Duration::from_millis(millis));
        }
    }
}
