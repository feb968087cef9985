//! stack.toml, what is wanted, and stack.lock, exactly which files that is.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Error;
use crate::part::Part;

/// The lock that this build goes by.
const EMBEDDED: &str = include_str!("../../stack.lock");

/// Where a part's files come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Source {
    /// Artifacts `group:artifact:version` with everything that they need at run time.
    MavenTree(Vec<String>),
    /// One tar.gz, `group:artifact:version:type:classifier`, to be unpacked.
    MavenArchive(String),
    /// One npm package, `name@version`, to be unpacked.
    NpmArchive(String),
}

impl Source {
    /// The coordinates, for people.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::MavenTree(artifacts) => artifacts.join(", "),
            Self::MavenArchive(coordinates) | Self::NpmArchive(coordinates) => coordinates.clone(),
        }
    }
}

/// A part as stack.toml wants it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    /// The official image, for the docker backend.
    pub(crate) image: String,
    /// The files, for the native backend.
    pub(crate) source: Source,
}

/// stack.toml.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wish {
    pub(crate) broker: Wanted,
    pub(crate) registry: Wanted,
    pub(crate) engine: Wanted,
}

/// One downloaded file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LockedFile {
    pub(crate) name: String,
    /// Bytes.
    pub(crate) size: u64,
    /// In hex.
    pub(crate) sha256: String,
}

impl LockedFile {
    /// Size and digest, for messages.
    pub(crate) fn describe(&self) -> String {
        format!("{} bytes with sha256 {}", self.size, self.sha256)
    }
}

/// A part with the files that it was locked to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Locked {
    pub(crate) image: String,
    pub(crate) source: Source,
    /// Sorted by name.
    pub(crate) file: Vec<LockedFile>,
}

impl Locked {
    /// Bytes to download.
    pub(crate) fn size(&self) -> u64 {
        self.file.iter().map(|file| file.size).sum()
    }

    /// A short name of exactly these files.
    pub(crate) fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for file in &self.file {
            hash.update(format!("{} {} {}\n", file.name, file.size, file.sha256));
        }
        format!("{:x}", hash.finalize()).chars().take(16).collect()
    }
}

/// stack.lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Lock {
    pub(crate) broker: Locked,
    pub(crate) registry: Locked,
    pub(crate) engine: Locked,
}

impl Lock {
    /// The lock compiled into this build.
    pub(crate) fn embedded() -> Result<Self, Error> {
        Self::parse(EMBEDDED)
    }

    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        toml::from_str(text).map_err(|error| unparsed("stack.lock", &error))
    }

    pub(crate) fn part(&self, part: Part) -> &Locked {
        match part {
            Part::Broker => &self.broker,
            Part::Registry => &self.registry,
            Part::Engine => &self.engine,
        }
    }
}

impl Wish {
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        toml::from_str(text).map_err(|error| unparsed("stack.toml", &error))
    }
}

fn unparsed(file: &str, error: &toml::de::Error) -> Error {
    Error::LockFile { file: file.to_owned(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_lock_is_what_stack_toml_wants() {
        let wish = Wish::parse(include_str!("../../stack.toml")).unwrap();
        let lock = Lock::embedded().unwrap();
        for (wanted, part) in
            [(wish.broker, Part::Broker), (wish.registry, Part::Registry), (wish.engine, Part::Engine)]
        {
            let locked = lock.part(part);
            let again = "run `agentgov testenv lock`";
            assert_eq!((&wanted.image, &wanted.source), (&locked.image, &locked.source), "{part}: {again}");
            assert!(!locked.file.is_empty(), "{part}: {again}");
            assert!(locked.file.is_sorted(), "{part}");
            assert!(locked.file.iter().all(|file| file.sha256.len() == 64 && file.size > 0), "{part}");
        }
    }

    #[test]
    fn the_digest_follows_the_files() {
        let mut locked = Lock::embedded().unwrap().broker;
        let before = locked.digest();
        locked.file[0].sha256 = "0".repeat(64);
        assert_ne!(before, locked.digest());
        assert_eq!(before.len(), 16);
    }

    #[test]
    fn an_unknown_key_is_an_error_with_its_place() {
        let error = Wish::parse("[broker]\nimage = 'a'\nsource.npm-archive = 'b'\nimages = 1\n").unwrap_err();
        assert!(error.to_string().contains("line 4"), "{error}");
    }
}
