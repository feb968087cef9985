//! `agentgov testenv …`: manages the parts of the local stack.

use agentgov_service::ExitCode;

use crate::cli::{Global, TestenvCommand};
use crate::failure::{Failure, OrExit as _};
use crate::print::{json, outln};
use crate::progress::Progress;

pub fn testenv(command: TestenvCommand, global: &Global) -> Result<ExitCode, Failure> {
    match command {
        TestenvCommand::Lock { folder } => {
            let progress = Progress::new(global.json);
            agentgov_testenv::lock(&folder, &|event| progress.show_stack_event(&event))
                .or_report(ExitCode::Failed)?;
            let lock = folder.join("stack.lock");
            if global.json {
                json(&serde_json::json!({ "written": lock }))?;
            } else {
                outln!("wrote {}", lock.display());
            }
        }
        TestenvCommand::Helper(command) => agentgov_testenv::run_helper(command).or_exit(ExitCode::Failed)?,
    }
    Ok(ExitCode::Done)
}
