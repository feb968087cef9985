//! A processor whose producer is of no more use takes another, and goes on where it stood.

use std::time::Duration;

use rdkafka::producer::{BaseProducer, Producer as _};

use crate::load::Load;
use crate::stack::{eventually, stack};
use crate::stage::{Stage, all_ready, fleet, terminate};

/// The transactional ids that a stage has had, in order.
fn ids(stage: &Stage) -> Vec<String> {
    let told = stage.told();
    let ids = told.split("transactional_id=").skip(1);
    ids.map(|rest| rest.split_whitespace().next().unwrap().trim_matches('"').to_owned()).collect()
}

#[test]
fn a_producer_that_is_lost_is_replaced() {
    let Some(stack) = stack() else { return };
    let load = Load::start(&stack);
    let stages = fleet(&stack);
    all_ready("at the start", &stages);
    let processors = || stages.iter().filter(|stage| stage.name != "log-sink");
    for round in 1..=2 {
        for stage in processors() {
            assert_eq!(ids(stage).len(), round, "{}", stage.told());
            // Whoever takes the same id fences the one who had it: for librdkafka that is fatal.
            let usurper: BaseProducer = stack
                .endpoints
                .kafka
                .client_config()
                .set("transactional.id", ids(stage).last().unwrap())
                .create()
                .unwrap();
            usurper.init_transactions(Duration::from_secs(30)).unwrap();
        }
        for stage in processors() {
            eventually("the stage takes another producer", || ids(stage).len() > round);
        }
        all_ready("with another producer", &stages);
        load.flows(10);
    }
    load.stop();
    stack.is_whole(&stages);
    terminate("afterwards", stages);
}
