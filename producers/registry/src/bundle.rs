//! Pushes and lists policy bundles.

use std::collections::BTreeMap;

use agentgov_schemas::governance::{Bundle, BundleFile};
use agentgov_schemas::{Digest, Millis};
use serde::Serialize;

use crate::fold::fold;
use crate::push::append;
use crate::{Error, Listing, RegistryContext};

/// A bundle that the policy crate has compiled without problems.
#[derive(Clone, Copy, Debug)]
pub struct BundleToPush<'a> {
    /// Files by path, relative and with forward slashes.
    pub files: &'a BTreeMap<String, Vec<u8>>,
    /// Name, and key of the record.
    pub name: &'a str,
    /// Version. It belongs to this digest for ever.
    pub version: &'a str,
    /// Environments in which it becomes active.
    pub environments: &'a [String],
    /// SHA-256 over the files.
    pub digest: Digest,
    /// Ids of the policies, in order.
    pub policies: &'a [String],
    /// Name of the person or job that pushes, for people.
    pub pushed_by: &'a str,
    /// Whether it may take an environment from a bundle of another name.
    pub replaces_others: bool,
}

/// Bundle that is active in an environment for which another one is pushed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReplacedBundle {
    /// Environment.
    pub environment: String,
    /// Name of the bundle.
    pub name: String,
    /// Version of the bundle.
    pub version: String,
}

impl std::fmt::Display for ReplacedBundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} in {}", self.name, self.version, self.environment)
    }
}

/// A push and the bundles that it replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundlePush {
    /// Result of the push.
    pub outcome: BundleOutcome,
    /// Bundles that were active in its environments, in the order of the environments.
    pub replaced: Vec<ReplacedBundle>,
}

/// Result of [`push_bundle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BundleOutcome {
    /// The bundle was appended, and is active for later actions.
    Pushed,
    /// The bundle was already the last one pushed for each of its environments; nothing was appended.
    AlreadyActive,
}

/// A pushed bundle, without its files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BundleEntry {
    /// Offset in the topic.
    pub offset: i64,
    /// Time of the push, by the broker's clock.
    pub logged_at: Millis,
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// SHA-256 over the files.
    pub digest: Digest,
    /// Environments that it was pushed for.
    pub environments: Vec<String>,
    /// Environments for which no later bundle was pushed.
    pub last_in: Vec<String>,
    /// Paths of the files.
    pub files: Vec<String>,
    /// Ids of the policies.
    pub policies: Vec<String>,
    /// Name of the person or job that pushed it.
    pub pushed_by: String,
}

