//! Sizes and digests of downloaded files, and their comparison with the lock.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::lock::LockedFile;
use crate::Error;
use crate::part::Part;

/// Describes every file in `folder`, sorted by name.
pub(super) fn describe(folder: &Path) -> Result<Vec<LockedFile>, Error> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let path = entry.map_err(Error::io("list", folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        files.push(describe_file(name, &path)?);
    }
    files.sort();
    Ok(files)
}

fn describe_file(name: String, path: &Path) -> Result<LockedFile, Error> {
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let (mut hash, mut size, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 20]);
    loop {
        let length = file.read(&mut buffer).map_err(Error::io("read", path))?;
        if length == 0 {
            break;
        }
        hash.update(buffer.get(..length).unwrap_or_default());
        size += length as u64;
    }
    Ok(LockedFile { name, size, sha256: format!("{:x}", hash.finalize()) })
}

/// Rejects files that differ from the lock, are missing, or are not listed.
pub(super) fn verify(part: Part, locked: &[LockedFile], found: &[LockedFile]) -> Result<(), Error> {
    let describe = |file: Option<&LockedFile>| file.map_or("no such file".to_owned(), LockedFile::describe);
    for file in locked.iter().chain(found) {
        let (expected, found) = (named(locked, &file.name), named(found, &file.name));
        if expected != found {
            let (expected, found) = (describe(expected), describe(found));
            return Err(Error::Digest { part, file: file.name.clone(), expected, found });
        }
    }
    Ok(())
}

fn named<'a>(files: &'a [LockedFile], name: &str) -> Option<&'a LockedFile> {
    files.iter().find(|file| file.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(folder: &Path, contents: &[(&str, &str)]) -> Vec<LockedFile> {
        for (name, text) in contents {
            std::fs::write(folder.join(name), text).unwrap();
        }
        describe(folder).unwrap()
    }

    #[test]
    fn changed_file_is_rejected_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let locked = files(folder.path(), &[("a.jar", "a"), ("b.jar", "b")]);
        verify(Part::Broker, &locked, &locked).unwrap();
        let found = files(folder.path(), &[("b.jar", "B")]);
        let message = verify(Part::Broker, &locked, &found).unwrap_err().to_string();
        assert!(message.contains("b.jar of the broker is not the file that stack.lock names"), "{message}");
    }

    #[test]
    fn additional_and_missing_files_are_rejected() {
        let folder = tempfile::tempdir().unwrap();
        let one = files(folder.path(), &[("a.jar", "a")]);
        let two = files(folder.path(), &[("b.jar", "b")]);
        for (locked, found) in [(&one, &two), (&two, &one)] {
            let message = verify(Part::Broker, locked, found).unwrap_err().to_string();
            assert!(message.contains("no such file"), "{message}");
        }
    }
}
