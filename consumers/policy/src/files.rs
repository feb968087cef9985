//! A bundle as files.

use std::collections::BTreeMap;

use agentgov_schemas::{Digest, governance};

/// The files of a bundle by their path: relative, with forward slashes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BundleFiles(pub BTreeMap<String, Vec<u8>>);

impl BundleFiles {
    /// The bundle's name for ever: [`Digest::of_parts`] over path, content, path, content …, in order of the paths.
    pub fn digest(&self) -> Digest {
        Digest::of_parts(self.0.iter().flat_map(|(path, content)| [path.as_bytes(), content.as_slice()]))
    }

    /// Paths and contents of the files directly in `folder` (empty: the bundle's own) whose name ends with `suffix`.
    pub(crate) fn matching<'f>(
        &'f self,
        folder: &'f str,
        suffix: &'f str,
    ) -> impl Iterator<Item = (&'f str, &'f [u8])> {
        self.0.iter().filter_map(move |(path, content)| {
            let name = path.strip_prefix(folder)?;
            (name.ends_with(suffix) && !name.contains('/')).then_some((path.as_str(), content.as_slice()))
        })
    }
}

impl From<&governance::Bundle<'_>> for BundleFiles {
    fn from(record: &governance::Bundle<'_>) -> Self {
        Self(record.files.iter().map(|file| (file.path.to_owned(), file.content.to_vec())).collect())
    }
}
