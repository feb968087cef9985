//! Who owns what in a spool's folder. A lock is held on a file, so it ends with its process, however that ends.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::{SpoolError, io};

const LOCK: &str = "lock";

/// A spool's folder, locked: nobody else claims or makes sources in it meanwhile.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    _lock: File,
}

/// A source's folder, and the lock that says whose it is.
#[derive(Debug)]
pub(crate) struct Owned {
    pub(super) path: PathBuf,
    lock: File,
}

/// The folder of a source whose process is gone.
pub(crate) type Dead = Owned;

impl Folder {
    /// Opens the folder, or makes it, and locks it. Others hold that lock for milliseconds only.
    pub(crate) fn lock(path: &Path) -> Result<Self, SpoolError> {
        fs::create_dir_all(path).map_err(io(path, "making the folder"))?;
        let lock = lock_file(path)?;
        lock.lock().map_err(io(path, "locking the folder"))?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Claims every source that no process holds, the oldest first.
    pub(crate) fn claim_dead(&self) -> Result<Vec<Dead>, SpoolError> {
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
                // Who recovered it has just removed it.
                Err(_) if !path.exists() => continue,
                Err(error) => return Err(error),
            };
            match lock.try_lock() {
                Ok(()) => dead.push(Owned { path, lock }),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(io(&path, "locking the folder")(error)),
            }
        }
        // Ids of version 7 begin with the time.
        dead.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(dead)
    }

    /// Makes a source's folder, and owns it.
    pub(crate) fn make(&self, source_id: &str) -> Result<Owned, SpoolError> {
        let path = self.path.join(source_id);
        // Payloads are in it: nobody else's to read.
        DirBuilder::new().mode(0o700).create(&path).map_err(io(&path, "making the folder"))?;
        let lock = lock_file(&path)?;
        lock.try_lock().map_err(|error| io(&path, "locking the folder")(error.into()))?;
        Ok(Owned { path, lock })
    }
}

impl Owned {
    /// Removes the folder, the segments in the given order. What is left of it if that is interrupted is a dead source.
    pub(super) fn remove<'a>(&self, segments: impl Iterator<Item = &'a Path>) -> Result<(), SpoolError> {
        for segment in segments {
            remove_file(segment)?;
        }
        remove_file(&self.path.join(LOCK))?;
        match fs::remove_dir(&self.path) {
            // Someone looked whether it is dead, just now, and will find it empty.
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(()),
            removed => removed.map_err(io(&self.path, "removing the folder")),
        }
    }

    /// Makes what was created or removed in the folder durable.
    pub(super) fn sync(&self) -> std::io::Result<()> {
        sync_folder(&self.path)
    }

    /// Gives the source up, so that another process may claim it.
    pub(super) fn release(self) {
        drop(self.lock);
    }
}

/// Removes a file, which may be gone already.
pub(super) fn remove_file(path: &Path) -> Result<(), SpoolError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(io(path, "removing the file")),
    }
}

/// Makes a folder's entries durable.
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
    fn a_source_is_claimed_by_one_and_only_when_its_process_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let locked = || Folder::lock(folder.path()).unwrap();
        // A statement each: the folder's lock is held until its end.
        let second = locked().make("b").unwrap();
        let first = locked().make("a").unwrap();
        assert_eq!(fs::metadata(&first.path).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(locked().claim_dead().unwrap().is_empty(), "both live");
        drop(second);
        let dead = locked().claim_dead().unwrap();
        assert_eq!(dead.iter().map(|dead| dead.path.clone()).collect::<Vec<_>>(), [folder.path().join("b")]);
        assert!(locked().claim_dead().unwrap().is_empty(), "one is live, the other claimed");
        drop((first, dead));
        let mut dead = locked().claim_dead().unwrap();
        assert!(dead[0].path < dead[1].path && dead.len() == 2);
        dead.pop().unwrap().remove(std::iter::empty()).unwrap();
        assert!(!folder.path().join("b").exists());
        assert!(locked().make("a").is_err(), "a source is made once");
    }
}
