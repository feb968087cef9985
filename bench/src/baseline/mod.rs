//! Baseline: bare processes that move the same bytes as the pipeline and do no other work, to show the limit of the
//! machine.

pub mod copy;
pub mod insert;
pub mod publish;

use std::time::Duration;

use rdkafka::producer::{BaseProducer, DefaultProducerContext};

/// Serves delivery reports. It sleeps as the pipeline's producers do, since a poll with a timeout would occupy a core.
fn serve(producer: &BaseProducer<DefaultProducerContext>) {
    producer.poll(Duration::ZERO);
    std::thread::sleep(Duration::from_millis(1));
}
