//! A bundle's folder, read into memory.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Most bytes of all files of a bundle together: it travels as one record.
pub const MAX_BUNDLE_BYTES: u64 = 4 * 1024 * 1024;

/// The files of a bundle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BundleFolder {
    /// Contents by path: relative to the folder, with forward slashes.
    pub files: BTreeMap<String, Vec<u8>>,
}

/// Why a folder is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It could not be read.
    #[error("{path}: {source}")]
    Read {
        /// What was read.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Neither a file nor a folder: a link could lead anywhere, and its target is not reviewed with the bundle.
    #[error("{0}: expected files and folders in a bundle, found a link or device; put the file itself there")]
    NotAFile(PathBuf),
    /// A name that other systems cannot write.
    #[error("{0}: expected a file name in UTF-8 without a backslash")]
    Name(PathBuf),
    /// Too much of it.
    #[error("{path}: expected a bundle of at most {MAX_BUNDLE_BYTES} bytes, found more")]
    TooLarge {
        /// The file that is too much.
        path: PathBuf,
    },
    /// Nothing of it.
    #[error("{0}: expected a bundle's files, found none")]
    Empty(PathBuf),
}

/// Reads every file under `folder`, except those whose name, or a folder's on the way, begins with a dot: those belong to
/// editors and version control.
pub fn read_bundle_folder(folder: &Path) -> Result<BundleFolder, FolderError> {
    let mut reader = Reader { files: BTreeMap::new(), left: MAX_BUNDLE_BYTES };
    reader.read(folder, "")?;
    if reader.files.is_empty() {
        return Err(FolderError::Empty(folder.to_owned()));
    }
    Ok(BundleFolder { files: reader.files })
}

struct Reader {
    files: BTreeMap<String, Vec<u8>>,
    left: u64,
}

impl Reader {
    fn read(&mut self, folder: &Path, prefix: &str) -> Result<(), FolderError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| FolderError::Read { path, source }
        };
        for entry in fs::read_dir(folder).map_err(failed(folder))? {
            let entry = entry.map_err(failed(folder))?;
            let path = entry.path();
            let file_name = entry.file_name();
            let name =
                file_name.to_str().filter(|n| !n.contains('\\')).ok_or(FolderError::Name(path.clone()))?;
            if name.starts_with('.') {
                continue;
            }
            // Of the entry itself: a link is not followed.
            let kind = entry.file_type().map_err(failed(&path))?;
            if kind.is_dir() {
                self.read(&path, &format!("{prefix}{name}/"))?;
            } else if kind.is_file() {
                self.take(&path, format!("{prefix}{name}"), failed(&path))?;
            } else {
                return Err(FolderError::NotAFile(path));
            }
        }
        Ok(())
    }

    fn take(
        &mut self,
        path: &Path,
        name: String,
        failed: impl FnOnce(io::Error) -> FolderError,
    ) -> Result<(), FolderError> {
        use io::Read as _;
        let mut content = Vec::new();
        // One byte more than is left tells too much from just enough, however large the file says it is.
        let read = fs::File::open(path)
            .and_then(|file| file.take(self.left + 1).read_to_end(&mut content))
            .map_err(failed)?;
        self.left = self
            .left
            .checked_sub(read as u64)
            .ok_or_else(|| FolderError::TooLarge { path: path.to_owned() })?;
        self.files.insert(name, content);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        folder
    }

    #[test]
    fn files_by_their_path() {
        let folder = folder(&[
            ("bundle.yaml", "a"),
            ("tests/b.yaml", "b"),
            (".git/c", "c"),
            ("a/b/c.cedar", ""),
            (".hidden", "x"),
        ]);
        let bundle = read_bundle_folder(folder.path()).unwrap();
        let files: Vec<_> =
            bundle.files.iter().map(|(path, content)| (path.as_str(), content.as_slice())).collect();
        assert_eq!(files, [("a/b/c.cedar", b"".as_slice()), ("bundle.yaml", b"a"), ("tests/b.yaml", b"b")]);
    }

    #[test]
    fn what_is_no_bundle() {
        let message = |folder: &Path| read_bundle_folder(folder).unwrap_err().to_string();
        let empty = folder(&[(".hidden", "x")]);
        assert!(message(empty.path()).ends_with("expected a bundle's files, found none"));
        assert!(message(&empty.path().join("nowhere")).contains("nowhere"));

        let linked = folder(&[("a", "x")]);
        std::os::unix::fs::symlink("/etc/hostname", linked.path().join("b")).unwrap();
        assert!(message(linked.path()).contains("found a link"));

        let large = folder(&[("a", "x")]);
        let limit = usize::try_from(MAX_BUNDLE_BYTES).unwrap();
        fs::write(large.path().join("b"), vec![0; limit - 1]).unwrap();
        assert_eq!(read_bundle_folder(large.path()).unwrap().files.len(), 2);
        fs::write(large.path().join("b"), vec![0; limit]).unwrap();
        assert!(message(large.path()).contains("at most 4194304 bytes"));
    }
}
