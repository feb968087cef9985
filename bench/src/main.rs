//! Executable of the benchmarks and the fault harness.

mod cli;
mod commands;
mod failpoints;
mod plants;

use std::process::ExitCode;

/// The allocator of the product, since the product's stages run in this executable, too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    agentgov::process::main::<cli::Cli>()
}
