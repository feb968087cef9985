//! Programs that the native backend needs, and one error for all missing ones.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;
use std::process::Command;

use thiserror::Error;

use crate::error::USE_CONTAINERS;

/// Oldest supported Java version.
const MIN_JAVA_VERSION: u32 = 17;

/// Programs needed for missing parts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RequiredTools {
    /// Broker or registry must be downloaded.
    pub(crate) maven: bool,
    /// Engine must be downloaded.
    pub(crate) npm: bool,
}

/// Located programs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tools {
    pub(crate) java: PathBuf,
    pub(crate) maven: PathBuf,
    pub(crate) npm: PathBuf,
}

/// Missing or outdated programs, with alternatives.
#[derive(Debug, Error, PartialEq, Eq)]
pub struct MissingTools {
    /// One line each: program, purpose, finding.
    pub missing: Vec<String>,
}

impl fmt::Display for MissingTools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the native backend needs programs that this machine does not have:")?;
        for line in &self.missing {
            writeln!(f, "  - {line}")?;
        }
        writeln!(f, "Alternatives:")?;
        writeln!(f, "  1. install them, on Debian: apt-get install openjdk-17-jre-headless maven npm")?;
        writeln!(f, "  2. {USE_CONTAINERS}; the stack then runs in containers")?;
        write!(
            f,
            "  3. use a stack of your own: set AGENTGOV_KAFKA, AGENTGOV_SCHEMA_REGISTRY and AGENTGOV_CLICKHOUSE"
        )
    }
}

impl Tools {
    /// Searches the programs in PATH, and Java first in JAVA_HOME.
    pub(crate) fn find(required: RequiredTools) -> Result<Self, MissingTools> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        Self::find_in(&path, std::env::var_os("JAVA_HOME"), required)
    }

    fn find_in(
        path: &OsStr,
        java_home: Option<OsString>,
        required: RequiredTools,
    ) -> Result<Self, MissingTools> {
        let mut missing = Vec::new();
        let home = java_home.map(|home| PathBuf::from(home).join("bin/java")).filter(|java| java.is_file());
        let java = home.or_else(|| find_program(path, "java"));
        let too_old = match java.as_ref().map(|java| (java, major_version(java))) {
            None => Some("not found in PATH".to_owned()),
            Some((java, None)) => Some(format!("{} does not print a version", java.display())),
            Some((java, Some(found))) if found < MIN_JAVA_VERSION => {
                Some(format!("{} is version {found}", java.display()))
            }
            Some(_) => None,
        };
        if let Some(found) = too_old {
            missing.push(format!(
                "java, {MIN_JAVA_VERSION} or newer, to run the broker and the registry: {found}"
            ));
        }
        let mut locate = |wanted: bool, name: &str, purpose: &str| {
            let found = find_program(path, name);
            if wanted && found.is_none() {
                missing.push(format!("{name}, to download {purpose} once: not found in PATH"));
            }
            found.unwrap_or_default()
        };
        let maven = locate(required.maven, "mvn", "the broker and the registry");
        let npm = locate(required.npm, "npm", "the engine");
        if missing.is_empty() {
            Ok(Self { java: java.unwrap_or_default(), maven, npm })
        } else {
            Err(MissingTools { missing })
        }
    }
}

fn find_program(path: &OsStr, name: &str) -> Option<PathBuf> {
    std::env::split_paths(path).map(|folder| folder.join(name)).find(|candidate| candidate.is_file())
}

fn major_version(java: &PathBuf) -> Option<u32> {
    let output = Command::new(java).arg("-version").output().ok()?;
    parse_version(&String::from_utf8_lossy(&output.stderr))
}

/// Parses the output of `java -version`: `openjdk version "17.0.15" …` is 17, `java version "1.8.0_312"` is 8.
fn parse_version(text: &str) -> Option<u32> {
    let version = text.split('"').nth(1)?;
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next()?.ok()?, numbers.next()) {
        (1, Some(Ok(minor))) => Some(minor),
        (major, _) => Some(major),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_path_lists_all_missing_tools() {
        let required = RequiredTools { maven: true, npm: true };
        let message = Tools::find_in(OsStr::new(""), None, required).unwrap_err().to_string();
        for part in ["java, 17 or newer", "mvn", "npm", "Docker engine", "apt-get install", "AGENTGOV_KAFKA"]
        {
            assert!(message.contains(part), "{part} is missing in:\n{message}");
        }
    }

    #[test]
    fn cached_parts_require_no_downloader() {
        let error = Tools::find_in(OsStr::new(""), None, RequiredTools::default()).unwrap_err();
        assert_eq!(error.missing.len(), 1, "{error}");
    }

    #[test]
    fn java_versions_are_parsed() {
        assert_eq!(parse_version("openjdk version \"17.0.15\" 2025-04-15"), Some(17));
        assert_eq!(parse_version("java version \"1.8.0_312\""), Some(8));
        assert_eq!(parse_version("openjdk version \"21\" 2023-09-19"), Some(21));
        assert_eq!(parse_version("no java here"), None);
    }
}
