//! `agentgov rejects …`: handles records that a stage could not process.

use agentgov_registry::{RegistryContext, send_resume};
use agentgov_service::ExitCode;

use super::policy::current_user;
use crate::cli::{Global, RejectsCommand};
use crate::context;
use crate::failure::{Failure, OrExit as _};
use crate::print::{json, outln};

pub fn rejects(command: &RejectsCommand, global: &Global) -> Result<ExitCode, Failure> {
    let RejectsCommand::Resume { stage, reason } = command;
    let (topology, endpoints) = (context::topology(global)?, context::endpoints(global)?);
    topology.stage(stage).or_exit(ExitCode::Usage)?;
    let context = RegistryContext { endpoints: &endpoints, topology: &topology };
    send_resume(context, stage, reason, &current_user()).or_exit(ExitCode::TryAgain)?;
    if global.json {
        json(&serde_json::json!({ "stage": stage, "reason": reason }))?;
    } else {
        outln!("published a control: stage {} resumes", stage);
    }
    Ok(ExitCode::Done)
}
