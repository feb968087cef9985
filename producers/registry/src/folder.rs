//! Reads the folder of a bundle into memory.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Maximum bytes of all files of a bundle together, since a bundle is one record.
pub const MAX_BUNDLE_BYTES: u64 = 4 * 1024 * 1024;

/// The files of a bundle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BundleFolder {
    /// Contents by path, relative to the folder and with forward slashes.
    pub files: BTreeMap<String, Vec<u8>>,
}

/// A folder that cannot be read as a bundle.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// A file or folder cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// An entry is neither a file nor a folder. Links are refused, since their targets are not reviewed with the bundle.
    #[error("{0}: expected files and folders in a bundle, found a link or device; put the file itself there")]
    NotAFile(PathBuf),
    /// A file name is not portable.
    #[error("{0}: expected a file name in UTF-8 without a backslash")]
    Name(PathBuf),
    /// The files are too large.
    #[error("{path}: expected a bundle of at most {MAX_BUNDLE_BYTES} bytes, found more")]
    TooLarge {
        /// The first file above the limit.
        path: PathBuf,
    },
    /// The folder has no files.
    #[error("{0}: expected a bundle's files, found none")]
    Empty(PathBuf),
}

/// Reads every file under `folder`. Skips files and folders whose name begins with a dot, which belong to editors and version
/// control.
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
            // The type of the entry itself: links are not followed.
            let kind = entry.file_type().map_err(failed(&path))?;
            if kind.is_dir() {
                self.read(&path, &format!("{prefix}{name}/"))?;
            } else if kind.is_file() {
                self.read_file(&path, format!("{prefix}{name}"), failed(&path))?;
            } else {
                return Err(FolderError::NotAFile(path));
            }
        }
        Ok(())
    }

    fn read_file(
        &mut self,
        path: &Path,
        name: String,
        failed: impl FnOnce(io::Error) -> FolderError,
    ) -> Result<(), FolderError> {
        use io::Read as _;
        let mut content = Vec::new();
        // Reads at most one byte more than allowed, whatever size the file claims.
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
    fn folder_is_read_as_files_by_path() {
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
    fn folder_that_is_no_bundle_is_an_error() {
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
