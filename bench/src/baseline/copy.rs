//! A bare transactional copy: the Kafka traffic of a processor without its work on the records.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};

use super::serve;
use crate::BenchError;
use crate::recording::{self, RecordingEntry};
use crate::worker::WorkerContext;

/// Task of a copying worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BareCopy {
    /// Consumer group and transactional id.
    pub group: String,
    /// Topic to read.
    pub from: String,
    /// True if transactions write the input topic: it is then fetched as soon as they commit, as processors do.
    pub transactional: bool,
    /// Recording of the stage's outputs; it is repeated.
    pub recording: String,
    /// Number of records that the recorded stage had read, by partition.
    pub inputs: BTreeMap<i32, u64>,
    /// Target topic of each topic of the recording.
    pub to: Vec<String>,
    /// Maximum number of records in a transaction.
    pub batch: usize,
}

/// Timeout of a coordinator call.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum duration of gathering records for a transaction.
const MAX_GATHERING: Duration = Duration::from_millis(200);

/// Recorded outputs of one partition, and the number already sent.
struct Outputs {
    records: Vec<RecordingEntry>,
    /// Inputs that produced the recorded outputs.
    inputs: u64,
    /// Inputs read so far.
    seen: u64,
    sent: u64,
}

impl Outputs {
    /// Returns the outputs that become due with one more input, in the recorded ratio of outputs to inputs.
    fn next_due(&mut self) -> impl Iterator<Item = &RecordingEntry> {
        self.seen += 1;
        let len = self.records.len() as u64;
        let until = (self.seen * len).checked_div(self.inputs).unwrap_or(0);
        let from = std::mem::replace(&mut self.sent, until);
        let records = &self.records;
        (from..until).filter_map(move |at| records.get(usize::try_from(at % len).ok()?))
    }
}

/// Copies until stdin is closed.
pub(crate) fn copy(task: &BareCopy, context: &WorkerContext) -> Result<(), BenchError> {
    let mut outputs: BTreeMap<i32, Outputs> = BTreeMap::new();
    for record in recording::read(&context.recordings.join(&task.recording))? {
        let inputs = task.inputs.get(&record.partition).copied().unwrap_or_default();
        let outputs = outputs.entry(record.partition).or_insert_with(|| Outputs {
            records: Vec::new(),
            inputs,
            seen: 0,
            sent: 0,
        });
        outputs.records.push(record);
    }
    let producer: BaseProducer<DefaultProducerContext> = context
        .kafka
        .client_config()
        .set("transactional.id", &task.group)
        .set("compression.type", "zstd")
        .set("delivery.report.only.error", "true")
        .set("linger.ms", "1")
        .set("batch.num.messages", "100000")
        .set("batch.size", "1000000")
        .set("message.max.bytes", "16777216")
        .set("queue.buffering.max.messages", "500000")
        .set("queue.buffering.max.kbytes", "262144")
        .create_with_context(DefaultProducerContext)
        .map_err(BenchError::kafka("creating a producer"))?;
    producer.init_transactions(CALL_TIMEOUT).map_err(BenchError::kafka("initialising transactions"))?;
    let (bytes, wait) = if task.transactional { ("1", "20") } else { ("65536", "10") };
    let consumer: BaseConsumer = context
        .kafka
        .consumer_config(&task.group)
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "earliest")
        .set("isolation.level", "read_committed")
        .set("fetch.min.bytes", bytes)
        .set("fetch.wait.max.ms", wait)
        .set("queued.max.messages.kbytes", "65536")
        .create()
        .map_err(BenchError::kafka("creating a consumer"))?;
    consumer.subscribe(&[&task.from]).map_err(BenchError::kafka("subscribing"))?;
    let stop = Arc::new(AtomicBool::new(false));
    std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            // Both the end of stdin and an error stop the copy.
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            stop.store(true, Ordering::Release);
        }
    });
    let mut is_assigned = false;
    while !stop.load(Ordering::Acquire) {
        if !is_assigned && consumer.assignment().is_ok_and(|list| list.count() > 0) {
            is_assigned = true;
            print_ready();
        }
        copy_batch(task, &consumer, &producer, &mut outputs)?;
    }
    Ok(())
}

