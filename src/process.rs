//! A command line's process: parse, dispatch, print, exit.

use agentgov_schemas::bounds::STACK;
use agentgov_service::ExitCode;
use clap::Parser;

use crate::cli::Global;
use crate::failure::Failure;
use crate::{file_limit, print};

/// A command line.
pub trait CommandLine: Parser + 'static {
    /// The options of every command.
    fn global(&self) -> &Global;

    /// Runs the command.
    ///
    /// # Errors
    /// If the command fails.
    fn run(self) -> Result<ExitCode, Failure>;
}

/// Runs the process's command line, and returns what the process exits with.
pub fn main<C: CommandLine>() -> std::process::ExitCode {
    std::panic::set_hook(Box::new(print::panicked));
    // The main thread's own stack is what the shell's limit says.
    let thread = std::thread::Builder::new().name("main".into()).stack_size(STACK);
    let code = match thread.spawn(work::<C>) {
        // The panic was printed where it arose.
        Ok(working) => working.join().unwrap_or(ExitCode::Panicked),
        Err(error) => {
            print::note!("agentgov: expected to start a thread with a stack of {} bytes: {}", STACK, error);
            ExitCode::Failed
        }
    };
    std::process::ExitCode::from(code as u8)
}

fn work<C: CommandLine>() -> ExitCode {
    let command_line = match C::try_parse() {
        Ok(command_line) => command_line,
        Err(error) => return print::clap(&error),
    };
    let global = command_line.global();
    global.trace();
    if let Some(warning) = file_limit::raise() {
        print::note!("agentgov: warning: {}", warning);
    }
    let json = global.json;
    let done = command_line.run();
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
