//! Entry point of the executables: parses the arguments, runs the command, prints failures, returns the exit code.

use agentgov_schemas::bounds::STACK_BYTES;
use agentgov_service::ExitCode;
use clap::Parser;

use crate::cli::Global;
use crate::failure::Failure;
use crate::{file_limit, print};

/// Command line of an executable.
pub trait CommandLine: Parser + 'static {
    /// Returns the options of every command.
    fn global(&self) -> &Global;

    /// Runs the command.
    ///
    /// # Errors
    /// If the command fails.
    fn run(self) -> Result<ExitCode, Failure>;
}

/// Runs the command line of this process and returns its exit code.
pub fn main<C: CommandLine>() -> std::process::ExitCode {
    std::panic::set_hook(Box::new(print::panicked));
    // The stack size of the main thread depends on the shell's limit.
    let thread = std::thread::Builder::new().name("main".into()).stack_size(STACK_BYTES);
    let code = match thread.spawn(run_command_line::<C>) {
        // The panic hook has already printed the panic.
        Ok(working) => working.join().unwrap_or(ExitCode::Panicked),
        Err(error) => {
            print::errln!("agentgov: cannot start a thread with a stack of {} bytes: {}", STACK_BYTES, error);
            ExitCode::Failed
        }
    };
    std::process::ExitCode::from(code as u8)
}

fn run_command_line<C: CommandLine>() -> ExitCode {
    let command_line = match C::try_parse() {
        Ok(command_line) => command_line,
        Err(error) => return print::clap(&error),
    };
    let global = command_line.global();
    global.trace();
    if let Some(warning) = file_limit::raise() {
        print::errln!("agentgov: warning: {}", warning);
    }
    let json = global.json;
    let done = command_line.run();
    if json && let Err(failure) = &done {
        print::json_failure(failure);
    }
    match done.and_then(|code| print::finish().map(|()| code)) {
        Ok(code) => code,
        Err(failure) => {
            print::errln!("agentgov: {}", failure.message());
            if let Some(explanation) = file_limit::explain(failure.message().as_str()) {
                print::errln!("agentgov: {}", explanation);
            }
            failure.code
        }
    }
}
