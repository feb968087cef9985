//! Tests that a processor replaces a fenced producer and continues.

use std::time::Duration;

use rdkafka::producer::{BaseProducer, Producer as _};

use crate::load::Load;
use crate::stack::{eventually, stack};
use crate::stage::{Stage, all_ready, start_stages, terminate};

/// Returns the transactional ids of a stage, in order.
fn ids(stage: &Stage) -> Vec<String> {
    let log = stage.log();
    let ids = log.split("transactional_id=").skip(1);
    ids.map(|rest| rest.split_whitespace().next().unwrap().trim_matches('"').to_owned()).collect()
}

#[test]
fn lost_producer_is_replaced() {
    let Some(stack) = stack() else { return };
    let load = Load::start(&stack);
    let stages = start_stages(&stack);
    all_ready("at the start", &stages);
    let processors = || stages.iter().filter(|stage| stage.name != "log-sink");
    for round in 1..=2 {
        for stage in processors() {
            assert_eq!(ids(stage).len(), round, "{}", stage.log());
            // A producer with the same id fences the previous one, which is fatal for librdkafka.
            let second_producer: BaseProducer = stack
                .endpoints
                .kafka
                .client_config()
                .set("transactional.id", ids(stage).last().unwrap())
                .create()
                .unwrap();
            second_producer.init_transactions(Duration::from_secs(30)).unwrap();
        }
        for stage in processors() {
            eventually("the stage takes another producer", || ids(stage).len() > round);
        }
        all_ready("with another producer", &stages);
        load.wait_for_sessions(10);
    }
    load.stop();
    stack.wait_for_complete_log(&stages);
    terminate("afterwards", stages);
}
