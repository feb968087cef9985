//! Policy bundles, to and from their topic.

use std::collections::BTreeMap;

use agentgov_schemas::governance::{Bundle, BundleFile};
use agentgov_schemas::{Digest, Millis};
use serde::Serialize;

use crate::fold::fold;
use crate::push::append;
use crate::{Error, Listing, RegistryContext};

/// A bundle that the policy crate found right.
#[derive(Clone, Copy, Debug)]
pub struct BundleToPush<'a> {
    /// Its files by their path: relative, with forward slashes.
    pub files: &'a BTreeMap<String, Vec<u8>>,
    /// Its name, and the key of its record.
    pub name: &'a str,
    /// Its version: names this digest for ever.
    pub version: &'a str,
    /// Where it judges.
    pub environments: &'a [String],
    /// SHA-256 over its files.
    pub digest: Digest,
    /// The ids of its policies, in order.
    pub policies: &'a [String],
    /// Who pushes, for people.
    pub pushed_by: &'a str,
}

/// What a push did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BundleOutcome {
    /// It was appended, and judges from there on.
    Pushed,
    /// It was the last one pushed for each of its environments already; nothing was appended.
    AlreadyActive,
}

/// A bundle as it was pushed, without its files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BundleEntry {
    /// Its place in the topic.
    pub offset: i64,
    /// When it was pushed, by the broker's clock.
    pub logged_at: Millis,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// SHA-256 over its files.
    pub digest: Digest,
    /// What it was pushed for.
    pub environments: Vec<String>,
    /// Where no later one was pushed.
    pub last_in: Vec<String>,
    /// Paths of its files.
    pub files: Vec<String>,
    /// The ids of its policies.
    pub policies: Vec<String>,
    /// Who pushed it.
    pub pushed_by: String,
}

/// Appends a bundle, unless it is active in all of its environments already. Refuses another content under a version that
/// was pushed before.
pub fn push_bundle(context: RegistryContext<'_>, bundle: BundleToPush<'_>) -> Result<BundleOutcome, Error> {
    if decide(&list_bundles(context)?.entries, &bundle)? == BundleOutcome::AlreadyActive {
        return Ok(BundleOutcome::AlreadyActive);
    }
    let record = Bundle {
        name: bundle.name,
        version: bundle.version,
        digest: bundle.digest,
        environments: bundle.environments.iter().map(String::as_str).collect(),
        files: bundle.files.iter().map(|(path, content)| BundleFile { path, content }).collect(),
        pushed_by: bundle.pushed_by,
        policies: bundle.policies.iter().map(String::as_str).collect(),
    };
    let topic = context.topic::<Bundle<'static>>()?;
    let value = topic
        .encoder()?
        .encode(&record)
        .map_err(|e| Error::Encode { key: bundle.name.to_owned(), message: e.to_string() })?;
    append(&topic, &[(bundle.name.to_owned(), value)])?;
    Ok(BundleOutcome::Pushed)
}

/// Every bundle that was ever pushed, in the order of the log.
pub fn list_bundles(context: RegistryContext<'_>) -> Result<Listing<BundleEntry>, Error> {
    let mut entries = Vec::new();
    let unreadable = fold(&context.topic::<Bundle<'static>>()?, |at, decoded| {
        let bundle = decoded.read::<Bundle<'_>>()?;
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        entries.push(BundleEntry {
            offset: at.offset,
            logged_at: at.logged_at,
            name: bundle.name.to_owned(),
            version: bundle.version.to_owned(),
            digest: bundle.digest,
            environments: owned(&bundle.environments),
            last_in: Vec::new(),
            files: bundle.files.iter().map(|file| file.path.to_owned()).collect(),
            policies: owned(&bundle.policies),
            pushed_by: bundle.pushed_by.to_owned(),
        });
        Ok(())
    })?;
    mark_last(&mut entries);
    Ok(Listing { entries, unreadable })
}

/// Fills `last_in`: an environment belongs to the last bundle that names it.
fn mark_last(entries: &mut [BundleEntry]) {
    let mut taken = std::collections::BTreeSet::new();
    for entry in entries.iter_mut().rev() {
        entry.last_in =
            entry.environments.iter().filter(|name| taken.insert((*name).clone())).cloned().collect();
    }
}

fn decide(pushed: &[BundleEntry], bundle: &BundleToPush<'_>) -> Result<BundleOutcome, Error> {
    let same_version = |entry: &&BundleEntry| entry.name == bundle.name && entry.version == bundle.version;
    if let Some(other) = pushed.iter().filter(same_version).find(|entry| entry.digest != bundle.digest) {
        return Err(Error::VersionTaken {
            name: other.name.clone(),
            version: other.version.clone(),
            pushed: other.digest,
            found: bundle.digest,
        });
    }
    let active = bundle.environments.iter().all(|environment| {
        pushed.iter().any(|entry| entry.digest == bundle.digest && entry.last_in.contains(environment))
    });
    Ok(if active { BundleOutcome::AlreadyActive } else { BundleOutcome::Pushed })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, version: &str, content: &str, environments: &[&str]) -> BundleEntry {
        BundleEntry {
            offset: 0,
            logged_at: Millis(0),
            name: name.to_owned(),
            version: version.to_owned(),
            digest: Digest::of(content.as_bytes()),
            environments: environments.iter().map(|e| (*e).to_owned()).collect(),
            last_in: Vec::new(),
            files: Vec::new(),
            policies: Vec::new(),
            pushed_by: String::new(),
        }
    }

    fn decided(pushed: &[BundleEntry], version: &str, content: &str, environments: &[&str]) -> String {
        let mut pushed = pushed.to_vec();
        mark_last(&mut pushed);
        let environments: Vec<_> = environments.iter().map(|e| (*e).to_owned()).collect();
        let bundle = BundleToPush {
            files: &BTreeMap::new(),
            name: "b",
            version,
            environments: &environments,
            digest: Digest::of(content.as_bytes()),
            policies: &[],
            pushed_by: "",
        };
        match decide(&pushed, &bundle) {
            Ok(outcome) => format!("{outcome:?}"),
            Err(error) => error.to_string().split(',').next().unwrap_or_default().to_owned(),
        }
    }

    #[test]
    fn what_a_push_does() {
        let one = entry("b", "1", "x", &["dev", "prod"]);
        let two = entry("b", "2", "y", &["dev"]);
        let other = entry("c", "1", "z", &["prod"]);
        assert_eq!(decided(&[], "1", "x", &["dev"]), "Pushed");
        assert_eq!(decided(std::slice::from_ref(&one), "1", "x", &["dev", "prod"]), "AlreadyActive");
        // Another one is active in one of its environments: pushing it again is a roll-back.
        assert_eq!(decided(&[one.clone(), two.clone()], "1", "x", &["dev", "prod"]), "Pushed");
        assert_eq!(decided(&[one.clone(), other.clone()], "1", "x", &["dev", "prod"]), "Pushed");
        assert_eq!(decided(&[one.clone(), two, one.clone()], "1", "x", &["dev", "prod"]), "AlreadyActive");
        assert_eq!(
            decided(&[one, other], "1", "changed", &["dev"]),
            format!("bundle b version 1 was pushed with digest {}", Digest::of(b"x"))
        );
    }
}
