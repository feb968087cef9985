//! Suspension of an agent, a tool or a server, and its end.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::time::Instant;

use agentgov_schemas::governance::{AgentState, ToolState, server_of};

use crate::push::list_tools;
use crate::settle::{LoggedEntry, MAX_ROUNDS, Updated, readable, update};
use crate::{Agent, Error, RegisteredAgent, RegisteredTool, RegistryContext};

/// Maximum number of similar entries that a refusal names.
const MAX_SIMILAR: usize = 5;

/// Change of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspension {
    /// Denies each call of the agent, of the tool, or of the server's tools from now on.
    Suspend,
    /// Ends the suspension.
    Resume,
}

/// A tool, by the name that calls use, or a server with all of its tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolTarget<'a> {
    /// The tool.
    Tool(&'a str),
    /// The server.
    Server(&'a str),
}

/// Result of suspending or resuming.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuspensionOutcome {
    /// The entry with the new state was appended.
    Changed {
        /// When all in-sync replicas had the entry.
        acknowledged: Instant,
    },
    /// The state is this one already; nothing was appended.
    Unchanged,
}

impl SuspensionOutcome {
    /// Returns the outcome's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Changed { .. } => "changed",
            Self::Unchanged => "unchanged",
        }
    }
}

/// Refusal to change a state. Nothing was appended, or the entry of another command that the appended one replaced was
/// appended again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SuspensionRefusal {
    /// The agent is not registered.
    #[error("expected a registered agent, found `{key}`; `agentgov registry list` lists them")]
    UnknownAgent {
        /// The key.
        key: String,
    },
    /// A retired agent never acts again.
    #[error(
        "agent `{key}`: expected an active or a suspended agent, found a retired one, which stays retired; register \
         its successor under another id"
    )]
    Retired {
        /// The key.
        key: String,
    },
    /// The agent's last entry has a state of a later version.
    #[error("agent `{key}`: its last entry: {reason}; push the agent again with `agentgov registry push`")]
    Unreadable {
        /// The key.
        key: String,
        /// Reason.
        reason: String,
    },
    /// Neither the tool nor the server has an entry.
    #[error(
        "expected a tool or a server that is registered or suspended, found `{key}`; `agentgov registry list` lists them"
    )]
    UnknownTool {
        /// The key.
        key: String,
    },
    /// No entry has the name, and others are similar: it may be mistyped, and its suspension would stop nothing.
    #[error(
        "expected a {kind} that has an entry, found `{key}`; nothing was suspended; similar entries: `{}`; to suspend \
         this name nevertheless, add --unregistered",
        similar.join("`, `")
    )]
    NoEntry {
        /// Tool or server.
        kind: &'static str,
        /// The key.
        key: String,
        /// Keys of entries with a similar name, of any tenant.
        similar: Vec<String>,
    },
}

impl Suspension {
    /// Returns the state of an agent after the change.
    pub const fn state(self) -> AgentState {
        match self {
            Self::Suspend => AgentState::Suspended,
            Self::Resume => AgentState::Active,
        }
    }

    /// Returns the state of a tool or a server after the change.
    pub const fn tool_state(self) -> ToolState {
        match self {
            Self::Suspend => ToolState::Suspended,
            Self::Resume => ToolState::Active,
        }
    }
}

impl ToolTarget<'_> {
    /// Returns the word for what is suspended or resumed.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Tool(_) => "tool",
            Self::Server(_) => "server",
        }
    }

    /// Returns the name.
    pub const fn name(&self) -> &str {
        match self {
            Self::Tool(name) | Self::Server(name) => name,
        }
    }

    /// Returns an entry without content.
    fn entry(self, tenant_id: &str) -> RegisteredTool {
        match self {
            Self::Tool(name) => RegisteredTool::of_tool(tenant_id, name),
            Self::Server(name) => RegisteredTool::of_server(tenant_id, name),
        }
    }
}

