//! Records of the governance topics: subjects `agent`, `tool`, `bundle`, `key` and `control`.
//!
//! The types borrow from the bytes that they are decoded from. A test holds their serde defaults to the schema's.

use serde::{Deserialize, Serialize, Serializer};

use crate::{Digest, OpenEnum, vocabulary, words};

/// Registered agent. The last entry of a key is the valid one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentEntry<'a> {
    /// The tenant.
    pub tenant_id: &'a str,
    /// The agent.
    pub agent_id: &'a str,
    /// Display name.
    pub name: &'a str,
    /// Team or person that is responsible.
    pub owner: &'a str,
    /// Roles of the agent: Cedar groups that policies grant permissions to.
    #[serde(borrow)]
    pub roles: Vec<&'a str>,
    /// State: active, suspended or retired. Only an active agent has grants, and each call of a suspended one is denied.
    #[serde(borrow)]
    pub state: OpenEnum<'a, AgentState>,
    /// Purpose of the agent.
    #[serde(default)]
    pub description: &'a str,
    /// Reason of the suspension or of its end, for people.
    #[serde(default)]
    pub reason: &'a str,
    /// Person or service that pushed the entry.
    #[serde(default)]
    pub pushed_by: &'a str,
    /// Person who answers for the agent's actions, and must not approve them.
    #[serde(default)]
    pub sponsor: &'a str,
    /// Version of the agent.
    #[serde(default)]
    pub version: &'a str,
    /// Environments in which the agent has grants; empty for all.
    #[serde(borrow, default)]
    pub environments: Vec<&'a str>,
}

impl<'a> AgentEntry<'a> {
    /// Creates an entry without texts, roles and environments. Set other fields with struct update syntax.
    pub const fn new(tenant_id: &'a str, agent_id: &'a str, state: AgentState) -> Self {
        Self {
            tenant_id,
            agent_id,
            name: "",
            owner: "",
            roles: Vec::new(),
            state: OpenEnum::Known(state),
            description: "",
            reason: "",
            pushed_by: "",
            sponsor: "",
            version: "",
            environments: Vec::new(),
        }
    }
}

vocabulary! {
    /// Whether a registered agent has the grants of its roles.
    AgentState {
        /// The agent has the grants of its roles.
        Active = "active",
        /// Every call of the agent is denied until it is active again.
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

vocabulary! {
    /// Whether a registered tool, or a server of tools, may be called.
    ToolState {
        /// Policies decide about calls.
        Active = "active",
        /// Every call is denied until it is active again.
        Suspended = "suspended",
    }
}

impl Serialize for ToolState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Registered tool, or a server of tools as a whole. The last entry of a key is the valid one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolEntry<'a> {
    /// The tenant.
    pub tenant_id: &'a str,
    /// Name of the tool, as tool calls use it: `server/name` for a tool of a server. Empty on the entry of a server.
    pub name: &'a str,
    /// Team or person that is responsible.
    pub owner: &'a str,
    /// Effect: read, write, destructive or external. Empty if the registry does not say; then that of the bundle counts.
    #[serde(borrow)]
    pub effect: OpenEnum<'a, ToolEffect>,
    /// Description of the tool.
    #[serde(default)]
    pub description: &'a str,
    /// Person or service that pushed the entry.
    #[serde(default)]
    pub pushed_by: &'a str,
    /// Server that offers the tool; empty if there is none.
    #[serde(default)]
    pub server: &'a str,
    /// Classes of the data that the tool reads or changes.
    #[serde(borrow, default)]
    pub data_classes: Vec<&'a str>,
    /// The accepted definition as RFC 8785 JSON; empty if none is accepted.
    #[serde(default)]
    pub definition: &'a str,
    /// SHA-256 of `definition`; absent if none is accepted.
    #[serde(default)]
    pub definition_digest: Option<Digest>,
    /// State: active or suspended. Each call of a suspended tool, or of a tool of a suspended server, is denied.
    #[serde(borrow, default = "active_tool")]
    pub state: OpenEnum<'a, ToolState>,
    /// Reason of the change, for people.
    #[serde(default)]
    pub reason: &'a str,
}

const fn active_tool() -> OpenEnum<'static, ToolState> {
    OpenEnum::Known(ToolState::Active)
}

