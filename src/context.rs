//! Where the stack is and what the map says: from the command line, the environment, or the stack that `up` left a note of.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agentgov_connect::{Endpoints, Settings, SettingsError};
use agentgov_runtime::ExitCode;
use agentgov_schemas::topology::Topology;

use crate::cli::Global;
use crate::failure::{Failure, OrExit as _};
use crate::local;

/// How long brokers may take to say whether they know us; away for longer, they are what every command waits for.
const LOGIN: Duration = Duration::from_secs(5);

/// The map of `--topology`, or the built-in one.
pub fn topology(global: &Global) -> Result<Arc<Topology>, Failure> {
    topology_from(global.topology.as_deref())
}

/// The map of `file`, or the built-in one.
pub fn topology_from(file: Option<&Path>) -> Result<Arc<Topology>, Failure> {
    let parsed = match file {
        None => Topology::embedded(),
        Some(file) => Topology::parse(&file.display().to_string(), &read_text(file)?),
    };
    parsed
        .map(Arc::new)
        .map_err(|problems| Failure::all(ExitCode::Config, "the topology has errors:", problems))
}

/// The stack of the command line, environment and stack file; without one, the stack that a running `up` or `demo --keep`
/// noted. Brokers that refuse the login are found here, before anything starts.
pub fn endpoints(global: &Global) -> Result<Endpoints, Failure> {
    let endpoints = configured(global)?;
    endpoints.kafka.try_login(LOGIN).or_exit(ExitCode::Config)?;
    Ok(endpoints)
}

fn configured(global: &Global) -> Result<Endpoints, Failure> {
    let variable = |name: &str| match name {
        "AGENTGOV_KAFKA" => global.kafka.clone(),
        "AGENTGOV_REGISTRY" => global.registry.clone(),
        "AGENTGOV_CLICKHOUSE" => global.clickhouse.clone(),
        other => std::env::var(other).ok(),
    };
    let file = global.stack.as_deref().filter(|file| !file.as_os_str().is_empty());
    let missing = match Settings::read(&variable, file).and_then(|settings| settings.endpoints()) {
        Ok(endpoints) => return Ok(endpoints),
        Err(SettingsError::Wrong(problems)) => {
            return Err(Failure::all(ExitCode::Config, "the connection settings are wrong:", problems));
        }
        Err(SettingsError::Unset(missing)) => missing,
    };
    if missing.len() == 3
        && let Some(noted) = local::noted()
    {
        return Ok(noted);
    }
    let flag = |name: &String| match name.strip_prefix("AGENTGOV_") {
        Some(part) => format!("{name} (--{})", part.to_ascii_lowercase()),
        None => name.clone(),
    };
    let missing: Vec<_> = missing.iter().map(flag).collect();
    Err(Failure::new(
        ExitCode::Usage,
        format!("no stack: set {}, or start one with `agentgov up` in another terminal", missing.join(", ")),
    ))
}

/// A file's bytes.
pub fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(file).map_err(|e| Failure::new(ExitCode::Failed, format!("{}: {e}", file.display())))
}

/// A file's text.
pub fn read_text(file: &Path) -> Result<String, Failure> {
    String::from_utf8(read(file)?)
        .map_err(|e| Failure::new(ExitCode::Config, format!("{}: expected UTF-8, found {e}", file.display())))
}

/// Writes a file.
pub fn write(file: &PathBuf, text: &str) -> Result<(), Failure> {
    std::fs::write(file, text).map_err(|e| Failure::new(ExitCode::Failed, format!("{}: {e}", file.display())))
}

/// Makes a folder, unless it is there: before a long run, not when what it found is to be written.
pub fn make_folder(folder: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(folder)
        .map_err(|e| Failure::new(ExitCode::Failed, format!("{}: {e}", folder.display())))
}