/// Derives the agent's next entry from its entries. It is the last one if the agent has the state already.
pub(crate) fn derive_agent(
    suspension: Suspension,
    key: &str,
    reason: &str,
    entries: &[LoggedEntry<RegisteredAgent>],
) -> Result<RegisteredAgent, Error> {
    let key = || key.to_owned();
    // An older entry does not replace a last one that has an unknown state.
    let last = entries.last().ok_or_else(|| SuspensionRefusal::UnknownAgent { key: key() })?;
    let current = last
        .entry
        .as_ref()
        .map_err(|reason| SuspensionRefusal::Unreadable { key: key(), reason: reason.clone() })?;
    match current.agent.state {
        AgentState::Retired => Err(SuspensionRefusal::Retired { key: key() }.into()),
        state if state == suspension.state() => Ok(current.clone()),
        AgentState::Active | AgentState::Suspended => {
            let agent = Agent { state: suspension.state(), ..current.agent.clone() };
            Ok(RegisteredAgent { agent, reason: reason.to_owned() })
        }
    }
}

/// Derives the next entry of a tool or a server. What has no entry can be suspended: a switch must not depend on what was
/// registered before. An entry of a later version counts as suspended, and the last one before it is continued.
fn derive_tool(
    suspension: Suspension,
    blank: &RegisteredTool,
    reason: &str,
    entries: &[LoggedEntry<RegisteredTool>],
) -> Result<RegisteredTool, Error> {
    let last = entries.iter().rev().find_map(readable);
    if entries.is_empty() && suspension == Suspension::Resume {
        return Err(SuspensionRefusal::UnknownTool { key: blank.key() }.into());
    }
    let is_last = last.is_some() && entries.last().and_then(readable) == last;
    let current = last.unwrap_or(blank);
    if is_last && current.state == suspension.tool_state() {
        return Ok(current.clone());
    }
    Ok(RegisteredTool { state: suspension.tool_state(), reason: reason.to_owned(), ..current.clone() })
}

