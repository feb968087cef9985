//! Bare processes that move the bytes that the pipeline moves, and do nothing else: what the machine can do.

pub mod copy;
pub mod insert;
pub mod publish;

use std::time::Duration;

use rdkafka::producer::{BaseProducer, DefaultProducerContext};

/// As the pipeline's producers wait: a poll with a timeout would keep a core busy.
fn serve(producer: &BaseProducer<DefaultProducerContext>) {
    producer.poll(Duration::ZERO);
    std::thread::sleep(Duration::from_millis(1));
}
