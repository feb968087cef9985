//! Ownership of the sources in a spool's folder, by file locks. The operating system releases them when their process ends.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::{SpoolError, io};

const LOCK: &str = "lock";
/// File that gives its room to a new segment when the disk is full.
const RESERVE: &str = "reserve";

/// A spool's folder with its lock: no other process claims or creates sources while this value exists.
#[derive(Debug)]
pub(crate) struct SpoolFolder {
    path: PathBuf,
    _lock: File,
}

/// A source's folder with its lock, which makes this process its owner.
#[derive(Debug)]
pub(crate) struct SourceFolder {
    pub(super) path: PathBuf,
    lock: File,
}

impl SpoolFolder {
    /// Opens or creates the folder, and locks it. Other processes hold the lock only for milliseconds.
    pub(crate) fn lock(path: &Path) -> Result<Self, SpoolError> {
        fs::create_dir_all(path).map_err(io(path, "creating the folder"))?;
        let lock = lock_file(path)?;
        lock.lock().map_err(io(path, "locking the folder"))?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Returns the path of the folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Claims every source without an owner, the oldest first.
    pub(crate) fn claim_dead_sources(&self) -> Result<Vec<SourceFolder>, SpoolError> {
        let mut dead = Vec::new();
        let listing = io(&self.path, "listing the folder");
        for entry in fs::read_dir(&self.path).map_err(&listing)? {
            let entry = entry.map_err(&listing)?;
            let path = entry.path();
            if !entry.file_type().map_err(&listing)?.is_dir() {
                continue;
            }
            let lock = match lock_file(&path) {
                Ok(lock) => lock,
                // The process that recovered the source has just removed it.
                Err(_) if !path.exists() => continue,
                Err(error) => return Err(error),
            };
            match lock.try_lock() {
                Ok(()) => dead.push(SourceFolder { path, lock }),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(io(&path, "locking the folder")(error)),
            }
        }
        // Source ids are UUIDs of version 7, which start with the time.
        dead.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(dead)
    }

    /// Creates the folder of a source and locks it.
    pub(crate) fn create_source(&self, source_id: &str) -> Result<SourceFolder, SpoolError> {
        let path = self.path.join(source_id);
        // The folder has payloads, so other users must not read it.
        DirBuilder::new().mode(0o700).create(&path).map_err(io(&path, "creating the folder"))?;
        let lock = lock_file(&path)?;
        lock.try_lock().map_err(|error| io(&path, "locking the folder")(error.into()))?;
        Ok(SourceFolder { path, lock })
    }
}

impl SourceFolder {
    /// Removes the segments in the given order, then the folder. After an interruption, the rest is a dead source.
    pub(super) fn remove<'a>(&self, segments: impl Iterator<Item = &'a Path>) -> Result<(), SpoolError> {
        for segment in segments {
            remove_file(segment)?;
        }
        remove_file(&reserve_path(&self.path))?;
        remove_file(&self.path.join(LOCK))?;
        match fs::remove_dir(&self.path) {
            // Another process has just created its lock file to claim the source, and finds no segments.
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(()),
            removed => removed.map_err(io(&self.path, "removing the folder")),
        }
    }

    /// Makes created and removed files of the folder durable.
    pub(super) fn sync(&self) -> std::io::Result<()> {
        sync_folder(&self.path)
    }

    /// Releases the lock, so that another process may claim the source.
    pub(super) fn release(self) {
        drop(self.lock);
    }
}

/// Returns the path of a source's reserve.
pub(super) fn reserve_path(source: &Path) -> PathBuf {
    source.join(RESERVE)
}

/// Removes a file. A missing file is no error.
pub(super) fn remove_file(path: &Path) -> Result<(), SpoolError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(io(path, "removing the file")),
    }
}

/// Makes the entries of a folder durable.
pub(super) fn sync_folder(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

fn lock_file(folder: &Path) -> Result<File, SpoolError> {
    let path = folder.join(LOCK);
    let mut options = OpenOptions::new();
    options.create(true).append(true).open(&path).map_err(io(&path, "opening the lock"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn source_is_claimed_once_and_only_without_an_owner() {
        let folder = tempfile::tempdir().unwrap();
        let locked = || SpoolFolder::lock(folder.path()).unwrap();
        // One statement each, since the folder stays locked until the end of the statement.
        let second = locked().create_source("b").unwrap();
        let first = locked().create_source("a").unwrap();
        assert_eq!(fs::metadata(&first.path).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(locked().claim_dead_sources().unwrap().is_empty(), "both have an owner");
        drop(second);
        let dead = locked().claim_dead_sources().unwrap();
        assert_eq!(dead.iter().map(|dead| dead.path.clone()).collect::<Vec<_>>(), [folder.path().join("b")]);
        assert!(locked().claim_dead_sources().unwrap().is_empty(), "one has an owner, the other is claimed");
        drop((first, dead));
        let mut dead = locked().claim_dead_sources().unwrap();
        assert!(dead[0].path < dead[1].path && dead.len() == 2);
        dead.pop().unwrap().remove(std::iter::empty()).unwrap();
        assert!(!folder.path().join("b").exists());
        assert!(locked().create_source("a").is_err(), "a source is created once");
    }
}