/// Returns whether a tool has an entry, or a server or one of its tools has.
///
/// # Errors
/// If none has, but entries with a similar name exist, or if the topic cannot be read to its end.
pub fn check_entry(
    context: RegistryContext<'_>,
    (tenant_id, target): (&str, ToolTarget<'_>),
) -> Result<bool, Error> {
    Ok(find_entry(&list_tools(context)?.entries, (tenant_id, target))?)
}

fn find_entry(
    tools: &[RegisteredTool],
    (tenant_id, target): (&str, ToolTarget<'_>),
) -> Result<bool, SuspensionRefusal> {
    let is_target = |tool: &RegisteredTool| match target {
        ToolTarget::Tool(name) => tool.name == name,
        ToolTarget::Server(name) => tool.server_name() == name,
    };
    if tools.iter().any(|tool| tool.tenant_id == tenant_id && is_target(tool)) {
        return Ok(true);
    }
    let wanted = last_part(target.name());
    // A tool of a server that is known may have any name.
    let is_of_known_server = |tool: &RegisteredTool| {
        server_of(target.name()).is_some_and(|name| tool.tenant_id == tenant_id && tool.server_name() == name)
    };
    let is_similar = |tool: &&RegisteredTool| {
        last_part(&tool.name) == wanted
            || tool.server_name().to_lowercase() == wanted
            || is_of_known_server(tool)
    };
    let similar: Vec<String> =
        tools.iter().filter(is_similar).take(MAX_SIMILAR).map(RegisteredTool::key).collect();
    if similar.is_empty() {
        return Ok(false);
    }
    Err(SuspensionRefusal::NoEntry { kind: target.kind(), key: target.entry(tenant_id).key(), similar })
}

fn last_part(name: &str) -> String {
    name.rsplit('/').next().unwrap_or_default().to_lowercase()
}

/// Appends the agent's last entry with another state, unless it has that state. When the function returns, all in-sync replicas
/// have the entry, and each process that follows the topic reads it shortly afterwards. If another command appends an active
/// agent after a suspension, the function appends the suspension again.
///
/// # Errors
/// If the change is refused, the topic cannot be read to its end, the entry was not acknowledged, or the last entry has another
/// state, which another command appended.
pub fn change_suspension(
    context: RegistryContext<'_>,
    suspension: Suspension,
    (tenant_id, agent_id): (&str, &str),
    reason: &str,
    pushed_by: &str,
) -> Result<SuspensionOutcome, Error> {
    let key = format!("{tenant_id}/{agent_id}");
    let keys = BTreeSet::from([key.clone()]);
    let acknowledged = update_until_last(suspension, suspension.state(), ("agent", &key), || {
        let derive = |key: &str, entries: &[LoggedEntry<RegisteredAgent>], _: Option<&RegisteredAgent>| {
            derive_agent(suspension, key, reason, entries)
        };
        let updated = update(context, &keys, pushed_by, derive)?.remove(&key);
        Ok(updated.ok_or_else(|| SuspensionRefusal::UnknownAgent { key: key.clone() })?)
    })?;
    Ok(outcome(acknowledged))
}

/// Suspends or resumes a tool or a server, as [`change_suspension`] does with an agent. A tool or a server without an entry can
/// be suspended.
///
/// # Errors
/// As [`change_suspension`].
pub fn change_tool_suspension(
    context: RegistryContext<'_>,
    suspension: Suspension,
    (tenant_id, target): (&str, ToolTarget<'_>),
    reason: &str,
    pushed_by: &str,
) -> Result<SuspensionOutcome, Error> {
    let blank = target.entry(tenant_id);
    let key = blank.key();
    let keys = BTreeSet::from([key.clone()]);
    let acknowledged = update_until_last(suspension, suspension.tool_state(), (target.kind(), &key), || {
        let derive = |_: &str, entries: &[LoggedEntry<RegisteredTool>], _: Option<&RegisteredTool>| {
            derive_tool(suspension, &blank, reason, entries)
        };
        let updated = update(context, &keys, pushed_by, derive)?.remove(&key);
        Ok(updated.ok_or_else(|| SuspensionRefusal::UnknownTool { key: key.clone() })?)
    })?;
    Ok(outcome(acknowledged))
}

fn outcome(acknowledged: Option<Instant>) -> SuspensionOutcome {
    acknowledged
        .map_or(SuspensionOutcome::Unchanged, |acknowledged| SuspensionOutcome::Changed { acknowledged })
}

/// Updates an entry until the last one has the new state. Returns the time of the last acknowledgement. A push that read the
/// topic before this call appended may append after it, and fail before it reads the topic again: then only this call can
/// suspend again. It never repeats the end of a suspension, because the last entry may be a later suspension.
pub(crate) fn update_until_last<E, S: Copy + PartialEq + Display>(
    suspension: Suspension,
    expected: S,
    (kind, key): (&'static str, &str),
    mut update: impl FnMut() -> Result<Updated<E, S>, Error>,
) -> Result<Option<Instant>, Error> {
    let mut last_acknowledged = None;
    let mut found = None;
    for _ in 0..MAX_ROUNDS {
        let Updated { acknowledged, last_state, .. } = update()?;
        last_acknowledged = acknowledged.or(last_acknowledged);
        if last_state == Some(expected) {
            return Ok(last_acknowledged);
        }
        found = last_state;
        if suspension == Suspension::Resume {
            break;
        }
    }
    let found = found.map_or_else(|| "unknown".to_owned(), |found| found.to_string());
    Err(Error::Overtaken { kind, key: key.to_owned(), expected: expected.to_string(), found })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub fn agent(state: AgentState) -> Agent {
        Agent {
            tenant_id: "acme".into(),
            agent_id: "clerk".into(),
            name: "Clerk".into(),
            owner: "desk".into(),
            roles: vec!["clerk".into()],
            state,
            description: Some("helps".into()),
            sponsor: Some("ada".into()),
            version: None,
            environments: vec![],
        }
    }

    #[test]
    fn tool_and_server_without_an_entry_can_be_suspended_and_not_resumed() {
        use Suspension::{Resume, Suspend};
        for (target, key) in [
            (ToolTarget::Tool("files/read"), "acme/files/read"),
            (ToolTarget::Server("files"), "acme/files/"),
        ] {
            let blank = target.entry("acme");
            assert_eq!(blank.key(), key);
            let error = derive_tool(Resume, &blank, "why", &[]).unwrap_err().to_string();
            assert!(error.contains(&format!("found `{key}`")), "{error}");
            let suspended = derive_tool(Suspend, &blank, "why", &[]).unwrap();
            assert_eq!((suspended.state, suspended.reason.as_str()), (ToolState::Suspended, "why"));
            let logged = |entry: Result<RegisteredTool, String>| LoggedEntry { offset: 0, entry };
            let entries = [logged(Ok(suspended.clone()))];
            assert_eq!(derive_tool(Suspend, &blank, "again", &entries).unwrap(), suspended);
            let resumed = derive_tool(Resume, &blank, "fixed", &entries).unwrap();
            assert_eq!((resumed.state, resumed.reason.as_str()), (ToolState::Active, "fixed"));
            // An entry of a later version does not hide that the tool must be suspended.
            let later = [logged(Ok(suspended.clone())), logged(Err("a later version".into()))];
            let again = derive_tool(Suspend, &blank, "again", &later).unwrap();
            assert_eq!((again.state, again.reason.as_str()), (ToolState::Suspended, "again"));
        }
    }

    #[test]
    fn name_without_an_entry_is_refused_and_similar_entries_are_named() {
        let tools = [
            RegisteredTool::of_tool("desk", "files/move_file"),
            RegisteredTool::of_tool("desk", "think"),
            RegisteredTool::of_server("desk", "mail"),
        ];
        for (tenant, target, similar) in [
            ("desk", ToolTarget::Tool("files/move_file"), None),
            ("desk", ToolTarget::Tool("think"), None),
            ("desk", ToolTarget::Server("files"), None),
            ("desk", ToolTarget::Server("mail"), None),
            ("desk", ToolTarget::Tool("move_file"), Some("desk/files/move_file")),
            ("desk", ToolTarget::Tool("file/Move_File"), Some("desk/files/move_file")),
            ("disk", ToolTarget::Tool("files/move_file"), Some("desk/files/move_file")),
            ("desk", ToolTarget::Tool("mail"), Some("desk/mail/")),
            ("disk", ToolTarget::Server("mail"), Some("desk/mail/")),
            ("desk", ToolTarget::Server("Files"), Some("desk/files/move_file")),
            ("desk", ToolTarget::Tool("files/mvoe_file"), Some("desk/files/move_file")),
        ] {
            let found = find_entry(&tools, (tenant, target));
            let expected = similar.map_or(Ok(true), |similar| {
                let key = target.entry(tenant).key();
                let similar = vec![similar.to_owned()];
                Err(SuspensionRefusal::NoEntry { kind: target.kind(), key, similar })
            });
            assert_eq!(found, expected, "{tenant} {target:?}");
        }
        for target in
            [ToolTarget::Tool("nothing"), ToolTarget::Tool("no/thing"), ToolTarget::Server("nothing")]
        {
            assert_eq!(find_entry(&tools, ("desk", target)), Ok(false), "{target:?}");
        }
        let refusal = find_entry(&tools, ("desk", ToolTarget::Tool("move_file"))).unwrap_err().to_string();
        for part in ["found `desk/move_file`", "similar entries: `desk/files/move_file`", "--unregistered"] {
            assert!(refusal.contains(part), "{refusal}");
        }
    }

    #[test]
    fn state_and_change_give_the_new_state_or_a_refusal() {
        use AgentState::{Active, Retired, Suspended};
        use Suspension::{Resume, Suspend};
        let refusal = || SuspensionRefusal::Retired { key: "acme/clerk".into() };
        for (state, suspension, expected) in [
            (Active, Suspend, Ok((Suspended, "new"))),
            (Suspended, Suspend, Ok((Suspended, "old"))),
            (Retired, Suspend, Err(refusal())),
            (Active, Resume, Ok((Active, "old"))),
            (Suspended, Resume, Ok((Active, "new"))),
            (Retired, Resume, Err(refusal())),
        ] {
            let registered = RegisteredAgent { agent: agent(state), reason: "old".into() };
            let entry = LoggedEntry { offset: 0, entry: Ok(registered) };
            let derived = derive_agent(suspension, "acme/clerk", "new", &[entry]).map_err(|e| e.to_string());
            let expected = expected
                .map_err(|refusal| refusal.to_string())
                .map(|(state, reason)| RegisteredAgent { agent: agent(state), reason: reason.to_owned() });
            assert_eq!(derived, expected, "{state:?} {suspension:?}");
        }
    }
}
