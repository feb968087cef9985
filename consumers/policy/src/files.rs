//! A bundle as files.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::str::Utf8Error;

use agentgov_schemas::{Digest, governance};

/// The files of a bundle by their path: relative, with forward slashes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BundleFiles(pub BTreeMap<String, Vec<u8>>);

impl BundleFiles {
    /// The bundle's name for ever: [`Digest::of_parts`] over path, content, path, content …, in order of the paths.
    pub fn digest(&self) -> Digest {
        Digest::of_parts(self.0.iter().flat_map(|(path, content)| [path.as_bytes(), content.as_slice()]))
    }

    /// The text of a file as it is read: without a byte order mark, each line ended by a line feed alone. A checkout on Windows
    /// reads like any other; its digest is another, since that is over the bytes.
    ///
    /// # Errors
    /// It is not UTF-8.
    pub(crate) fn text(content: &[u8]) -> Result<Cow<'_, str>, Utf8Error> {
        let text = std::str::from_utf8(content)?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Ok(if text.contains("\r\n") { text.replace("\r\n", "\n").into() } else { text.into() })
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
