//! What the registry last said, so that a service starts while it is away.

use std::fs;
use std::path::{Path, PathBuf};

use agentgov_schemas::wire::SchemaId;
use serde::{Deserialize, Serialize};

use super::{SpoolError, io};

/// The id that a registry gave to a schema. Ids are never given anew, so this stays true for as long as the registry does.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KnownSchema {
    pub(crate) registry: String,
    pub(crate) subject: String,
    pub(crate) fingerprint: String,
    pub(crate) id: u32,
}

impl KnownSchema {
    /// The id, if the folder knows it of this very schema and registry. A file that does not read is as good as none.
    pub(crate) fn recall(
        folder: &Path,
        registry: &str,
        subject: &str,
        fingerprint: &str,
    ) -> Option<SchemaId> {
        let known: Self = serde_json::from_slice(&fs::read(file(folder)).ok()?).ok()?;
        let same = (known.registry.as_str(), known.subject.as_str(), known.fingerprint.as_str())
            == (registry, subject, fingerprint);
        same.then_some(SchemaId(known.id))
    }

    /// Notes it.
    pub(crate) fn note(&self, folder: &Path) -> Result<(), SpoolError> {
        fs::create_dir_all(folder).map_err(io(folder, "making the folder"))?;
        let path = file(folder);
        // Two processes may note at the same time.
        let new = path.with_extension(format!("{}.new", std::process::id()));
        let write = || {
            fs::write(&new, serde_json::to_vec(self)?)?;
            fs::rename(&new, &path)
        };
        write().map_err(io(&path, "noting the schema's id"))
    }
}

fn file(folder: &Path) -> PathBuf {
    folder.join("schema.json")
}
