//! Writes the note.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use agentgov_connect::Endpoints;

use super::{decision_point_path, note_path};

/// Written note; removed on drop.
#[derive(Debug)]
pub struct Note {
    file: File,
    path: PathBuf,
}

/// Outcome of writing the note.
#[derive(Debug)]
pub enum NoteOutcome {
    /// Other commands find this stack until the note is dropped.
    Written {
        /// The written note.
        _note: Note,
    },
    /// Other commands find the stack of another running process, which had already written the note.
    OtherStackNoted,
    /// Other commands find no stack, since the note could not be written.
    Failed {
        /// Cause of the failure.
        error: io::Error,
    },
}

/// Writes the note of a stack and a decision point that this process runs.
pub fn write_note(endpoints: &Endpoints, pdp: &str) -> NoteOutcome {
    match note_path() {
        Some(path) => write_note_at(path, endpoints, pdp),
        None => NoteOutcome::Failed {
            error: io::Error::other(
                "expected HOME or XDG_STATE_HOME for the note of this stack, found neither",
            ),
        },
    }
}

fn write_note_at(path: PathBuf, endpoints: &Endpoints, pdp: &str) -> NoteOutcome {
    match write(&path, endpoints, pdp) {
        Ok(Some(file)) => NoteOutcome::Written { _note: Note { file, path } },
        Ok(None) => NoteOutcome::OtherStackNoted,
        Err(error) => {
            let error = io::Error::new(error.kind(), format!("{}: {error}", path.display()));
            NoteOutcome::Failed { error }
        }
    }
}

/// Returns the locked file; `None` if another process holds the lock.
fn write(path: &Path, endpoints: &Endpoints, pdp: &str) -> io::Result<Option<File>> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut file =
        OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    std::fs::write(decision_point_path(path), pdp)?;
    let text = serde_json::to_string(&endpoints.to_settings())?;
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(text.as_bytes())?;
    Ok(Some(file))
}

impl Drop for Note {
    fn drop(&mut self) {
        // The lock is still held, so the note is our own.
        let _ = std::fs::remove_file(decision_point_path(&self.path));
        let _ = std::fs::remove_file(&self.path);
        let _ = self.file.unlock();
    }
}

#[cfg(test)]
mod tests {
    use agentgov_connect::{ClickHouseEndpoint, KafkaEndpoint, SchemaRegistryEndpoint};

    use super::*;

    const PDP: &str = "http://127.0.0.1:8181";

    #[test]
    fn write_failure_names_the_path_and_the_first_note_stays() {
        let folder = tempfile::tempdir().unwrap();
        let endpoints = Endpoints {
            kafka: KafkaEndpoint::at("127.0.0.1:9092".to_owned()),
            schema_registry: SchemaRegistryEndpoint::at("http://127.0.0.1:8081".to_owned()),
            clickhouse: ClickHouseEndpoint::default(),
        };
        let path = folder.path().join("state/stack.json");
        let first = write_note_at(path.clone(), &endpoints, PDP);
        assert!(matches!(first, NoteOutcome::Written { .. }), "{first:?}");
        let beside = decision_point_path(&path);
        assert_eq!(std::fs::read_to_string(&beside).unwrap(), PDP);
        assert!(matches!(write_note_at(path.clone(), &endpoints, PDP), NoteOutcome::OtherStackNoted));
        // A folder cannot be created below a file.
        match write_note_at(path.join("below/stack.json"), &endpoints, PDP) {
            NoteOutcome::Failed { error } => {
                assert!(error.to_string().starts_with(&path.join("below").display().to_string()), "{error}");
            }
            other => panic!("{other:?}"),
        }
        drop(first);
        assert!(!path.exists() && !beside.exists());
    }
}
