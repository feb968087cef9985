//! `agentgov testenv …`: the local stack's parts.

use agentgov_runtime::ExitCode;

use crate::cli::TestenvCommand;
use crate::failure::{Failure, OrExit as _};
use crate::progress::Progress;

pub fn testenv(command: &TestenvCommand) -> Result<ExitCode, Failure> {
    match command {
        TestenvCommand::Lock { folder } => {
            let progress = Progress::new(false);
            agentgov_testenv::lock(folder, &|event| progress.stack(&event)).or_exit(ExitCode::Failed)?;
            say!("wrote {}", folder.join("stack.lock").display());
        }
    }
    Ok(ExitCode::Done)
}
