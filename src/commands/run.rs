//! `agentgov run STAGE…`: stages until asked to stop.

use agentgov_runtime::ExitCode;

use crate::cli::{Global, Run};
use crate::context;
use crate::failure::{Failure, OrExit as _};
use crate::stages::Running;

pub fn run(args: &Run, global: &Global) -> Result<ExitCode, Failure> {
    let topology = context::topology(global)?;
    let endpoints = context::endpoints(global)?;
    let running = Running::start(&args.stages, &endpoints, &topology, args.accept_gap)?;
    let stop = running.stop().clone();
    ctrlc::set_handler(move || stop.ask()).or_exit(ExitCode::Failed)?;
    running.join()?;
    Ok(ExitCode::Done)
}
