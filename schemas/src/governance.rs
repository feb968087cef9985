//! Records of the governance topics: subjects `agent`, `tool`, `bundle`, `key` and `control`.
//!
//! The types borrow from the bytes they are decoded from. Their serde defaults equal the schema's defaults: tested.

use serde::{Deserialize, Serialize, Serializer};

use crate::{Digest, OpenEnum, vocabulary, words};

/// An agent as its owner registered it. The last entry of a key counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentEntry<'a> {
    /// The tenant.
    pub tenant_id: &'a str,
    /// The agent.
    pub agent_id: &'a str,
    /// A name for people.
    pub name: &'a str,
    /// The team or person who answers for it.
    pub owner: &'a str,
    /// Its roles: Cedar groups that grants are given to.
    #[serde(borrow)]
    pub roles: Vec<&'a str>,
    /// active, suspended or retired. Only an active agent has grants.
    #[serde(borrow)]
    pub state: OpenEnum<'a, AgentState>,
    /// What it is for.
    #[serde(default)]
    pub description: &'a str,
    /// Who pushed the entry.
    #[serde(default)]
    pub pushed_by: &'a str,
}

vocabulary! {
    /// Whether a registered agent has the grants of its roles.
    AgentState {
        /// The agent has the grants of its roles.
        Active = "active",
        /// The agent has no grants until it is active again.
        Suspended = "suspended",
        /// The agent never has grants again.
        Retired = "retired",
    }
}
words!(AgentState { "active" => Active, "suspended" => Suspended, "retired" => Retired });

vocabulary! {
    /// Effect of calling a tool.
    ToolEffect {
        /// Reads, and changes nothing.
        Read = "read",
        /// Changes something that can be changed back.
        Write = "write",
        /// Changes something that cannot be changed back.
        Destructive = "destructive",
        /// Acts outside the systems that the tools belong to.
        External = "external",
    }
}
words!(ToolEffect { "read" => Read, "write" => Write, "destructive" => Destructive, "external" => External });

impl Serialize for AgentState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl Serialize for ToolEffect {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A tool as its owner registered it. The last entry of a key counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolEntry<'a> {
    /// The tenant.
    pub tenant_id: &'a str,
    /// The tool, as calls name it.
    pub name: &'a str,
    /// The team or person who answers for it.
    pub owner: &'a str,
    /// read, write, destructive or external.
    #[serde(borrow)]
    pub effect: OpenEnum<'a, ToolEffect>,
    /// What it does.
    #[serde(default)]
    pub description: &'a str,
    /// Who pushed the entry.
    #[serde(default)]
    pub pushed_by: &'a str,
}

/// A file of the bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleFile<'a> {
    /// Relative, with forward slashes.
    pub path: &'a str,
    /// Its bytes.
    #[serde(with = "serde_bytes")]
    pub content: &'a [u8],
}

/// One immutable set of policies, tool definitions and tests, named by its digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its version.
    pub version: &'a str,
    /// SHA-256 over its files, by the rule of docs/ARCHITECTURE.md.
    pub digest: Digest,
    /// Where it judges. The last bundle pushed for an environment is the active one.
    #[serde(borrow)]
    pub environments: Vec<&'a str>,
    /// Its files, in order of their paths.
    #[serde(borrow)]
    pub files: Vec<BundleFile<'a>>,
    /// Who pushed it.
    #[serde(default)]
    pub pushed_by: &'a str,
    /// The @id of every policy in its files, in order of the ids, so that the log can tell which of them never apply.
    #[serde(borrow, default)]
    pub policies: Vec<&'a str>,
}

vocabulary! {
    /// Purpose of the signatures of a key.
    KeyKind {
        /// Decisions of a pdp.
        Pdp = "pdp",
        /// Approvals of a person.
        Approver = "approver",
    }
}

vocabulary! {
    /// State of a published key.
    KeyState {
        /// Its signatures count.
        Active = "active",
        /// Its signatures do not count for what is logged from this record on. Final.
        Revoked = "revoked",
    }
}

/// A public key of a pdp or an approver, or its revocation. The first record of a kid counts, and its first revocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyEntry<'a> {
    /// RFC 7638 thumbprint of the key, in base64url.
    pub kid: &'a str,
    /// pdp or approver.
    #[serde(borrow)]
    pub kind: OpenEnum<'a, KeyKind>,
    /// Name of the holder.
    pub name: &'a str,
    /// The only tenant that the key signs for; absent for all.
    #[serde(borrow, default)]
    pub tenant_id: Option<&'a str>,
    /// The public key as a JWK.
    pub public_key: &'a str,
    /// active or revoked.
    #[serde(borrow)]
    pub state: OpenEnum<'a, KeyState>,
    /// Reason of a revocation, in words.
    #[serde(default)]
    pub reason: &'a str,
    /// Author of the record.
    #[serde(default)]
    pub pushed_by: &'a str,
}

/// What an operator tells a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control<'a> {
    /// The stage that is told.
    pub stage: &'a str,
    /// resume: consume again after the share of rejects was exceeded.
    pub command: &'a str,
    /// Why, in words.
    #[serde(default)]
    pub reason: &'a str,
    /// Who told it.
    #[serde(default)]
    pub sent_by: &'a str,
}

impl Control<'_> {
    /// The command that ends a stand-still by [`RejectShare`](crate::topology::RejectShare).
    pub const RESUME: &'static str = "resume";
}