/// Prints `ready`; no answer is expected.
#[expect(clippy::print_stdout, reason = "the benchmark reads it")]
fn print_ready() {
    println!("ready");
}

/// Runs one transaction, if there is input.
fn copy_batch(
    task: &BareCopy,
    consumer: &BaseConsumer,
    producer: &BaseProducer<DefaultProducerContext>,
    outputs: &mut BTreeMap<i32, Outputs>,
) -> Result<(), BenchError> {
    let mut next: BTreeMap<i32, i64> = BTreeMap::new();
    let mut began: Option<Instant> = None;
    let mut count = 0;
    loop {
        let wait = if began.is_none() { Duration::from_millis(50) } else { Duration::ZERO };
        let message = match consumer.poll(wait) {
            Some(Ok(message)) => message,
            Some(Err(error @ KafkaError::MessageConsumptionFatal(_))) => {
                return Err(BenchError::kafka("reading")(error));
            }
            // librdkafka reconnects after transient errors.
            Some(Err(_)) => continue,
            None => break,
        };
        let gathering = match began {
            Some(began) => began,
            None => {
                producer.begin_transaction().map_err(BenchError::kafka("beginning a transaction"))?;
                *began.insert(Instant::now())
            }
        };
        next.insert(message.partition(), message.offset() + 1);
        count += 1;
        if let Some(outputs) = outputs.get_mut(&message.partition()) {
            for record in outputs.next_due() {
                let topic = task.to.get(usize::from(record.topic)).map_or("", String::as_str);
                send(producer, topic, record, message.timestamp().to_millis().unwrap_or_default())?;
            }
        }
        if count >= task.batch || gathering.elapsed() > MAX_GATHERING {
            break;
        }
    }
    if began.is_none() {
        return Ok(());
    }
    let mut offsets = TopicPartitionList::new();
    for (partition, offset) in next {
        offsets
            .add_partition_offset(&task.from, partition, Offset::Offset(offset))
            .map_err(BenchError::kafka("listing offsets"))?;
    }
    while producer.in_flight_count() > 0 {
        serve(producer);
    }
    let group = consumer
        .group_metadata()
        .ok_or(BenchError::Kafka { what: "reading the group metadata", source: KafkaError::Canceled })?;
    producer
        .send_offsets_to_transaction(&offsets, &group, CALL_TIMEOUT)
        .and_then(|()| producer.commit_transaction(CALL_TIMEOUT))
        .map_err(BenchError::kafka("committing"))
}

fn send(
    producer: &BaseProducer<DefaultProducerContext>,
    topic: &str,
    record: &RecordingEntry,
    timestamp: i64,
) -> Result<(), BenchError> {
    let mut outgoing = BaseRecord::<[u8], [u8]>::to(topic)
        .partition(record.partition)
        // Timestamp of the action's publication.
        .timestamp(timestamp)
        .key(&record.key);
    if let Some(value) = &record.value {
        outgoing = outgoing.payload(value);
    }
    while let Err((error, back)) = producer.send(outgoing) {
        match error {
            KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) => {
                outgoing = back;
                serve(producer);
            }
            error => return Err(BenchError::kafka("copying")(error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_follow_inputs_in_the_recorded_ratio_and_repeat() {
        let record = |byte| RecordingEntry { topic: 0, partition: 0, key: vec![byte], value: None };
        let mut outputs = Outputs { records: vec![record(1), record(2)], inputs: 4, seen: 0, sent: 0 };
        let sent: Vec<Vec<u8>> =
            (0..8).map(|_| outputs.next_due().map(|record| record.key[0]).collect()).collect();
        assert_eq!(sent, [vec![], vec![1], vec![], vec![2], vec![], vec![1], vec![], vec![2]]);
    }
}
