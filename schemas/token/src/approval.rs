//! The claims of an approval: the decision of a person about one call.

use agentgov_schemas::Digest;
use agentgov_schemas::verdict::Decision;
use serde::{Deserialize, Serialize};

use crate::claims::{as_hex, decision_name};

/// Content of a signed approval, or of a refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalClaims {
    /// Id of the approval, which is that of the evaluation that asked for it: the text of a UUID, lower-case with hyphens.
    #[serde(rename = "jti")]
    pub approval_id: String,
    /// Name of the approver: that of the key.
    #[serde(rename = "iss")]
    pub approver: String,
    /// Time of the decision by the approver's clock, in seconds since the Unix epoch.
    #[serde(rename = "iat")]
    pub issued_at: i64,
    /// First second at which the approval is expired, since the Unix epoch.
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
    /// SHA-256 of the bytes of the call's arguments; hex in the text.
    #[serde(rename = "args", serialize_with = "as_hex")]
    pub arguments: Digest,
    /// [`Decision::Allow`] if the person approved the call, [`Decision::Deny`] if they refused it.
    #[serde(with = "decision_name")]
    pub outcome: Decision,
}