/// Appends a bundle, unless it is already active in all of its environments. A version that was pushed before with other files
/// is an error, and so is a bundle of another name in one of the environments, unless the push may replace it.
pub fn push_bundle(context: RegistryContext<'_>, bundle: BundleToPush<'_>) -> Result<BundlePush, Error> {
    let push = derive_push(&list_bundles(context)?.entries, &bundle)?;
    if push.outcome == BundleOutcome::AlreadyActive {
        return Ok(push);
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
    Ok(push)
}

/// Returns the bundles other than that of `digest` that were the last ones pushed for these environments.
pub fn other_bundles(pushed: &[BundleEntry], environments: &[String], digest: Digest) -> Vec<ReplacedBundle> {
    let last_in = |environment: &String| {
        pushed.iter().find(|entry| entry.last_in.contains(environment) && entry.digest != digest)
    };
    let other = |environment: &String| {
        let BundleEntry { name, version, .. } = last_in(environment)?;
        Some(ReplacedBundle {
            environment: environment.clone(),
            name: name.clone(),
            version: version.clone(),
        })
    };
    environments.iter().filter_map(other).collect()
}

/// Lists all pushed bundles, in the order of the topic.
pub fn list_bundles(context: RegistryContext<'_>) -> Result<Listing<BundleEntry>, Error> {
    let mut entries = Vec::new();
    let unreadable = fold(&context.topic::<Bundle<'static>>()?, |position, decoded| {
        let bundle = decoded.read::<Bundle<'_>>()?;
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        entries.push(BundleEntry {
            offset: position.offset,
            logged_at: position.logged_at,
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

/// Sets `last_in`: each environment goes to the last bundle that was pushed for it.
fn mark_last(entries: &mut [BundleEntry]) {
    let mut taken = std::collections::BTreeSet::new();
    for entry in entries.iter_mut().rev() {
        entry.last_in =
            entry.environments.iter().filter(|name| taken.insert((*name).clone())).cloned().collect();
    }
}

fn derive_push(pushed: &[BundleEntry], bundle: &BundleToPush<'_>) -> Result<BundlePush, Error> {
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
    if active {
        return Ok(BundlePush { outcome: BundleOutcome::AlreadyActive, replaced: Vec::new() });
    }
    let replaced = other_bundles(pushed, bundle.environments, bundle.digest);
    let of_others: Vec<String> =
        replaced.iter().filter(|replaced| replaced.name != bundle.name).map(ToString::to_string).collect();
    if !of_others.is_empty() && !bundle.replaces_others {
        return Err(Error::OtherBundleActive {
            name: bundle.name.to_owned(),
            version: bundle.version.to_owned(),
            found: of_others.join(", "),
        });
    }
    Ok(BundlePush { outcome: BundleOutcome::Pushed, replaced })
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

    fn outcome(pushed: &[BundleEntry], version: &str, content: &str, environments: &[&str]) -> String {
        push(pushed, version, content, environments, true)
            .map(|push| format!("{:?}", push.outcome))
            .unwrap_or_else(|error| error.split(',').next().unwrap_or_default().to_owned())
    }

    fn push(
        pushed: &[BundleEntry],
        version: &str,
        content: &str,
        environments: &[&str],
        replaces_others: bool,
    ) -> Result<BundlePush, String> {
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
            replaces_others,
        };
        derive_push(&pushed, &bundle).map_err(|error| error.to_string())
    }

    #[test]
    fn push_names_the_replaced_bundles_and_replaces_another_name_only_if_it_may() {
        let pushed = [entry("c", "7", "z", &["prod", "demo"]), entry("b", "1", "x", &["dev", "demo"])];
        let replaced = |environments: &[&str], may_replace| {
            let push = push(&pushed, "2", "y", environments, may_replace)?;
            let replaced: Vec<_> = push.replaced.iter().map(ToString::to_string).collect();
            Ok::<_, String>((push.outcome, replaced.join(", ")))
        };
        let done = |replaced: &str| Ok((BundleOutcome::Pushed, replaced.to_owned()));
        // A new version of the same bundle needs no consent.
        assert_eq!(replaced(&["dev", "demo"], false), done("b 1 in dev, b 1 in demo"));
        assert_eq!(replaced(&["new"], false), done(""));
        assert_eq!(
            replaced(&["dev", "prod"], false),
            Err("bundle b version 2: expected environments without an active bundle of another name, found c 7 in prod; to \
                 replace it, run `agentgov policy push --replace BUNDLE`"
                .to_owned())
        );
        assert_eq!(replaced(&["dev", "prod"], true), done("b 1 in dev, c 7 in prod"));
        let active = push(&pushed, "1", "x", &["dev", "demo"], false).unwrap();
        assert_eq!(active, BundlePush { outcome: BundleOutcome::AlreadyActive, replaced: vec![] });
    }

    #[test]
    fn push_outcome_follows_version_digest_and_environments() {
        let one = entry("b", "1", "x", &["dev", "prod"]);
        let two = entry("b", "2", "y", &["dev"]);
        let other = entry("c", "1", "z", &["prod"]);
        assert_eq!(outcome(&[], "1", "x", &["dev"]), "Pushed");
        assert_eq!(outcome(std::slice::from_ref(&one), "1", "x", &["dev", "prod"]), "AlreadyActive");
        // Another bundle is active in one of its environments, so a repeated push is a roll-back.
        assert_eq!(outcome(&[one.clone(), two.clone()], "1", "x", &["dev", "prod"]), "Pushed");
        assert_eq!(outcome(&[one.clone(), other.clone()], "1", "x", &["dev", "prod"]), "Pushed");
        assert_eq!(outcome(&[one.clone(), two, one.clone()], "1", "x", &["dev", "prod"]), "AlreadyActive");
        assert_eq!(
            outcome(&[one, other], "1", "changed", &["dev"]),
            format!("bundle b version 1: expected the files pushed before with digest {}", Digest::of(b"x"))
        );
    }
}
