//! File helpers: ends of logs, sizes of directory trees.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Number of log lines in an error.
const MAX_LINES: usize = 25;

/// Returns the last lines of a log, indented; a note if it is empty.
pub(crate) fn tail(log: &Path) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    last_lines(&text)
}

/// Returns the last lines of a text, indented.
pub(crate) fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    let skipped = lines.len().saturating_sub(MAX_LINES);
    let shown: Vec<String> = lines.into_iter().skip(skipped).map(|line| format!("    {line}")).collect();
    if shown.is_empty() { "    (it is empty)".to_owned() } else { shown.join("\n") }
}

/// Returns the sizes of all files below `folder`, by relative path.
pub(crate) fn sizes_below(folder: &Path) -> std::io::Result<BTreeMap<PathBuf, u64>> {
    let mut sizes = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(current) = folders.pop() {
        for entry in std::fs::read_dir(&current)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else if let Ok(path) = entry.path().strip_prefix(folder) {
                sizes.insert(path.to_path_buf(), entry.metadata()?.len());
            }
        }
    }
    Ok(sizes)
}

/// Returns the bytes below `folder`; concurrent changes may be missed.
pub(crate) fn size_below(folder: &Path) -> u64 {
    sizes_below(folder).map_or(0, |sizes| sizes.values().sum())
}
