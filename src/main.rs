//! The one binary: parse, dispatch, print. What it does is in the crates.
#![allow(clippy::print_stderr, reason = "telling what went wrong is what stderr is for")]

/// Prints a line to stdout. A reader that has gone away, as `head` does, is no reason to panic.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}

mod cli;
mod commands;
mod context;
mod failure;
mod file_limit;
mod local;
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
    let cli = <cli::Cli as clap::Parser>::parse();
    cli.trace();
    if let Some(warning) = file_limit::raise() {
        eprintln!("agentgov: warning: {warning}");
    }
    let _armed = agentgov_runtime::failpoint::arm();
    match commands::dispatch(cli) {
        Ok(code) => ExitCode::from(code as u8),
        Err(failure) => {
            eprintln!("agentgov: {failure}");
            if let Some(explanation) = file_limit::explain(&failure.to_string()) {
                eprintln!("agentgov: {explanation}");
            }
            ExitCode::from(failure.code as u8)
        }
    }
}