impl<'a> ToolEntry<'a> {
    /// Creates the entry of an active tool without an effect, texts and a definition. Set other fields with struct update syntax.
    pub fn new(tenant_id: &'a str, name: &'a str) -> Self {
        Self {
            tenant_id,
            name,
            owner: "",
            effect: OpenEnum::from_name(""),
            description: "",
            pushed_by: "",
            server: "",
            data_classes: Vec::new(),
            definition: "",
            definition_digest: None,
            state: active_tool(),
            reason: "",
        }
    }
}

/// Tool of a server that stands for `resources/read`.
pub const RESOURCES_READ: &str = "resources.read";
/// Tool of a server that stands for `prompts/get`.
pub const PROMPTS_GET: &str = "prompts.get";
/// Names that stand for methods of a server, so no tool may have them.
pub const RESERVED_TOOL_NAMES: [&str; 2] = [RESOURCES_READ, PROMPTS_GET];

/// Returns the server of a tool, by the name that calls use: the part before the first `/`.
pub fn server_of(tool: &str) -> Option<&str> {
    tool.split_once('/').map(|(server, _)| server)
}

/// File of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleFile<'a> {
    /// Relative path, with forward slashes.
    pub path: &'a str,
    /// Bytes of the file.
    #[serde(with = "serde_bytes")]
    pub content: &'a [u8],
}

/// Immutable set of policies, tool definitions and tests, identified by its digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle<'a> {
    /// Name of the bundle.
    pub name: &'a str,
    /// Version of the bundle.
    pub version: &'a str,
    /// SHA-256 over the files, as docs/ARCHITECTURE.md defines it.
    pub digest: Digest,
    /// Environments for which the bundle is pushed. The last bundle pushed for an environment is the active one.
    #[serde(borrow)]
    pub environments: Vec<&'a str>,
    /// Files of the bundle, in the order of their paths.
    #[serde(borrow)]
    pub files: Vec<BundleFile<'a>>,
    /// Person or service that pushed the bundle.
    #[serde(default)]
    pub pushed_by: &'a str,
    /// @id of every policy in the files, sorted. Queries of the log use it to find policies that never apply.
    #[serde(borrow, default)]
    pub policies: Vec<&'a str>,
}

vocabulary! {
    /// Purpose of the signatures of a key.
    KeyKind {
        /// The key signs decisions of a policy decision point.
        Pdp = "pdp",
        /// The key signs approvals of a person.
        Approver = "approver",
    }
}

vocabulary! {
    /// State of a published key.
    KeyState {
        /// Signatures of the key are valid.
        Active = "active",
        /// Signatures of the key are invalid for records that are logged after this one. Final.
        Revoked = "revoked",
    }
}

/// Public key of a policy decision point or an approver, or the revocation of a key. The first record of a `kid` is valid, and so is
/// its first revocation; later ones are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyEntry<'a> {
    /// RFC 7638 thumbprint of the key, in base64url.
    pub kid: &'a str,
    /// Kind: pdp or approver.
    #[serde(borrow)]
    pub kind: OpenEnum<'a, KeyKind>,
    /// Name of the holder.
    pub name: &'a str,
    /// Tenant to which the key is restricted; absent for all tenants.
    #[serde(borrow, default)]
    pub tenant_id: Option<&'a str>,
    /// The public key as a JWK.
    pub public_key: &'a str,
    /// State: active or revoked.
    #[serde(borrow)]
    pub state: OpenEnum<'a, KeyState>,
    /// Reason of a revocation, for people.
    #[serde(default)]
    pub reason: &'a str,
    /// Person or service that pushed the record.
    #[serde(default)]
    pub pushed_by: &'a str,
}

/// Command of an operator to a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control<'a> {
    /// Stage that the command is for.
    pub stage: &'a str,
    /// Command: `resume` makes the stage consume again after it exceeded its reject share.
    pub command: &'a str,
    /// Reason, for people.
    #[serde(default)]
    pub reason: &'a str,
    /// Person or service that sent the command.
    #[serde(default)]
    pub sent_by: &'a str,
}

impl Control<'_> {
    /// Command that resumes a stage which [`RejectShare`](crate::topology::RejectShare) has stopped.
    pub const RESUME: &'static str = "resume";
}
