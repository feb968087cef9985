//! Files of a bundle.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::str::Utf8Error;

use agentgov_schemas::{Digest, governance};

/// Files of a bundle by path. Paths are relative, with forward slashes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BundleFiles(pub BTreeMap<String, Vec<u8>>);

impl BundleFiles {
    /// Returns the digest that identifies the bundle: [`Digest::of_parts`] over path, content, path, content …, in order of the paths.
    pub fn digest(&self) -> Digest {
        Digest::of_parts(self.0.iter().flat_map(|(path, content)| [path.as_bytes(), content.as_slice()]))
    }

    /// Decodes a file as text: removes a byte order mark and converts CRLF to LF, so that a checkout on Windows compiles alike. Its
    /// digest differs, since that is over the bytes.
    ///
    /// # Errors
    /// If the content is not UTF-8.
    pub(crate) fn text(content: &[u8]) -> Result<Cow<'_, str>, Utf8Error> {
        let text = std::str::from_utf8(content)?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Ok(if text.contains("\r\n") { text.replace("\r\n", "\n").into() } else { text.into() })
    }

    /// Returns paths and contents of the files directly in `folder` (empty for the root) whose names end with `suffix`.
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
