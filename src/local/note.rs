//! Writes the note.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use agentgov_connect::Endpoints;

use super::path;

/// A note that counts until it is dropped.
#[derive(Debug)]
pub struct Note {
    file: File,
    path: PathBuf,
}

/// Whether other commands find a stack.
#[derive(Debug)]
pub enum Noted {
    /// By a note, while this is not dropped.
    Here {
        /// The note.
        _note: Note,
    },
    /// They find another one: a process that runs has left a note before.
    Another,
    /// They do not, since the note cannot be written.
    Nowhere {
        /// Why it is not there.
        error: io::Error,
    },
}

/// Leaves a note of a stack that this process runs.
pub fn note(endpoints: &Endpoints) -> Noted {
    match path() {
        Some(path) => note_at(path, endpoints),
        None => Noted::Nowhere {
            error: io::Error::other(
                "expected HOME or XDG_STATE_HOME for the note of this stack, found neither",
            ),
        },
    }
}

fn note_at(path: PathBuf, endpoints: &Endpoints) -> Noted {
    match write(&path, endpoints) {
        Ok(Some(file)) => Noted::Here { _note: Note { file, path } },
        Ok(None) => Noted::Another,
        Err(error) => {
            let error = io::Error::new(error.kind(), format!("{}: {error}", path.display()));
            Noted::Nowhere { error }
        }
    }
}

/// Returns the file, locked; `None` if another process has it locked.
fn write(path: &Path, endpoints: &Endpoints) -> io::Result<Option<File>> {
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
    let text = serde_json::to_string(&endpoints.to_settings())?;
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(text.as_bytes())?;
    Ok(Some(file))
}

impl Drop for Note {
    fn drop(&mut self) {
        // Still locked: nobody else's note can be there.
        let _ = std::fs::remove_file(&self.path);
        let _ = self.file.unlock();
    }
}

#[cfg(test)]
mod tests {
    use agentgov_connect::{ClickHouseEndpoint, KafkaEndpoint, RegistryEndpoint};

    use super::*;

    #[test]
    fn a_note_that_cannot_be_written_is_told_with_its_path_and_the_first_one_counts() {
        let folder = tempfile::tempdir().unwrap();
        let endpoints = Endpoints {
            kafka: KafkaEndpoint::at("127.0.0.1:9092".to_owned()),
            registry: RegistryEndpoint::at("http://127.0.0.1:8081".to_owned()),
            clickhouse: ClickHouseEndpoint::default(),
        };
        let path = folder.path().join("state/stack.json");
        let first = note_at(path.clone(), &endpoints);
        assert!(matches!(first, Noted::Here { .. }), "{first:?}");
        assert!(matches!(note_at(path.clone(), &endpoints), Noted::Another));
        // Below a file there is no folder.
        match note_at(path.join("below/stack.json"), &endpoints) {
            Noted::Nowhere { error } => {
                assert!(error.to_string().starts_with(&path.join("below").display().to_string()), "{error}");
            }
            other => panic!("{other:?}"),
        }
        drop(first);
        assert!(!path.exists());
    }
}
