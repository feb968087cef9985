//! `agentgov bench …`: try it hard, and measure.

mod faults;
mod instructions;
mod pipeline;
mod sink;

use std::path::PathBuf;
use std::sync::Arc;

use agentgov_bench::Setup;
use agentgov_runtime::ExitCode;
use agentgov_testenv::BackendKind;

use crate::cli::{BenchCommand, Global};
use crate::commands::pipeline::{AGENT, ENVIRONMENT, Stack, TENANT};
use crate::context;
use crate::failure::{Failure, OrExit as _};
use crate::progress::Progress;

/// This executable, even if its file has been built anew since it was started.
const OURSELVES: &str = "/proc/self/exe";

/// A native stack, whose parts' processes can be measured and killed, and what the stages on it are told.
struct Ground {
    stack: Stack,
    /// What follows `run STAGE`.
    stage_args: Vec<String>,
}

impl Ground {
    fn start(data: Option<&PathBuf>, global: &Global, progress: &Arc<Progress>) -> Result<Self, Failure> {
        let topology = context::topology(global)?;
        let stack = Stack::start(topology, data.cloned(), Some(BackendKind::Native), global, progress)?;
        let mut stage_args = Vec::new();
        if let Some(file) = &global.topology {
            stage_args.extend(["--topology".to_owned(), file.display().to_string()]);
        }
        Ok(Self { stack, stage_args })
    }

    /// For the benchmark, with one process of each stage.
    fn setup(&self, seed: u64) -> Result<Setup<'_>, Failure> {
        Ok(Setup {
            env: &self.stack.env,
            endpoints: &self.stack.endpoints,
            topology: &self.stack.topology,
            stage_args: self.stage_args.clone(),
            tenant: TENANT,
            agent: AGENT,
            environment: ENVIRONMENT,
            program: PathBuf::from(OURSELVES),
            tapes: agentgov_bench::tapes(self.stack.env.logs()).or_exit(ExitCode::Failed)?,
            processes: 1,
            open_sessions: 1_000,
            seed,
        })
    }
}

/// Cores that this process may use.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

pub fn bench(command: &BenchCommand, global: &Global) -> Result<ExitCode, Failure> {
    match command {
        BenchCommand::Faults(args) => faults::faults(args, global),
        BenchCommand::Pipeline(args) => pipeline::pipeline(args, global),
        BenchCommand::Sink(args) => sink::sink(args, global),
        BenchCommand::Instructions(args) => instructions::instructions(args, global),
        BenchCommand::Step(args) => instructions::step(args, global),
        BenchCommand::Part(args) => pipeline::part(args, global),
    }
}
