//! Both protocols hold in every interleaving up to the bounds, and none of their steps can be left out.
#![allow(missing_docs, reason = "tests")]

use agentgov_model::processor::{self, Processor};
use agentgov_model::sink::{self, Sink};
use agentgov_model::{Explored, explore, find};

fn holds(explored: &Explored) {
    assert!(explored.broken.is_empty() && explored.never.is_empty(), "{explored}");
}

fn breaks(flaw: impl std::fmt::Debug, found: &Explored) {
    assert!(!found.broken.is_empty(), "{flaw:?}: expected a counterexample, found none in {found}");
}

#[test]
fn the_sink_keeps_a_prefix() {
    holds(&explore(Sink { bounds: sink::Bounds::TEST, flaw: None }));
}

#[test]
fn each_step_of_the_sink_is_needed() {
    for flaw in sink::Flaw::HARMFUL {
        breaks(flaw, &find(Sink { bounds: sink::Bounds::TEST, flaw: Some(flaw) }));
    }
}

#[test]
fn the_sink_passes_over_no_record_that_retention_deleted() {
    let bounds = sink::Bounds::RETENTION;
    holds(&explore(Sink { bounds, flaw: None }));
    for flaw in sink::Flaw::OF_PROOFS {
        breaks(flaw, &find(Sink { bounds, flaw: Some(flaw) }));
    }
}

/// Membership keeps processes from taking each other's claims for ever. Nothing is lost or doubled for want of it.
#[test]
fn membership_is_not_what_keeps_the_table_right() {
    holds(&explore(Sink { bounds: sink::Bounds::TEST, flaw: Some(sink::Flaw::NoProof) }));
}

#[test]
fn a_processor_steps_each_input_once_from_the_right_state() {
    holds(&explore(Processor { bounds: processor::Bounds::TEST, flaw: None }));
}

#[test]
fn each_step_of_a_processor_is_needed() {
    for flaw in processor::Flaw::HARMFUL {
        breaks(flaw, &find(Processor { bounds: processor::Bounds::TEST, flaw: Some(flaw) }));
    }
}
