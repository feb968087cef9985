//! Directory layout of a stack.

use std::path::{Path, PathBuf};

use crate::Error;
use crate::part::Part;

/// Directory of one stack: a folder per part, and the logs.
#[derive(Debug)]
pub(crate) struct Layout {
    root: PathBuf,
    /// True if the directory is removed at the end.
    pub(crate) temporary: bool,
}

impl Layout {
    /// Creates the directory, or opens an existing one.
    pub(crate) fn open(wanted: Option<&Path>) -> Result<Self, Error> {
        let (root, temporary) = match wanted {
            Some(root) => (root.to_path_buf(), false),
            None => {
                let parent = std::env::temp_dir();
                let folder = tempfile::Builder::new().prefix("agentgov-stack-").tempdir_in(&parent);
                (folder.map_err(Error::io("create a folder in", &parent))?.keep(), true)
            }
        };
        let logs = root.join("logs");
        std::fs::create_dir_all(&logs).map_err(Error::io("create", &logs))?;
        for part in Part::ALL {
            let folder = root.join(part.name());
            std::fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        }
        // The engine identifies its storage by the spelling of its path.
        let root = root.canonicalize().map_err(Error::io("find", &root))?;
        Ok(Self { root, temporary })
    }

    /// Removes a temporary directory after a start that failed before the supervisor took over.
    pub(crate) fn discard(&self) {
        if self.temporary {
            // A failure only leaves a directory behind.
            let _ = std::fs::remove_dir_all(&self.root);
        }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the part's folder.
    pub(crate) fn folder(&self, part: Part) -> PathBuf {
        self.root.join(part.name())
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// Returns the part's log file.
    pub(crate) fn log(&self, part: Part) -> PathBuf {
        self.logs().join(format!("{part}.log"))
    }
}
