//! Clients that may ask for decisions: a YAML file of callers, each with the digest of its bearer token.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use agentgov_schemas::mapping;
use agentgov_schemas::yaml::{self, FromNode, Node, Problem, Problems, TokenDigest};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::point::Refusal;

/// Caller, identified by its token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Name in the log.
    pub name: String,
    /// Tenant for which it may ask.
    pub tenant: String,
    /// Environment for which it may ask.
    pub environment: String,
    /// The only agent about which it may ask. `None`: any agent of the tenant.
    pub agent: Option<String>,
}

impl Caller {
    /// Checks that the caller may ask about the agent.
    ///
    /// # Errors
    /// If the caller is bound to another agent.
    pub(crate) fn check_agent(&self, agent_id: &str) -> Result<(), Refusal> {
        if self.agent.as_deref().is_none_or(|agent| agent == agent_id) {
            return Ok(());
        }
        Err(Refusal::Forbidden(
            "expected the agent that the token is for, found another; ask with a token of that agent"
                .to_owned(),
        ))
    }
}

/// The callers of a decision point.
#[derive(Clone, Debug)]
pub struct Callers(Vec<([u8; 32], Arc<Caller>)>);

struct CallersFile {
    callers: Vec<CallerEntry>,
}
mapping!(CallersFile, "a file of callers", { callers });

struct CallerEntry {
    node: Node,
    name: String,
    token_sha256: TokenDigest,
    tenant: String,
    environment: String,
    agent: Option<String>,
}

impl FromNode for CallerEntry {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        let mut fields = yaml::Fields::of(node, "a caller", problems)?;
        let (name, token_sha256) = (fields.take("name"), fields.take("token_sha256"));
        let (tenant, environment) = (fields.take("tenant"), fields.take("environment"));
        let agent = fields.take("agent");
        fields.end();
        Some(Self {
            node: node.clone(),
            name: name?,
            token_sha256: token_sha256?,
            tenant: tenant?,
            environment: environment?,
            agent: agent?,
        })
    }
}

impl Callers {
    /// Reads a file of callers.
    ///
    /// # Errors
    /// Every mistake, each with its place. None quotes a digest.
    pub fn read(file: &Path) -> Result<Self, Vec<Problem>> {
        let name = file.display().to_string();
        let text = std::fs::read_to_string(file)
            .map_err(|e| vec![Problem { file: name.clone(), line: 1, column: 1, message: e.to_string() }])?;
        Self::parse(&name, &text)
    }

    /// Parses a file's text.
    ///
    /// # Errors
    /// Every mistake, each with its place. None quotes a digest.
    pub fn parse(file: &str, text: &str) -> Result<Self, Vec<Problem>> {
        let (read, mut problems) = yaml::read::<CallersFile>(file, text);
        let entries = read.map(|file| file.callers);
        let mut callers = Vec::new();
        let (mut names, mut digests) = (BTreeMap::new(), BTreeMap::new());
        if entries.as_ref().is_some_and(Vec::is_empty) {
            problems
                .add(yaml::Location::UNKNOWN, "expected at least one caller, found none: nobody could ask");
        }
        for entry in entries.iter().flatten() {
            let CallerEntry { node, name, token_sha256, tenant, environment, agent } = entry;
            for (key, text) in [("name", name), ("tenant", tenant), ("environment", environment)] {
                if text.trim().is_empty() {
                    problems.add(node.location(&[key]), format!("`{key}` must not be empty"));
                }
            }
            if let Some(other) = names.insert(name, node.at.line()) {
                problems.add(
                    node.location(&["name"]),
                    format!("the caller of line {other} has this name already"),
                );
            }
            if let Some(other) = digests.insert(token_sha256.0, node.at.line()) {
                let message =
                    format!("the caller of line {other} has this token already; each caller needs its own");
                problems.add(node.location(&["token_sha256"]), message);
            }
            let caller = Caller {
                name: name.clone(),
                tenant: tenant.clone(),
                environment: environment.clone(),
                agent: agent.clone(),
            };
            callers.push((token_sha256.0, Arc::new(caller)));
        }
        let whole = entries.map(|_| Self(callers));
        problems.finish(whole)
    }

    /// Iterates over the callers in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Caller> {
        self.0.iter().map(|(_, caller)| &**caller)
    }

    /// Returns the caller of a token, in constant time: all digests are compared as a whole.
    pub(crate) fn of_token(&self, token: &str) -> Option<Arc<Caller>> {
        let digest = Sha256::digest(token.as_bytes());
        let mut found = None;
        for (known, caller) in &self.0 {
            if bool::from(known.as_slice().ct_eq(digest.as_slice())) {
                found = Some(Arc::clone(caller));
            }
        }
        found
    }
}
