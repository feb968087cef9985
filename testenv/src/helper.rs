//! The hidden subcommands of the executable that helps a stack: its supervisor and its engine server.

use std::ffi::OsString;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::stack::{Lock, install};
use crate::{Error, Part, engine, supervisor};

#[derive(Debug, Parser)]
#[command(no_binary_name = true)]
enum Helper {
    /// Looks after the parts of a stack.
    #[command(name = "testenv-supervisor", subcommand)]
    Supervisor(SupervisorCommand),
    /// Serves ClickHouse's HTTP interface from its library.
    #[command(name = "testenv-engine")]
    Engine {
        /// The storage's directory.
        #[arg(long)]
        path: PathBuf,
        /// The port to listen on.
        #[arg(long)]
        port: u16,
        /// The engine's library.
        #[arg(long)]
        library: PathBuf,
        /// A database to make at the start, as the official image does.
        #[arg(long, env = "CLICKHOUSE_DB")]
        database: Option<String>,
        /// The address to listen on. Anything but the loopback is for the inside of a container.
        #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
        listen: IpAddr,
    },
}

#[derive(Debug, Subcommand)]
enum SupervisorCommand {
    /// Serves requests on stdin until its end, then ends all parts.
    Run {
        /// How long parts may take to end, in milliseconds.
        #[arg(long)]
        grace_ms: u64,
        /// A file to hold locked.
        #[arg(long)]
        lock: Option<PathBuf>,
        /// A directory to remove at the end.
        #[arg(long)]
        remove: Option<PathBuf>,
    },
    /// Installs the parts in the user's cache and prints their folders, for who builds images of them.
    Parts,
    /// Turns into a part that ends with its supervisor.
    Become {
        /// The supervisor's pid.
        #[arg(long)]
        parent: u32,
        /// Others come first where cores are short.
        #[arg(long)]
        gives_way: bool,
        /// The part's command line.
        #[arg(last = true)]
        command: Vec<OsString>,
    },
}

/// Runs `testenv-supervisor …` or `testenv-engine …`. `args` are those of the process without its name; the
/// process should end with the code that this returns.
pub fn helper_main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let helper = match Helper::try_parse_from(args) {
        Ok(helper) => helper,
        Err(error) => return failed(2, &error),
    };
    match helper {
        Helper::Supervisor(SupervisorCommand::Run { grace_ms, lock, remove }) => {
            let grace = Duration::from_millis(grace_ms);
            supervisor::supervise(&supervisor::Settings { grace, lock, remove });
            ExitCode::SUCCESS
        }
        Helper::Supervisor(SupervisorCommand::Become { parent, gives_way, command }) => {
            supervisor::become_part(parent, gives_way, &command);
            ExitCode::FAILURE
        }
        Helper::Supervisor(SupervisorCommand::Parts) => ended(print_parts()),
        Helper::Engine { path, port, library, database, listen } => {
            ended(engine::serve(&engine::Settings { library, path, database, listen, port }))
        }
    }
}

fn print_parts() -> Result<(), Error> {
    let installed = install(&Lock::embedded()?, &|_| {})?;
    for part in Part::ALL {
        // Whoever does not listen any more needs no folder.
        #[allow(clippy::disallowed_methods, reason = "the process that started this one reads it")]
        let _ = writeln!(std::io::stdout(), "{part} {}", installed.folder(part).display());
    }
    Ok(())
}

fn ended<E: std::fmt::Display>(outcome: Result<(), E>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(1, &error),
    }
}

fn failed(code: u8, error: &dyn std::fmt::Display) -> ExitCode {
    // Goes into the part's log, where the owner looks for it.
    let _ = writeln!(std::io::stderr(), "{error}");
    ExitCode::from(code)
}
