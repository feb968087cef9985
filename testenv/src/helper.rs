//! The subcommands `testenv …` of an executable that helps a stack: its supervisor and its engine server.

use std::ffi::OsString;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use clap::Subcommand;

use crate::stack::{Lock, install};
use crate::{Error, Part, engine, supervisor};

/// The subcommand under which an executable has [`HelperCommand`].
pub(crate) const HELPER_SUBCOMMAND: &str = "testenv";

/// The processes beside a stack's parts, started by the stack itself.
#[derive(Debug, Subcommand)]
pub enum HelperCommand {
    /// Looks after the parts of a stack.
    #[command(subcommand)]
    Supervisor(SupervisorCommand),
    /// Serves ClickHouse's HTTP interface from its library.
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

/// The supervisor's subcommands.
#[derive(Debug, Subcommand)]
pub enum SupervisorCommand {
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
    /// Installs the parts in the user's cache and prints their folders, to build images of them.
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

/// Returns a command of `helper` that turns into the program given to it as an argument, with the arguments after it. The
/// kernel kills the process when the thread that spawned it ends.
pub fn owned_command(helper: &Path) -> Command {
    let mut command = become_command(helper);
    command.arg("--");
    command
}

/// Returns the same, ahead of further options and `--`.
pub(crate) fn become_command(helper: &Path) -> Command {
    let mut command = Command::new(helper);
    let parent = std::process::id().to_string();
    command.args([HELPER_SUBCOMMAND, "supervisor", "become", "--parent", &parent]);
    command
}

/// Runs a helper's command until its end.
///
/// # Errors
/// If the part that it turns into cannot be run, the engine cannot serve, or the parts cannot be installed.
pub fn run_helper(command: HelperCommand) -> Result<(), Error> {
    match command {
        HelperCommand::Supervisor(SupervisorCommand::Run { grace_ms, lock, remove }) => {
            let grace = Duration::from_millis(grace_ms);
            supervisor::supervise(&supervisor::Settings { grace, lock, remove });
            Ok(())
        }
        HelperCommand::Supervisor(SupervisorCommand::Become { parent, gives_way, command }) => {
            let source = supervisor::become_part(parent, gives_way, &command);
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
        // Whoever does not listen any more needs no folder.
        #[allow(clippy::disallowed_methods, reason = "the process that started this one reads it")]
        let _ = writeln!(std::io::stdout(), "{part} {}", installed.folder(part).display());
    }
    Ok(())
}
