//! stack.toml (requested parts) and stack.lock (exact files).

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Error;
use crate::part::Part;

/// Lock of this build.
const EMBEDDED: &str = include_str!("../../stack.lock");

/// Source of a part's files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Source {
    /// Artifacts `group:artifact:version` with their runtime dependencies.
    MavenTree(Vec<String>),
    /// One tar.gz, `group:artifact:version:type:classifier`, to be unpacked.
    MavenArchive(String),
    /// One npm package, `name@version`, to be unpacked.
    NpmArchive(String),
}

impl Source {
    /// Returns the coordinates for messages.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::MavenTree(artifacts) => artifacts.join(", "),
            Self::MavenArchive(coordinates) | Self::NpmArchive(coordinates) => coordinates.clone(),
        }
    }
}

/// Part of stack.toml.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RequestedPart {
    /// Official image, for the docker backend.
    pub(crate) image: String,
    /// Files, for the native backend.
    pub(crate) source: Source,
}

/// Content of stack.toml.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StackManifest {
    pub(crate) broker: RequestedPart,
    pub(crate) registry: RequestedPart,
    pub(crate) engine: RequestedPart,
}

/// Downloaded file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LockedFile {
    pub(crate) name: String,
    /// Size in bytes.
    pub(crate) size: u64,
    /// In hex.
    pub(crate) sha256: String,
}

impl LockedFile {
    /// Returns size and digest, for messages.
    pub(crate) fn describe(&self) -> String {
        format!("{} bytes with sha256 {}", self.size, self.sha256)
    }
}

/// Part with its locked files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LockedPart {
    pub(crate) image: String,
    pub(crate) source: Source,
    /// Sorted by name.
    pub(crate) file: Vec<LockedFile>,
}

impl LockedPart {
    /// Returns the number of bytes to download.
    pub(crate) fn size(&self) -> u64 {
        self.file.iter().map(|file| file.size).sum()
    }

    /// Returns a short digest of these files.
    pub(crate) fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for file in &self.file {
            hash.update(format!("{} {} {}\n", file.name, file.size, file.sha256));
        }
        format!("{:x}", hash.finalize()).chars().take(16).collect()
    }
}

/// Content of stack.lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Lock {
    pub(crate) broker: LockedPart,
    pub(crate) registry: LockedPart,
    pub(crate) engine: LockedPart,
}

impl Lock {
    /// Returns the lock compiled into this build.
    pub(crate) fn embedded() -> Result<Self, Error> {
        Self::parse(EMBEDDED)
    }

    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        toml::from_str(text).map_err(|error| invalid_file("stack.lock", &error))
    }

    pub(crate) fn part(&self, part: Part) -> &LockedPart {
        match part {
            Part::Broker => &self.broker,
            Part::Registry => &self.registry,
            Part::Engine => &self.engine,
        }
    }
}

impl StackManifest {
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        toml::from_str(text).map_err(|error| invalid_file("stack.toml", &error))
    }
}

fn invalid_file(file: &str, error: &toml::de::Error) -> Error {
    Error::LockFile { file: file.to_owned(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embedded_lock_matches_stack_toml() {
        let manifest = StackManifest::parse(include_str!("../../stack.toml")).unwrap();
        let lock = Lock::embedded().unwrap();
        for (requested, part) in [
            (manifest.broker, Part::Broker),
            (manifest.registry, Part::Registry),
            (manifest.engine, Part::Engine),
        ] {
            let locked = lock.part(part);
            let again = "run `agentgov testenv lock`";
            assert_eq!(
                (&requested.image, &requested.source),
                (&locked.image, &locked.source),
                "{part}: {again}"
            );
            assert!(!locked.file.is_empty(), "{part}: {again}");
            assert!(locked.file.is_sorted(), "{part}");
            assert!(locked.file.iter().all(|file| file.sha256.len() == 64 && file.size > 0), "{part}");
        }
    }

    #[test]
    fn digest_depends_on_the_files() {
        let mut locked = Lock::embedded().unwrap().broker;
        let before = locked.digest();
        locked.file[0].sha256 = "0".repeat(64);
        assert_ne!(before, locked.digest());
        assert_eq!(before.len(), 16);
    }

    #[test]
    fn unknown_key_is_an_error_with_its_line() {
        let error = StackManifest::parse("[broker]\nimage = 'a'\nsource.npm-archive = 'b'\nimages = 1\n")
            .unwrap_err();
        assert!(error.to_string().contains("line 4"), "{error}");
    }
}
