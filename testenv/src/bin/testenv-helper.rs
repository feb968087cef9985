//! The helper executable for tests. The product has the same subcommands in its one binary, `agentgov`.

use std::io::Write as _;
use std::process::ExitCode;

use agentgov_testenv::{HelperCommand, run_helper};
use clap::{Parser, Subcommand};

/// Helps a stack of testenv.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The processes beside a stack's parts.
    #[command(subcommand)]
    Testenv(HelperCommand),
}

fn main() -> ExitCode {
    let Command::Testenv(command) = Cli::parse().command;
    match run_helper(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Into the part's log, where the owner looks for it.
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}
