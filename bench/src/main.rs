//! The laboratory's executable: benchmarks and the fault harness.

mod cli;
mod commands;
mod failpoints;

use std::process::ExitCode;

/// The product's allocator: its stages run here, too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    agentgov::process::main::<cli::Cli>()
}
