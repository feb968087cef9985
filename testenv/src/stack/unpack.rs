//! Unpacks verified downloads.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::lock::Source;
use crate::Error;

/// Unpacks archives below `staging`; jars stay as they are.
pub(super) fn unpack(source: &Source, download: &Path, staging: &Path) -> Result<PathBuf, Error> {
    if matches!(source, Source::MavenTree(_)) {
        return Ok(download.to_path_buf());
    }
    let content = staging.join("content");
    std::fs::create_dir(&content).map_err(Error::io("create", &content))?;
    for entry in std::fs::read_dir(download).map_err(Error::io("list", download))? {
        let archive = entry.map_err(Error::io("list", download))?.path();
        let file = File::open(&archive).map_err(Error::io("open", &archive))?;
        let unpacked = tar::Archive::new(flate2::read::GzDecoder::new(file)).unpack(&content);
        unpacked.map_err(Error::io("unpack", &archive))?;
    }
    Ok(content)
}
