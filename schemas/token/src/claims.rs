//! The claims of a decision token, and their comparison with the call that carries it.

use std::fmt;

use agentgov_schemas::Digest;
use agentgov_schemas::verdict::Decision;
use serde::{Deserialize, Serialize, Serializer};

/// Content of a decision token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Id of the decision: the text of a UUID, lower-case with hyphens.
    #[serde(rename = "jti")]
    pub decision_id: String,
    /// Name of the pdp that decided.
    #[serde(rename = "iss")]
    pub issuer: String,
    /// Time of the decision by the pdp's clock, in seconds since the Unix epoch.
    #[serde(rename = "iat")]
    pub issued_at: i64,
    /// First second at which the token is expired, since the Unix epoch.
    #[serde(rename = "exp")]
    pub expires_at: i64,
    /// The tenant.
    #[serde(rename = "tenant")]
    pub tenant_id: String,
    /// Deployment environment.
    pub environment: String,
    /// The session.
    #[serde(rename = "session")]
    pub session_id: String,
    /// The acting agent.
    #[serde(rename = "agent")]
    pub agent_id: String,
    /// The tool, as calls name it.
    pub tool: String,
    /// Id of the call, if the caller named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call_id: Option<String>,
    /// SHA-256 of the bytes of the call's arguments; hex in the token.
    #[serde(rename = "args", serialize_with = "as_hex")]
    pub arguments: Digest,
    /// SHA-256 of the tool's definition, if the caller stated it; hex in the token.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "optional_as_hex")]
    pub definition: Option<Digest>,
    /// The decision. Only [`Decision::Allow`] lets a call through.
    #[serde(with = "decision_name")]
    pub outcome: Decision,
    /// Digest of the bundle that decided; absent if none was known. Hex in the token.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "optional_as_hex")]
    pub bundle: Option<Digest>,
    /// Records that the decision is based on.
    pub through: KnownThrough,
    /// Position of the table of agents that the decision used; absent if the state of the session was not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agents: Option<i64>,
    /// Position of the table of tools that the decision used; absent if the state of the session was not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<i64>,
    /// Code of the reason for which the state of the session was not known; absent if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unavailable: Option<String>,
    /// Id of the approval that the decision relies on.
    #[serde(rename = "approval", default, skip_serializing_if = "Option::is_none")]
    pub approval_id: Option<String>,
}

/// Position of the last known record of the session's partition in the actions' topic: `[partition, offset]` in the
/// token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(i32, i64)", into = "(i32, i64)")]
pub struct KnownThrough {
    /// The partition of the session.
    pub partition: i32,
    /// Last known offset; -1 if there is none.
    pub offset: i64,
}

impl From<(i32, i64)> for KnownThrough {
    fn from((partition, offset): (i32, i64)) -> Self {
        Self { partition, offset }
    }
}

impl From<KnownThrough> for (i32, i64) {
    fn from(through: KnownThrough) -> Self {
        (through.partition, through.offset)
    }
}

/// The call that carries a token.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The tenant.
    pub tenant_id: &'a str,
    /// Deployment environment.
    pub environment: &'a str,
    /// The session.
    pub session_id: &'a str,
    /// The acting agent.
    pub agent_id: &'a str,
    /// The tool.
    pub tool: &'a str,
    /// Id of the call.
    pub call_id: &'a str,
    /// SHA-256 of the bytes of the arguments.
    pub arguments: Digest,
    /// SHA-256 of the tool's definition, if the call states it.
    pub definition: Option<Digest>,
}

/// Name of a claim that binds a token to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ClaimName {
    /// `tenant`
    Tenant,
    /// `environment`
    Environment,
    /// `session`
    Session,
    /// `agent`
    Agent,
    /// `tool`
    Tool,
    /// `call_id`
    CallId,
    /// `args`
    Arguments,
    /// `definition`
    Definition,
}

impl ClaimName {
    /// Returns the name in the token.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Environment => "environment",
            Self::Session => "session",
            Self::Agent => "agent",
            Self::Tool => "tool",
            Self::CallId => "call_id",
            Self::Arguments => "args",
            Self::Definition => "definition",
        }
    }
}

impl fmt::Display for ClaimName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Claims {
    /// Returns the first claim, in the order of [`ClaimName`], that differs from the call. A token without `call_id` is
    /// valid for a call of any id.
    pub fn first_difference(&self, call: &Call<'_>) -> Option<ClaimName> {
        let equal = [
            (ClaimName::Tenant, self.tenant_id == call.tenant_id),
            (ClaimName::Environment, self.environment == call.environment),
            (ClaimName::Session, self.session_id == call.session_id),
            (ClaimName::Agent, self.agent_id == call.agent_id),
            (ClaimName::Tool, self.tool == call.tool),
            (ClaimName::CallId, self.call_id.as_deref().is_none_or(|call_id| call_id == call.call_id)),
            (ClaimName::Arguments, self.arguments == call.arguments),
            (ClaimName::Definition, self.definition == call.definition),
        ];
        equal.into_iter().find_map(|(name, is_equal)| (!is_equal).then_some(name))
    }
}

/// Serializes a digest as hex, which its own deserialization accepts; its own serialization is bytes.
pub(crate) fn as_hex<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(digest)
}

fn optional_as_hex<S: Serializer>(digest: &Option<Digest>, serializer: S) -> Result<S::Ok, S::Error> {
    match digest {
        Some(digest) => as_hex(digest, serializer),
        None => serializer.serialize_none(),
    }
}

pub(crate) mod decision_name {
    use std::borrow::Cow;

    use agentgov_schemas::Vocabulary as _;
    use agentgov_schemas::verdict::Decision;
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
    pub(crate) fn serialize<S: Serializer>(decision: &Decision, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(decision.as_str())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Decision, D::Error> {
        let name = Cow::<str>::deserialize(deserializer)?;
        Decision::by_name(&name).ok_or_else(|| de::Error::unknown_variant(&name, &[]))
    }
}
