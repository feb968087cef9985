//! A bare transactional copy: what a processor does to Kafka, without what it does to a record.

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
use crate::part::Places;
use crate::tape::{self, Taped};

/// What it copies.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BareCopy {
    /// Its consumer group, and its transactional id.
    pub group: String,
    /// What it reads.
    pub from: String,
    /// Transactions write it: fetched as they commit, as processors do.
    pub whole: bool,
    /// The tape of what came out of the pipeline's stage; it is repeated.
    pub tape: String,
    /// How many records had gone into the stage, by partition.
    pub read: BTreeMap<i32, u64>,
    /// Where each topic of the tape goes.
    pub to: Vec<String>,
    /// Most records of a transaction.
    pub batch: usize,
}

/// How long a call of the coordinator may take.
const CALL: Duration = Duration::from_secs(30);
/// How long a transaction gathers at most.
const GATHER: Duration = Duration::from_millis(200);

/// Outputs of one partition, and how many of them are due.
struct Outputs {
    records: Vec<Taped>,
    /// Records that went in on the tape.
    read: u64,
    /// Records that came in here, and outputs that went out.
    seen: u64,
    said: u64,
}

impl Outputs {
    /// What is due after one more record: outputs keep step with inputs, as on the tape.
    fn due(&mut self) -> impl Iterator<Item = &Taped> {
        self.seen += 1;
        let len = self.records.len() as u64;
        let until = (self.seen * len).checked_div(self.read).unwrap_or(0);
        let from = std::mem::replace(&mut self.said, until);
        let records = &self.records;
        (from..until).filter_map(move |at| records.get(usize::try_from(at % len).ok()?))
    }
}

/// Copies until its stdin ends.
pub(crate) fn copy(what: &BareCopy, places: &Places) -> Result<(), BenchError> {
    let mut outputs: BTreeMap<i32, Outputs> = BTreeMap::new();
    for record in tape::read(&places.tapes.join(&what.tape))? {
        let read = what.read.get(&record.partition).copied().unwrap_or_default();
        let outputs = outputs.entry(record.partition).or_insert_with(|| Outputs {
            records: Vec::new(),
            read,
            seen: 0,
            said: 0,
        });
        outputs.records.push(record);
    }
    let producer: BaseProducer<DefaultProducerContext> = places
        .kafka
        .client_config()
        .set("transactional.id", &what.group)
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
    producer.init_transactions(CALL).map_err(BenchError::kafka("preparing for transactions"))?;
    let (bytes, wait) = if what.whole { ("1", "20") } else { ("65536", "10") };
    let consumer: BaseConsumer = places
        .kafka
        .consumer_config(&what.group)
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "earliest")
        .set("isolation.level", "read_committed")
        .set("fetch.min.bytes", bytes)
        .set("fetch.wait.max.ms", wait)
        .set("queued.max.messages.kbytes", "65536")
        .create()
        .map_err(BenchError::kafka("creating a consumer"))?;
    consumer.subscribe(&[&what.from]).map_err(BenchError::kafka("subscribing"))?;
    let stop = Arc::new(AtomicBool::new(false));
    std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            // Whatever it ends with.
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            stop.store(true, Ordering::Release);
        }
    });
    let mut told = false;
    while !stop.load(Ordering::Acquire) {
        if !told && consumer.assignment().is_ok_and(|list| list.count() > 0) {
            told = true;
            println_ready();
        }
        batch(what, &consumer, &producer, &mut outputs)?;
    }
    Ok(())
}

/// Says that it is ready; nobody has to answer.
#[expect(clippy::print_stdout, reason = "the bench listens")]
fn println_ready() {
    println!("ready");
}

/// One transaction, if there is something to read.
fn batch(
    what: &BareCopy,
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
            // A connection that was lost comes back.
            Some(Err(_)) => continue,
            None => break,
        };
        let gathering = match began {
            Some(began) => began,
            None => {
                producer.begin_transaction().map_err(BenchError::kafka("beginning"))?;
                *began.insert(Instant::now())
            }
        };
        next.insert(message.partition(), message.offset() + 1);
        count += 1;
        if let Some(outputs) = outputs.get_mut(&message.partition()) {
            for record in outputs.due() {
                let topic = what.to.get(usize::from(record.topic)).map_or("", String::as_str);
                send(producer, topic, record, message.timestamp().to_millis().unwrap_or_default())?;
            }
        }
        if count >= what.batch || gathering.elapsed() > GATHER {
            break;
        }
    }
    if began.is_none() {
        return Ok(());
    }
    let mut offsets = TopicPartitionList::new();
    for (partition, offset) in next {
        offsets
            .add_partition_offset(&what.from, partition, Offset::Offset(offset))
            .map_err(BenchError::kafka("listing offsets"))?;
    }
    while producer.in_flight_count() > 0 {
        serve(producer);
    }
    let group = consumer
        .group_metadata()
        .ok_or(BenchError::Kafka { what: "asking for the group", source: KafkaError::Canceled })?;
    producer
        .send_offsets_to_transaction(&offsets, &group, CALL)
        .and_then(|()| producer.commit_transaction(CALL))
        .map_err(BenchError::kafka("committing"))
}

fn send(
    producer: &BaseProducer<DefaultProducerContext>,
    topic: &str,
    record: &Taped,
    timestamp: i64,
) -> Result<(), BenchError> {
    let mut outgoing = BaseRecord::<[u8], [u8]>::to(topic)
        .partition(record.partition)
        // When its action was published.
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
    fn outputs_keep_step_with_inputs_and_repeat() {
        let record = |byte| Taped { topic: 0, partition: 0, key: vec![byte], value: None };
        let mut outputs = Outputs { records: vec![record(1), record(2)], read: 4, seen: 0, said: 0 };
        let said: Vec<Vec<u8>> =
            (0..8).map(|_| outputs.due().map(|record| record.key[0]).collect()).collect();
        assert_eq!(said, [vec![], vec![1], vec![], vec![2], vec![], vec![1], vec![], vec![2]]);
    }
}
