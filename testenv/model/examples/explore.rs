//! Prints the figures of docs/reliability.md: the number of states of each model, and the shortest path to a wrong
//! state for each of its flaws. `cargo run -p agentgov-model --example explore`; with `wide`, the wider bounds instead.
#![allow(clippy::print_stdout, reason = "it is what this program is for")]

use std::fmt::Debug;
use std::time::Instant;

use agentgov_model::{Exploration, explore, find_counterexample, processor, sink};

fn main() {
    if std::env::args().nth(1).as_deref() == Some("wide") {
        for bounds in sink::Bounds::WIDE {
            print("sink", bounds, || explore(sink::Sink { bounds, flaw: None }));
        }
        for bounds in processor::Bounds::WIDE {
            print("processor", bounds, || explore(processor::Processor { bounds, flaw: None }));
        }
        return;
    }
    let bounds = sink::Bounds::TEST;
    print("sink", bounds, || explore(sink::Sink { bounds, flaw: None }));
    for flaw in sink::Flaw::HARMFUL {
        print("sink", flaw, || find_counterexample(sink::Sink { bounds, flaw: Some(flaw) }));
    }
    let retention = sink::Bounds::RETENTION;
    print("sink", retention, || explore(sink::Sink { bounds: retention, flaw: None }));
    for flaw in sink::Flaw::HARMFUL_WITH_RETENTION {
        print("sink", flaw, || find_counterexample(sink::Sink { bounds: retention, flaw: Some(flaw) }));
    }
    let flaw = sink::Flaw::NoMembershipProof;
    print("sink", flaw, || explore(sink::Sink { bounds, flaw: Some(flaw) }));
    let bounds = processor::Bounds::TEST;
    print("processor", bounds, || explore(processor::Processor { bounds, flaw: None }));
    for flaw in processor::Flaw::HARMFUL {
        print("processor", flaw, || find_counterexample(processor::Processor { bounds, flaw: Some(flaw) }));
    }
}

fn print(model: &str, of: impl Debug, run: impl FnOnce() -> Exploration) {
    let began = Instant::now();
    let exploration = run();
    println!("{model}, {of:?}: {:.1?}, {exploration}", began.elapsed());
}
