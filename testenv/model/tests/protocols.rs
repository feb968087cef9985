//! Both protocols hold in every interleaving within the bounds, and each of their steps is needed.
#![allow(missing_docs, reason = "tests")]

use agentgov_model::processor::{self, Processor};
use agentgov_model::sink::{self, Sink};
use agentgov_model::{Exploration, explore, find_counterexample};

fn assert_holds(exploration: &Exploration) {
    assert!(exploration.violated.is_empty() && exploration.unreached.is_empty(), "{exploration}");
}

fn assert_violated(flaw: impl std::fmt::Debug, found: &Exploration) {
    assert!(!found.violated.is_empty(), "{flaw:?}: expected a counterexample, found none in {found}");
}

#[test]
fn sink_table_is_a_prefix_of_the_topic() {
    assert_holds(&explore(Sink { bounds: sink::Bounds::TEST, flaw: None }));
}

#[test]
fn sink_without_any_one_step_violates_a_property() {
    for flaw in sink::Flaw::HARMFUL {
        assert_violated(flaw, &find_counterexample(Sink { bounds: sink::Bounds::TEST, flaw: Some(flaw) }));
    }
}

#[test]
fn sink_skips_no_record_that_retention_deleted() {
    let bounds = sink::Bounds::RETENTION;
    assert_holds(&explore(Sink { bounds, flaw: None }));
    for flaw in sink::Flaw::HARMFUL_WITH_RETENTION {
        assert_violated(flaw, &find_counterexample(Sink { bounds, flaw: Some(flaw) }));
    }
}

/// Membership prevents processes from replacing each other's claims forever. Without it nothing is lost or doubled.
#[test]
fn sink_without_membership_proof_keeps_the_table_correct() {
    assert_holds(&explore(Sink { bounds: sink::Bounds::TEST, flaw: Some(sink::Flaw::NoMembershipProof) }));
}

#[test]
fn processor_steps_each_input_once_from_the_correct_state() {
    assert_holds(&explore(Processor { bounds: processor::Bounds::TEST, flaw: None }));
}

#[test]
fn processor_without_any_one_step_violates_a_property() {
    for flaw in processor::Flaw::HARMFUL {
        assert_violated(
            flaw,
            &find_counterexample(Processor { bounds: processor::Bounds::TEST, flaw: Some(flaw) }),
        );
    }
}
