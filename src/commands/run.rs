//! `agentgov run STAGE…`: stages until asked to stop.

use agentgov_runtime::{ExitCode, Serving};

use crate::cli::{Global, Run};
use crate::context;
use crate::failure::{Failure, OrExit as _};
use crate::stages::Running;

pub fn run(args: &Run, global: &Global) -> Result<ExitCode, Failure> {
    let topology = context::topology(global)?;
    let endpoints = context::endpoints(global)?;
    let running = Running::start(&args.stages, &endpoints, &topology, args.accept_gap)?;
    let stop = running.stop().clone();
    ctrlc::set_handler({
        let stop = stop.clone();
        move || stop.ask()
    })
    .or_exit(ExitCode::Failed)?;
    let serving = args.listen.map(|listen| Serving::start(listen, running.healths(), stop)).transpose()?;
    if let Some(serving) = &serving {
        say!("health and metrics on http://{}", serving.address());
    }
    running.join()?;
    if let Some(serving) = serving {
        serving.join();
    }
    Ok(ExitCode::Done)
}
