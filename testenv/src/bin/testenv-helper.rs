//! Helper executable for tests. `agentgov` contains the same subcommands.

use std::io::Write as _;
use std::process::ExitCode;

use agentgov_testenv::{HelperCommand, run_helper};
use clap::{Parser, Subcommand};

/// Helper of a test stack.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Processes beside the parts of a stack.
    #[command(subcommand)]
    Testenv(HelperCommand),
}

fn main() -> ExitCode {
    let Command::Testenv(command) = Cli::parse().command;
    match run_helper(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Stderr is the part's log, which the owner reads.
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}
