//! Where the stack is and which topology applies: from the command line, the environment, or the stack that `up` left a note of.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agentgov_connect::{Endpoints, Settings, SettingsError};
use agentgov_schemas::topology::Topology;
use agentgov_service::ExitCode;

use crate::cli::Global;
use crate::failure::{Failure, OrExit as _};
use crate::local;

/// How long brokers may take to say whether they know us; away for longer, they are what every command waits for.
const LOGIN: Duration = Duration::from_secs(5);
/// Bytes that are read from a device.
const MAX_DEVICE_BYTES: u64 = 64 << 20;

/// The topology of `--topology`, or the built-in one.
pub fn topology(global: &Global) -> Result<Arc<Topology>, Failure> {
    topology_from(global.topology.as_deref())
}

/// The topology of `file`, or the built-in one.
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
        "AGENTGOV_SCHEMA_REGISTRY" => global.schema_registry.clone(),
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
    let up = if cfg!(feature = "local-stack") {
        ", or start one with `agentgov up` in another terminal"
    } else {
        "; this build starts none by itself"
    };
    Err(Failure::new(ExitCode::Usage, format!("no stack: set {}{up}", missing.join(", "))))
}

/// A file's bytes.
pub fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    use std::io::Read as _;
    use std::os::unix::fs::FileTypeExt as _;
    let failed = |e: std::io::Error| Failure::new(ExitCode::Failed, format!("{}: {e}", file.display()));
    let mut opened = std::fs::File::open(file).map_err(failed)?;
    let mut bytes = Vec::new();
    // A device may have no end.
    if opened.metadata().is_ok_and(|metadata| metadata.file_type().is_char_device()) {
        let read = opened.take(MAX_DEVICE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
        if read as u64 > MAX_DEVICE_BYTES {
            let message = format!("{}: expected a file, found a device that does not end", file.display());
            return Err(Failure::new(ExitCode::Failed, message));
        }
    } else {
        opened.read_to_end(&mut bytes).map_err(failed)?;
    }
    Ok(bytes)
}

/// A file's text.
pub fn read_text(file: &Path) -> Result<String, Failure> {
    String::from_utf8(read(file)?)
        .map_err(|e| Failure::new(ExitCode::Config, format!("{}: expected UTF-8, found {e}", file.display())))
}

/// Writes a file. Where that fails, as on a full disk, a file that was there is as it was.
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
    // Where no file can be made beside it, it may be written all the same.
    let Ok(mut beside) = tempfile::Builder::new().prefix(".agentgov-").tempfile_in(folder) else {
        return std::fs::write(target, text);
    };
    // What may not be written is not replaced either.
    std::fs::OpenOptions::new().write(true).open(target)?;
    beside.write_all(text.as_bytes())?;
    beside.as_file().set_permissions(std::fs::metadata(target)?.permissions())?;
    beside.as_file().sync_all()?;
    beside.persist(target)?;
    Ok(())
}

/// Makes a folder, unless it is there: before a long run, not when what it found is to be written.
pub fn make_folder(folder: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(folder)
        .map_err(|e| Failure::new(ExitCode::Failed, format!("{}: {e}", folder.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_without_an_end_is_refused() {
        let refused = read(Path::new("/dev/zero")).unwrap_err();
        assert!(refused.message().as_str().starts_with("/dev/zero: expected a file"), "{refused}");
        assert!(read(Path::new("/dev/null")).unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_written_is_an_error_with_its_path() {
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
}
