//! The helper executable for tests. The product has the same subcommands in its one binary, `agentgov`.

use std::process::ExitCode;

fn main() -> ExitCode {
    agentgov_testenv::helper_main(std::env::args_os().skip(1))
}
