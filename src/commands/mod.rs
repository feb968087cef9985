//! One file a command: it fetches what it needs, calls the crate that does the work, and prints.

mod audit;
mod bench;
mod demo;
#[cfg(test)]
mod hostile;
mod import;
mod pipeline;
mod policy;
mod registry;
mod rejects;
mod report;
mod run;
mod session;
mod status;
mod testenv;
mod topology;
mod up;

use agentgov_runtime::ExitCode;

use crate::cli::{Cli, Command};
use crate::failure::Failure;

/// Does what was asked.
pub fn dispatch(cli: Cli) -> Result<ExitCode, Failure> {
    let global = &cli.global;
    match cli.command {
        Command::Demo(args) => demo::demo(&args, global),
        Command::Up(args) => up::up(&args, global),
        Command::Run(args) => run::run(&args, global),
        Command::Status(args) => status::status(&args, global),
        Command::Topology(command) => topology::topology(command, global),
        Command::Import(args) => import::import(&args, global),
        Command::Registry(command) => registry::registry(&command, global),
        Command::Policy(command) => policy::policy(&command, global),
        Command::Session(command) => session::session(&command, global),
        Command::Rejects(command) => rejects::rejects(&command, global),
        Command::Audit(command) => audit::audit(&command, global),
        Command::Bench(command) => bench::bench(&command, global),
        Command::Testenv(command) => testenv::testenv(&command, global),
    }
}
