//! `agentgov bench …`: try it hard, and measure.

mod faults;
mod instructions;
mod pipeline;

use agentgov_runtime::ExitCode;

use crate::cli::{BenchCommand, Global};
use crate::failure::Failure;

/// This executable, even if its file has been built anew since it was started.
const OURSELVES: &str = "/proc/self/exe";

pub fn bench(command: &BenchCommand, global: &Global) -> Result<ExitCode, Failure> {
    match command {
        BenchCommand::Faults(args) => faults::faults(args, global),
        BenchCommand::Pipeline(args) => pipeline::pipeline(args, global),
        BenchCommand::Instructions(args) => instructions::instructions(args, global),
        BenchCommand::Step(args) => instructions::step(args, global),
        BenchCommand::Part(args) => pipeline::part(args, global),
    }
}
