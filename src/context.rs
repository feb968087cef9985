//! Finds the stack and the topology of a command: from the command line, the environment, or the note of a running `up`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agentgov_connect::{Endpoints, Settings, SettingsError};
use agentgov_schemas::topology::Topology;
use agentgov_service::ExitCode;

use crate::cli::Global;
use crate::failure::{Failure, OrExit as _};
use crate::local;

/// Timeout for the brokers to accept or reject the login. Brokers that are unreachable for longer are
/// reported by the command itself.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of bytes read from a device.
const MAX_DEVICE_BYTES: u64 = 64 << 20;

/// Returns the topology of `--topology`, or the built-in one.
pub fn topology(global: &Global) -> Result<Arc<Topology>, Failure> {
    topology_from(global.topology.as_deref())
}

/// Returns the topology of `file`, or the built-in one.
pub fn topology_from(file: Option<&Path>) -> Result<Arc<Topology>, Failure> {
    let parsed = match file {
        None => Topology::embedded(),
        Some(file) => Topology::parse(&file.display().to_string(), &read_text(file)?),
    };
    parsed
        .map(Arc::new)
        .map_err(|problems| Failure::all(ExitCode::Config, "the topology has errors:", problems))
}

/// Returns the stack of the command line, the environment and the stack file; if none is set, the stack that a running `up`
/// or `demo --keep` noted. Reports rejected logins before anything starts.
pub fn endpoints(global: &Global) -> Result<Endpoints, Failure> {
    let endpoints = configured(global)?;
    endpoints.kafka.try_login(LOGIN_TIMEOUT).or_exit(ExitCode::Config)?;
    Ok(endpoints)
}

/// Returns the addresses of decision points: those given, otherwise that of the running `up` whose stack the command uses.
pub fn decision_points(given: &[String], global: &Global) -> Vec<String> {
    if !given.is_empty() {
        return given.to_vec();
    }
    let is_set = |value: &Option<String>| value.as_ref().is_some_and(|value| !value.is_empty());
    let is_noted = !is_set(&global.kafka) && global.stack.is_none();
    if is_noted { local::read_decision_point().into_iter().collect() } else { Vec::new() }
}

fn configured(global: &Global) -> Result<Endpoints, Failure> {
    let variable = |name: &str| match name {
        "AGENTGOV_KAFKA" => global.kafka.clone(),
        "AGENTGOV_SCHEMA_REGISTRY" => global.schema_registry.clone(),
        "AGENTGOV_CLICKHOUSE" => global.clickhouse.clone(),
        other => std::env::var(other).ok(),
    };
    let file = global.stack.as_deref().filter(|file| !file.as_os_str().is_empty());
    let missing = match Settings::read(&variable, file).and_then(|settings| settings.endpoints()) {
        Ok(endpoints) => return Ok(endpoints),
        Err(SettingsError::Wrong(problems)) => {
            return Err(Failure::all(ExitCode::Config, "the connection settings have errors:", problems));
        }
        Err(SettingsError::Unset(missing)) => missing,
    };
    if missing.len() == 3
        && let Some(endpoints) = local::read_note()
    {
        return Ok(endpoints);
    }
    let missing: Vec<_> = missing.iter().map(|name| with_option(name)).collect();
    let up = if cfg!(feature = "local-stack") {
        ", or start one with `agentgov up` in another terminal"
    } else {
        "; this build contains no local stack"
    };
    Err(Failure::new(
        ExitCode::Usage,
        format!("expected the addresses of a stack, found none: set {}{up}", missing.join(", ")),
    ))
}

/// Names a variable with the option that sets the same.
fn with_option(name: &str) -> String {
    match name.strip_prefix("AGENTGOV_") {
        Some(part) => format!("{name} (--{})", part.to_ascii_lowercase().replace('_', "-")),
        None => name.to_owned(),
    }
}

/// Reads a file.
pub fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    use std::io::Read as _;
    use std::os::unix::fs::FileTypeExt as _;
    let failed = |e: std::io::Error| Failure::new(ExitCode::Failed, format!("{}: {e}", file.display()));
    let mut opened = std::fs::File::open(file).map_err(failed)?;
    let mut bytes = Vec::new();
    // Devices may be endless.
    if opened.metadata().is_ok_and(|metadata| metadata.file_type().is_char_device()) {
        let read = opened.take(MAX_DEVICE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
        if read as u64 > MAX_DEVICE_BYTES {
            let message = format!(
                "{}: expected a file, found a device with more than {MAX_DEVICE_BYTES} bytes",
                file.display()
            );
            return Err(Failure::new(ExitCode::Failed, message));
        }
    } else {
        opened.read_to_end(&mut bytes).map_err(failed)?;
    }
    Ok(bytes)
}

/// Reads a UTF-8 file.
pub fn read_text(file: &Path) -> Result<String, Failure> {
    String::from_utf8(read(file)?)
        .map_err(|e| Failure::new(ExitCode::Config, format!("{}: expected UTF-8, found {e}", file.display())))
}

/// Writes a file. If writing fails, for example on a full disk, an existing file stays unchanged.
pub fn write(file: &Path, text: &str) -> Result<(), Failure> {
    let written = match std::fs::canonicalize(file) {
        Ok(target) if target.is_file() => replace(&target, text),
        _ => std::fs::write(file, text),
    };
    written.map_err(|e| Failure::new(ExitCode::Failed, format!("{}: {e}", file.display())))
}

fn replace(target: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    let folder = target.parent().unwrap_or(Path::new("."));
    // If the folder is not writable, the file itself may be.
    let Ok(mut beside) = tempfile::Builder::new().prefix(".agentgov-").tempfile_in(folder) else {
        return std::fs::write(target, text);
    };
    // A read-only file must not be replaced either.
    std::fs::OpenOptions::new().write(true).open(target)?;
    beside.write_all(text.as_bytes())?;
    beside.as_file().set_permissions(std::fs::metadata(target)?.permissions())?;
    beside.as_file().sync_all()?;
    beside.persist(target)?;
    Ok(())
}

/// Creates a folder if it does not exist. Called before long runs, so that their results can be written at the end.
pub fn create_folder(folder: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(folder)
        .map_err(|e| Failure::new(ExitCode::Failed, format!("{}: {e}", folder.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endless_device_is_refused() {
        let refused = read(Path::new("/dev/zero")).unwrap_err();
        assert!(refused.message().as_str().starts_with("/dev/zero: expected a file"), "{refused}");
        assert!(read(Path::new("/dev/null")).unwrap().is_empty());
    }

    #[test]
    fn write_failure_names_the_path_and_keeps_the_file() {
        let full = Path::new("/dev/full");
        let refused = write(full, "text").unwrap_err();
        assert_eq!(refused.code, ExitCode::Failed);
        assert!(refused.message().as_str().starts_with("/dev/full: No space left"), "{refused}");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("there");
        write(&file, "old").unwrap();
        write(&file, "new").unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn variables_of_addresses_are_named_with_options_that_exist() {
        let command = <crate::cli::Cli as clap::CommandFactory>::command();
        for name in ["AGENTGOV_KAFKA", "AGENTGOV_SCHEMA_REGISTRY", "AGENTGOV_CLICKHOUSE"] {
            let mut arguments = command.get_arguments();
            let argument = arguments.find(|a| a.get_env().is_some_and(|env| env == name)).unwrap();
            let option = format!("(--{})", argument.get_long().unwrap());
            assert_eq!(with_option(name), format!("{name} {option}"));
        }
    }
}
