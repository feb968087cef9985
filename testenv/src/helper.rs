//! Subcommands `testenv …` of a helper executable: the supervisor and the engine server.

use std::ffi::OsString;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use clap::Subcommand;

use crate::stack::{Lock, install};
use crate::{Error, Part, engine, supervisor};

/// Subcommand that contains [`HelperCommand`].
pub(crate) const HELPER_SUBCOMMAND: &str = "testenv";

/// Processes beside the parts of a stack, started by the stack itself.
#[derive(Debug, Subcommand)]
pub enum HelperCommand {
    /// Supervises the parts of a stack.
    #[command(subcommand)]
    Supervisor(SupervisorCommand),
    /// Serves ClickHouse's HTTP interface from its library.
    Engine {
        /// Directory of the storage.
        #[arg(long)]
        path: PathBuf,
        /// Port to listen on.
        #[arg(long)]
        port: u16,
        /// Library of the engine.
        #[arg(long)]
        library: PathBuf,
        /// Database to create at the start, as the official image does.
        #[arg(long, env = "CLICKHOUSE_DB")]
        database: Option<String>,
        /// Address to listen on. Other addresses than the loopback are for containers.
        #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
        listen: IpAddr,
    },
}

/// Subcommands of the supervisor.
#[derive(Debug, Subcommand)]
pub enum SupervisorCommand {
    /// Serves requests on stdin until its end, then ends all parts.
    Run {
        /// Timeout for the parts to end, in milliseconds.
        #[arg(long)]
        grace_ms: u64,
        /// File to keep locked.
        #[arg(long)]
        lock: Option<PathBuf>,
        /// Directory to remove at the end.
        #[arg(long)]
        remove: Option<PathBuf>,
    },
    /// Installs the parts in the user's cache and prints their folders, for building images.
    Parts,
    /// Executes a part that ends with its supervisor.
    Become {
        /// Process id of the supervisor.
        #[arg(long)]
        parent: u32,
        /// Runs the part at low priority.
        #[arg(long)]
        low_priority: bool,
        /// Command line of the part.
        #[arg(last = true)]
        command: Vec<OsString>,
    },
}

/// Returns a command of `helper` that executes the program given as its next arguments. The kernel kills the process when
/// the thread that spawned it ends.
pub fn owned_command(helper: &Path) -> Command {
    let mut command = become_command(helper);
    command.arg("--");
    command
}

/// Returns the command of `helper` that executes a part. The caller appends options, `--` and the command line of the part.
pub(crate) fn become_command(helper: &Path) -> Command {
    let mut command = Command::new(helper);
    let parent = std::process::id().to_string();
    command.args([HELPER_SUBCOMMAND, "supervisor", "become", "--parent", &parent]);
    command
}

/// Runs a helper command until its end.
///
/// # Errors
/// If the part cannot be executed, the engine cannot serve, or the parts cannot be installed.
pub fn run_helper(command: HelperCommand) -> Result<(), Error> {
    match command {
        HelperCommand::Supervisor(SupervisorCommand::Run { grace_ms, lock, remove }) => {
            let grace = Duration::from_millis(grace_ms);
            supervisor::supervise(&supervisor::Settings { grace, lock, remove });
            Ok(())
        }
        HelperCommand::Supervisor(SupervisorCommand::Become { parent, low_priority, command }) => {
            let source = supervisor::become_part(parent, low_priority, &command);
            Err(Error::Become { command, source })
        }
        HelperCommand::Supervisor(SupervisorCommand::Parts) => print_parts(),
        HelperCommand::Engine { path, port, library, database, listen } => {
            let settings = engine::Settings { library, path, database, listen, port };
            engine::serve(&settings).map_err(|error| Error::Engine { reason: error.to_string() })
        }
    }
}

fn print_parts() -> Result<(), Error> {
    let installed = install(&Lock::embedded()?, &|_| {})?;
    for part in Part::ALL {
        // A reader that closed its pipe needs no folders.
        #[allow(clippy::disallowed_methods, reason = "the process that started this one reads it")]
        let _ = writeln!(std::io::stdout(), "{part} {}", installed.folder(part).display());
    }
    Ok(())
}
