//! `agentgov testenv …`: the local stack's parts.

use agentgov_faults::Produce;
use agentgov_runtime::ExitCode;

use crate::cli::{Global, TestenvCommand};
use crate::context;
use crate::failure::{Failure, OrExit as _};
use crate::print::{json, say};
use crate::progress::Progress;

pub fn testenv(command: &TestenvCommand, global: &Global) -> Result<ExitCode, Failure> {
    match command {
        TestenvCommand::Lock { folder } => {
            let progress = Progress::new(global.json);
            agentgov_testenv::lock(folder, &|event| progress.stack(&event)).or_report(ExitCode::Failed)?;
            let lock = folder.join("stack.lock");
            if global.json {
                json(&serde_json::json!({ "written": lock }))?;
            } else {
                say!("wrote {}", lock.display());
            }
        }
        TestenvCommand::Produce(args) => {
            let endpoints = context::endpoints(global)?;
            let produce = Produce {
                kafka: endpoints.kafka,
                registry: endpoints.registry,
                topology: context::topology(global)?,
                tenant: args.tenant.clone(),
                agent: args.agent.clone(),
                environment: args.environment.clone(),
                spool: args.spool.clone(),
                seed: args.seed,
            };
            agentgov_faults::produce(&produce).or_exit(ExitCode::Failed)?;
        }
    }
    Ok(ExitCode::Done)
}
