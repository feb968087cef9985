//! Clients of the gateway: each is one agent, by the digest of its bearer token.

use std::sync::Arc;

use agentgov_schemas::yaml::{self, FromNode, Node, Problems, TokenDigest};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// An agent that may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Name in messages.
    pub name: String,
    /// Tenant of the agent.
    pub tenant: String,
    /// Deployment environment.
    pub environment: String,
    /// The agent.
    pub agent: String,
    token_sha256: [u8; 32],
}

impl FromNode for Caller {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        let mut fields = yaml::Fields::of(node, "a caller", problems)?;
        let (name, token) = (fields.take::<String>("name"), fields.take::<TokenDigest>("token_sha256"));
        let (tenant, environment) = (fields.take::<String>("tenant"), fields.take::<String>("environment"));
        let agent = fields.take::<String>("agent");
        fields.end();
        let caller = Self {
            name: name?,
            token_sha256: token?.0,
            tenant: tenant?,
            environment: environment?,
            agent: agent?,
        };
        for (key, text) in [
            ("name", &caller.name),
            ("tenant", &caller.tenant),
            ("environment", &caller.environment),
            ("agent", &caller.agent),
        ] {
            if text.trim().is_empty() {
                problems.add(node.location(&[key]), format!("`{key}` must not be empty"));
            }
        }
        Some(caller)
    }
}

/// The clients of a gateway.
#[derive(Clone, Debug)]
pub struct Callers(Vec<Arc<Caller>>);

impl Callers {
    /// Creates the set, and reports tokens that two callers have.
    pub(super) fn new(callers: Vec<Caller>, problems: &mut Problems) -> Self {
        for (number, caller) in callers.iter().enumerate() {
            if callers.iter().take(number).any(|other| other.token_sha256 == caller.token_sha256) {
                let message =
                    format!("caller {} has the token of another caller; each needs its own", caller.name);
                problems.add(yaml::Location::UNKNOWN, message);
            }
        }
        Self(callers.into_iter().map(Arc::new).collect())
    }

    /// Returns the caller of an `Authorization` header. All digests are compared as a whole, in constant time.
    pub fn of_authorization(&self, header: &str) -> Option<Arc<Caller>> {
        let (scheme, token) = header.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let digest = Sha256::digest(token.trim().as_bytes());
        let mut found = None;
        for caller in &self.0 {
            if bool::from(caller.token_sha256.as_slice().ct_eq(digest.as_slice())) {
                found = Some(Arc::clone(caller));
            }
        }
        found
    }
}
