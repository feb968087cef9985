//! The note that a running `up` or `demo --keep` leaves, so that other commands find its stack without being told.
//! It counts only while its writer holds it locked: a note of a stack that is gone misleads nobody.

#[cfg(feature = "local-stack")]
mod note;

use std::fs::File;
use std::path::PathBuf;

use agentgov_connect::{Endpoints, Settings};

#[cfg(feature = "local-stack")]
pub use note::{Noted, note};

/// The stack of the note, if there is one that counts.
pub fn noted() -> Option<Endpoints> {
    let file = File::open(path()).ok()?;
    if file.try_lock_shared().is_ok() {
        return None;
    }
    Settings::read(&|_| None, Some(&path())).ok()?.endpoints().ok()
}

fn path() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("XDG_STATE_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".local/state")))
        .unwrap_or_else(std::env::temp_dir)
        .join("agentgov/stack.json")
}
