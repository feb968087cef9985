//! The note that a running `up` or `demo --keep` leaves, so that other commands find its stack without being told.
//! It counts only while its writer holds it locked: a note of a stack that is gone misleads nobody.

#[cfg(feature = "local-stack")]
mod note;

use std::ffi::OsString;
use std::fs::File;
use std::path::PathBuf;

use agentgov_connect::{Endpoints, Settings};

#[cfg(feature = "local-stack")]
pub use note::{Noted, note};

/// The stack of the note, if there is one that counts.
pub fn noted() -> Option<Endpoints> {
    let path = path()?;
    let file = File::open(&path).ok()?;
    if file.try_lock_shared().is_ok() {
        return None;
    }
    Settings::read(&|_| None, Some(&path)).ok()?.endpoints().ok()
}

/// `None` without a folder of this user's own: in a shared one, another user could leave a note.
fn path() -> Option<PathBuf> {
    path_in(&|name| std::env::var_os(name))
}

fn path_in(variable: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let folder = |name| variable(name).map(PathBuf::from).filter(|folder| folder.is_absolute());
    let state = folder("XDG_STATE_HOME").or_else(|| folder("HOME").map(|home| home.join(".local/state")));
    state.map(|state| state.join("agentgov/stack.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn note_is_never_in_a_folder_that_users_share() {
        let path = |set: &[(&str, &str)]| {
            path_in(&|name| set.iter().find(|(of, _)| *of == name).map(|(_, value)| OsString::from(value)))
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
