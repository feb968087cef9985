//! The one binary: parse, dispatch, print. What it does is in the crates.

mod cli;
mod commands;
mod context;
mod failure;
mod file_limit;
mod local;
mod print;
mod progress;
mod stages;

use std::process::ExitCode;

/// A step makes many small values and drops them in the same order: measured, this costs a stage a tenth less than the
/// system's allocator (docs/performance.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    if args.first().is_some_and(|first| first.to_string_lossy().starts_with("testenv-")) {
        return agentgov_testenv::helper_main(args);
    }
    let cli = match <cli::Cli as clap::Parser>::try_parse() {
        Ok(cli) => cli,
        Err(error) => return print::clap(&error),
    };
    cli.trace();
    if let Some(warning) = file_limit::raise() {
        print::note!("agentgov: warning: {}", warning);
    }
    let _armed = agentgov_runtime::failpoint::arm();
    let code = match commands::dispatch(cli).and_then(|code| print::finish().map(|()| code)) {
        Ok(code) => code,
        Err(failure) => {
            print::note!("agentgov: {}", failure.message());
            if let Some(explanation) = file_limit::explain(failure.message().as_str()) {
                print::note!("agentgov: {}", explanation);
            }
            failure.code
        }
    };
    ExitCode::from(code as u8)
}
