//! Helpers of tests of several crates. A development dependency only: no product crate depends on it.
//!
//! - [`payload`]: a payload of an event
//! - [`skip`]: fails a test whose requirements are missing, unless skipping is allowed
//! - [`shared`]: recorded data beside the repository
#![allow(clippy::panic, clippy::print_stderr, reason = "tests fail loudly, and report what they skip")]

use std::path::{Path, PathBuf};

use agentgov_schemas::Digest;
use agentgov_schemas::event::Payload;

/// Variable that allows tests to pass without their requirements if it is `1`.
pub const ALLOW_SKIP: &str = "AGENTGOV_ALLOW_SKIP";

/// Returns the workspace's folder.
pub fn root() -> &'static Path {
    // The crate is at testenv/support.
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here)
}

/// Returns JSON as a payload, with its own digest.
pub fn payload(data: &[u8]) -> Payload<'_> {
    Payload { data, sha256: Digest::of(data), media_type: "application/json", redacted: false }
}

/// Reports that a test cannot run here. The caller returns.
///
/// # Panics
/// Unless [`ALLOW_SKIP`] is `1`: a test that asserts nothing must not count as passed.
#[track_caller]
pub fn skip(test: &str, why: &str) {
    let allowed = std::env::var(ALLOW_SKIP).is_ok_and(|value| value == "1");
    assert!(allowed, "{test} cannot run: {why}; set {ALLOW_SKIP}=1 to skip it");
    eprintln!("SKIPPED {test}: {why}");
}

/// Returns a file of the recorded data beside the repository. If it does not exist, prints that and returns `None`.
///
/// # Panics
/// If the file is missing and `CI` is `true`.
#[track_caller]
pub fn shared(file: &str) -> Option<PathBuf> {
    let path = root().join("../shared/data").join(file);
    if path.exists() {
        return Some(path);
    }
    let on_ci = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(!on_ci, "expected {file} in ../shared/data on CI, found none");
    eprintln!("SKIPPED: expected {file} in ../shared/data, beside the repository, found none");
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_the_workspace() {
        assert!(root().join("topology.yaml").is_file());
    }

    /// The test follows the variables of this process.
    #[test]
    fn skip_fails_unless_it_is_allowed() {
        let allowed = std::env::var(ALLOW_SKIP).is_ok_and(|value| value == "1");
        let skipped = std::panic::catch_unwind(|| skip("a test", "nothing is here"));
        assert_eq!(skipped.is_ok(), allowed);
    }

    #[test]
    fn missing_shared_file_fails_on_ci_only() {
        let on_ci = std::env::var("CI").is_ok_and(|value| value == "true");
        let missing = std::panic::catch_unwind(|| shared("no-such-file"));
        assert_eq!(missing.is_err(), on_ci);
        assert!(missing.is_err() || missing.is_ok_and(|file| file.is_none()));
    }
}
