//! Folder of a local decision point: its signing key and its spool.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use agentgov_service::ExitCode;

use crate::failure::{Failure, OrExit as _};
use crate::print::errln;

/// Folder of a decision point. One outside a stack's folder is removed on drop, unless decisions are in its spool.
pub struct PdpFolder {
    path: PathBuf,
    is_temporary: bool,
}

impl PdpFolder {
    /// Creates the folder `pdp` in that of a stack; without a stack, a temporary one that only this user may read.
    pub fn create(stack: Option<&Path>) -> Result<Self, Failure> {
        if let Some(stack) = stack {
            let path = stack.join("pdp");
            fs::create_dir_all(&path).or_exit(ExitCode::Failed)?;
            return Ok(Self { path, is_temporary: false });
        }
        let private = fs::Permissions::from_mode(0o700);
        let folder = tempfile::Builder::new().prefix("agentgov-pdp-").permissions(private).tempdir();
        let folder = folder.or_exit(ExitCode::Failed)?;
        // Its own removal would also remove decisions.
        Ok(Self { path: folder.keep(), is_temporary: true })
    }

    pub fn key(&self) -> PathBuf {
        self.path.join("key.jwk")
    }

    pub fn spool(&self) -> PathBuf {
        self.path.join("spool")
    }

    /// Removes the files of the spool, then the key. Fails before the key if the spool has a source, which is a folder.
    fn remove(&self) -> io::Result<()> {
        let spool = self.spool();
        if spool.exists() {
            let entries = fs::read_dir(&spool)?.collect::<io::Result<Vec<_>>>()?;
            let mut files = Vec::new();
            for entry in entries {
                if entry.file_type()?.is_dir() {
                    return Err(io::ErrorKind::DirectoryNotEmpty.into());
                }
                files.push(entry.path());
            }
            files.iter().try_for_each(fs::remove_file)?;
            // Not recursive: a source that was created meanwhile stays.
            fs::remove_dir(&spool)?;
        }
        match fs::remove_file(self.key()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => fs::remove_dir(&self.path),
        }
    }
}

impl Drop for PdpFolder {
    fn drop(&mut self) {
        if !self.is_temporary {
            return;
        }
        match self.remove() {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => errln!(
                "agentgov: warning: decisions that did not reach Kafka are in {}, beside the private key of their decision point: \
                 publish them with `agentgov pdp --spool {}`, then remove the folder {}",
                self.spool().display(),
                self.spool().display(),
                self.path.display()
            ),
            Err(error) => errln!(
                "agentgov: warning: {}: {}; remove this folder, which has the private key of the decision point",
                self.path.display(),
                error
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use agentgov_registry::{create_key_file, generate_key};

    use super::*;

    #[test]
    fn temporary_folder_is_removed_unless_its_spool_has_a_source() {
        for (source, is_kept) in [(None, false), (Some("source"), true)] {
            let folder = PdpFolder::create(None).unwrap();
            let (path, key, spool) = (folder.path.clone(), folder.key(), folder.spool());
            create_key_file(&key, &generate_key().unwrap()).unwrap();
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!((mode(&path), mode(&key)), (0o700, 0o600));
            fs::create_dir(&spool).unwrap();
            for file in ["lock", "schema.json"] {
                fs::write(spool.join(file), "").unwrap();
            }
            if let Some(source) = source {
                fs::create_dir(spool.join(source)).unwrap();
            }
            drop(folder);
            assert_eq!(path.exists(), is_kept);
            if is_kept {
                assert!(key.exists() && spool.join("lock").exists() && spool.join("source").exists());
                fs::remove_dir_all(&path).unwrap();
            }
        }
        drop(PdpFolder::create(None).unwrap());
    }

    #[test]
    fn folder_of_a_stack_stays() {
        let stack = tempfile::tempdir().unwrap();
        drop(PdpFolder::create(Some(stack.path())).unwrap());
        let folder = PdpFolder::create(Some(stack.path())).unwrap();
        assert_eq!(folder.key(), stack.path().join("pdp/key.jwk"));
        assert!(stack.path().join("pdp").exists());
    }
}
