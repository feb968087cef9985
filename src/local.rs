//! Note: file with the addresses of the stack of a running `up` or `demo --keep`, for other commands. The writer holds
//! a lock on the file; an unlocked note belongs to a stack that has ended, and is ignored.

#[cfg(feature = "local-stack")]
mod note;

use std::ffi::OsString;
use std::fs::File;
use std::path::PathBuf;

use agentgov_connect::{Endpoints, Settings};

#[cfg(feature = "local-stack")]
pub use note::{NoteOutcome, write_note};

/// Returns the stack of the note, if its writer still runs.
pub fn read_note() -> Option<Endpoints> {
    let path = note_path()?;
    let file = File::open(&path).ok()?;
    if file.try_lock_shared().is_ok() {
        return None;
    }
    Settings::read(&|_| None, Some(&path)).ok()?.endpoints().ok()
}

/// Returns the address of the decision point beside the note, if its writer still runs.
pub fn read_decision_point() -> Option<String> {
    read_note()?;
    let url = std::fs::read_to_string(decision_point_path(&note_path()?)).ok()?;
    Some(url.trim().to_owned()).filter(|url| !url.is_empty())
}

/// The address is in a file of its own, since the note has settings of Kafka, schema registry and ClickHouse only.
fn decision_point_path(note: &std::path::Path) -> PathBuf {
    note.with_file_name("pdp")
}

/// Returns the private folder of this user for files of `agentgov` that outlive a process.
pub fn state_folder() -> Option<PathBuf> {
    Some(note_path()?.parent()?.to_owned())
}

/// Returns `None` without a private folder of this user: in a shared folder, another user could write the note.
fn note_path() -> Option<PathBuf> {
    note_path_in(&|name| std::env::var_os(name))
}

fn note_path_in(variable: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let folder = |name| variable(name).map(PathBuf::from).filter(|folder| folder.is_absolute());
    let state = folder("XDG_STATE_HOME").or_else(|| folder("HOME").map(|home| home.join(".local/state")));
    state.map(|state| state.join("agentgov/stack.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn note_is_never_in_a_shared_folder() {
        let path = |set: &[(&str, &str)]| {
            note_path_in(&|name| {
                set.iter().find(|(of, _)| *of == name).map(|(_, value)| OsString::from(value))
            })
        };
        let state = ("XDG_STATE_HOME", "/state");
        let home = ("HOME", "/home/me");
        assert_eq!(path(&[state, home]), Some("/state/agentgov/stack.json".into()));
        assert_eq!(path(&[home]), Some("/home/me/.local/state/agentgov/stack.json".into()));
        for nowhere in [&[][..], &[("HOME", "")], &[("XDG_STATE_HOME", "state"), ("HOME", ".")]] {
            assert_eq!(path(nowhere), None, "{nowhere:?}");
        }
    }
}
