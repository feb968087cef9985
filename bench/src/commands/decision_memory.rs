//! `agentgov-bench decision-memory`: measures the memory of a decision point.

use std::sync::Arc;
use std::time::Duration;

use agentgov::cli::Global;
use agentgov::failure::{Failure, OrExit as _};
use agentgov::print::outln;
use agentgov::progress::Progress;
use agentgov_bench::{Bench, DecisionLoad, DecisionMemory};
use agentgov_service::ExitCode;

use super::decide::create_key;
use super::results::ResultsFolder;
use super::{BenchStack, print_result, product};
use crate::cli;

pub fn decision_memory(args: &cli::DecisionMemory, global: &Global) -> Result<ExitCode, Failure> {
    let product = product(args.env.agentgov.as_deref())?;
    let results = ResultsFolder::prepare(&args.env.results)?;
    let progress = Arc::new(Progress::new(global.json));
    let bench_stack = BenchStack::start(args.env.data.as_ref(), global, &progress)?;
    let setup = bench_stack.setup(&product, args.env.seed)?;
    let mut bench = Bench::new(&setup).or_exit(ExitCode::Failed)?;
    let file = |name: &str| bench_stack.stack.env.logs().join(name);
    let (key, spool) = (file("pdp.jwk"), file("pdp-spool"));
    create_key(&bench_stack.stack, "pdp", &key)?;
    let step = progress.counted(format!("{} sessions", args.sessions), args.seconds);
    let load = DecisionLoad {
        sessions: args.sessions.get(),
        length: Duration::from_secs(args.seconds),
        rate: args.rate.get().into(),
    };
    let memory = bench
        .decision_memory(load, (&key, &spool), &|sample| step.at(sample.seconds as u64, args.seconds))
        .or_exit(ExitCode::Failed)?;
    step.done("");
    drop(bench);
    bench_stack.stack.env.stop().or_report(ExitCode::Failed)?;
    if let Some(results) = results {
        results.write("decision-memory", "decision-memory", args, &memory)?;
    }
    print_result(&memory, global, print_report)
}

fn print_report(memory: &DecisionMemory) {
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    outln!(
        "{} sessions of {} events; evaluator {:.0} MB; decision point ready after {:.1} s with {:.0} MB, at most {:.0} MB before",
        memory.sessions,
        memory.events,
        megabytes(memory.evaluator_resident),
        memory.ready_seconds,
        megabytes(memory.ready_resident),
        megabytes(memory.ready_peak)
    );
    outln!("{:>8} {:>10} {:>12}", "minute", "answered", "MB");
    let mut next = 0.0;
    for sample in &memory.samples {
        let minute = sample.seconds / 60.0;
        if minute >= next {
            outln!("{:>8.1} {:>10} {:>12.0}", minute, sample.answered, megabytes(sample.resident));
            next += 1.0;
        }
    }
    outln!("at most {:.0} MB", megabytes(memory.peak));
    if let Some(last) = memory.samples.last() {
        outln!("answers that did not know the session: {} of {}", last.unknown, last.answered);
    }
}
