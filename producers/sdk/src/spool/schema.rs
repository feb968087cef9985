//! Cache of the schema id in the spool's folder, so that a service starts while the schema registry is unavailable.

use std::fs;
use std::path::{Path, PathBuf};

use agentgov_schemas::wire::SchemaId;
use serde::{Deserialize, Serialize};

use super::{SpoolError, io};

/// Id of a schema in a schema registry. A registry never changes or reuses an id, so the cache stays valid for the same
/// registry.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CachedSchemaId {
    pub(crate) registry: String,
    pub(crate) subject: String,
    pub(crate) fingerprint: String,
    pub(crate) id: u32,
}

impl CachedSchemaId {
    /// Reads the id. Returns `None` if the file is missing, unreadable, or of another schema or registry.
    pub(crate) fn load(folder: &Path, registry: &str, subject: &str, fingerprint: &str) -> Option<SchemaId> {
        let cached: Self = serde_json::from_slice(&fs::read(file(folder)).ok()?).ok()?;
        let same = (cached.registry.as_str(), cached.subject.as_str(), cached.fingerprint.as_str())
            == (registry, subject, fingerprint);
        same.then_some(SchemaId(cached.id))
    }

    /// Writes the file.
    pub(crate) fn store(&self, folder: &Path) -> Result<(), SpoolError> {
        fs::create_dir_all(folder).map_err(io(folder, "creating the folder"))?;
        let path = file(folder);
        // Two processes may write at the same time: each has a temporary file of its own.
        let new = path.with_extension(format!("{}.new", std::process::id()));
        let write = || {
            fs::write(&new, serde_json::to_vec(self)?)?;
            fs::rename(&new, &path)
        };
        write().map_err(io(&path, "storing the schema id"))
    }
}

fn file(folder: &Path) -> PathBuf {
    folder.join("schema.json")
}
