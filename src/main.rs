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

use agentgov_schemas::bounds::STACK;

/// A step makes many small values and drops them in the same order: measured, this costs a stage a tenth less than the
/// system's allocator (ADR 0031).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    if args.first().is_some_and(|first| first.to_string_lossy().starts_with("testenv-")) {
        return agentgov_testenv::helper_main(args);
    }
    std::panic::set_hook(Box::new(print::panicked));
    // The main thread's own stack is what the shell's limit says.
    let thread = std::thread::Builder::new().name("main".into()).stack_size(STACK);
    let code = match thread.spawn(work) {
        // The panic was printed where it arose.
        Ok(working) => working.join().unwrap_or(agentgov_runtime::ExitCode::Panicked),
        Err(error) => {
            print::note!("agentgov: expected to start a thread with a stack of {} bytes: {}", STACK, error);
            agentgov_runtime::ExitCode::Failed
        }
    };
    ExitCode::from(code as u8)
}

fn work() -> agentgov_runtime::ExitCode {
    let cli = match <cli::Cli as clap::Parser>::try_parse() {
        Ok(cli) => cli,
        Err(error) => return print::clap(&error),
    };
    cli.trace();
    if let Some(warning) = file_limit::raise() {
        print::note!("agentgov: warning: {}", warning);
    }
    let json = cli.global.json;
    let _armed = agentgov_runtime::failpoint::arm();
    let done = commands::dispatch(cli);
    if json && let Err(failure) = &done {
        print::json_failure(failure);
    }
    match done.and_then(|code| print::finish().map(|()| code)) {
        Ok(code) => code,
        Err(failure) => {
            print::note!("agentgov: {}", failure.message());
            if let Some(explanation) = file_limit::explain(failure.message().as_str()) {
                print::note!("agentgov: {}", explanation);
            }
            failure.code
        }
    }
}
