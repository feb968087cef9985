//! Commands, one file each. A command reads its inputs, calls the crate that does the work, and prints.

mod access_bundle;
mod approvals;
pub mod audit;
#[cfg(feature = "local-stack")]
mod demo;
#[cfg(feature = "local-stack")]
mod desk;
#[cfg(feature = "local-stack")]
pub mod example;
mod gateway;
mod hook;
#[cfg(test)]
#[cfg(feature = "local-stack")]
mod hostile;
mod import;
#[cfg(feature = "local-stack")]
mod inline;
mod keys;
mod pdp;
#[cfg(feature = "local-stack")]
mod pdp_folder;
mod pdp_log;
#[cfg(feature = "local-stack")]
pub mod pipeline;
pub mod policy;
mod registry;
mod rejects;
#[cfg(feature = "local-stack")]
mod report;
mod run;
mod session;
mod status;
#[cfg(feature = "local-stack")]
mod testenv;
mod topology;
#[cfg(feature = "local-stack")]
mod up;

use agentgov_service::ExitCode;

use crate::cli::{Command, Global};
use crate::failure::Failure;

/// Runs a command.
///
/// # Errors
/// If the command fails.
pub fn dispatch(command: Command, global: &Global) -> Result<ExitCode, Failure> {
    match command {
        #[cfg(feature = "local-stack")]
        Command::Demo(args) => demo::demo(&args, global),
        #[cfg(feature = "local-stack")]
        Command::Up(args) => up::up(&args, global),
        Command::Run(args) => run::run(&args, global),
        Command::Pdp(args) => pdp::pdp(&args, global),
        Command::Gateway(command) => gateway::gateway(command, global),
        Command::Hook(command) => hook::hook(command, global),
        Command::Status(args) => status::status(&args, global),
        Command::Topology(command) => topology::topology(command, global),
        Command::Import(args) => import::import(&args, global),
        Command::Registry(command) => registry::registry(&command, global),
        Command::Policy(command) => policy::policy(&command, global),
        Command::Approvals(command) => approvals::approvals(&command, global),
        Command::Session(command) => session::session(&command, global),
        Command::Rejects(command) => rejects::rejects(&command, global),
        Command::Audit(command) => audit::audit(&command, global),
        #[cfg(feature = "local-stack")]
        Command::Testenv(command) => testenv::testenv(command, global),
    }
}
