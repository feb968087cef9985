//! `agentgov registry …`: pushes, lists and suspends agents, tools and servers.

pub mod history;
pub mod pin;

use agentgov_connect::Endpoints;
use agentgov_registry::{
    Agent, BundleEntry, Error, Listing, PushSummary, RegisteredAgent, RegisteredTool, RegistryContext,
    RegistryFile, Suspension, SuspensionOutcome, ToolEffect, ToolState, ToolTarget, UnreadableRecord,
    change_suspension, change_tool_suspension, check_entry, list_agents, list_bundles, list_tools,
    push_agents, push_tools,
};
use agentgov_schemas::bounds::MAX_ID_BYTES;
use agentgov_schemas::escape::shell_word;
use agentgov_schemas::key::check_tenant_id;
use agentgov_schemas::topology::Topology;
use agentgov_service::ExitCode;

use super::policy::current_user;
use crate::cli::{Global, RegistryCommand, SuspensionArgs};
use crate::context;
use crate::failure::{Failure, OrExit as _};
use crate::print::{Text, errln, json, outln, text};

pub fn registry(command: &RegistryCommand, global: &Global) -> Result<ExitCode, Failure> {
    let topology = context::topology(global)?;
    match command {
        RegistryCommand::Push { file } => {
            let entries = parse(&file.display().to_string(), &context::read_text(file)?)?;
            let pushed = push(&entries, &context::endpoints(global)?, &topology)?;
            print_still_stopped(&pushed);
            if global.json {
                json(&pushed_json(&pushed))?;
            } else {
                for (what, PushSummary { pushed, unchanged, .. }) in ["agents", "tools"].iter().zip(&pushed) {
                    outln!("{}: {} pushed, {} unchanged", what, pushed.len(), unchanged.len());
                }
            }
        }
        RegistryCommand::Key(command) => return super::keys::keys(command, global),
        RegistryCommand::Show(query) => history::show(query, global)?,
        RegistryCommand::History(query) => history::history(query, global)?,
        RegistryCommand::Diff { server, tenant, as_of, command } => {
            return pin::diff((tenant, server), *as_of, command, global);
        }
        RegistryCommand::Pin { server, tenant, reason, accept, command } => {
            let reason = reason.as_deref().unwrap_or_default();
            let acceptance = accept.map(|digest| pin::Acceptance { reason, digest });
            return pin::pin((tenant, server), acceptance, command, global);
        }
        RegistryCommand::Suspend { target, unregistered } => {
            suspend((Suspension::Suspend, *unregistered), target, global)?;
        }
        RegistryCommand::Resume(target) => suspend((Suspension::Resume, false), target, global)?,
        RegistryCommand::List => list(&context::endpoints(global)?, &topology, global.json)?,
    }
    Ok(ExitCode::Done)
}

/// Parses and checks a registry.yaml. Reports every error with its line.
pub fn parse(file: &str, text: &str) -> Result<RegistryFile, Failure> {
    RegistryFile::parse(file, text).map_err(|problems| {
        Failure::all(ExitCode::Config, "nothing was pushed; the file has errors:", problems)
    })
}

/// Returns the result of a push as JSON.
fn pushed_json([agents, tools]: &[PushSummary; 2]) -> serde_json::Value {
    let keys = |agents: &[Agent]| agents.iter().map(Agent::key).collect::<Vec<_>>();
    let (still_suspended, still_retired) = (keys(&agents.still_suspended), keys(&agents.still_retired));
    serde_json::json!({
        "agents": {
            "pushed": agents.pushed, "unchanged": agents.unchanged, "still_suspended": still_suspended,
            "still_retired": still_retired,
        },
        "tools": {
            "pushed": tools.pushed, "unchanged": tools.unchanged, "still_suspended": tools.still_suspended_tools,
        },
    })
}

/// Pushes agents, then tools.
pub fn push(
    entries: &RegistryFile,
    endpoints: &Endpoints,
    topology: &Topology,
) -> Result<[PushSummary; 2], Failure> {
    let context = RegistryContext { endpoints, topology };
    let user = current_user();
    let agents = push_agents(context, &entries.agents, &user).or_exit(ExitCode::TryAgain)?;
    let tools = push_tools(context, &entries.tools, &user).or_exit(ExitCode::TryAgain)?;
    Ok([agents, tools])
}

/// Prints a notice for each agent that stays suspended or retired after a push, and for each suspended tool.
pub fn print_still_stopped([agents, tools]: &[PushSummary; 2]) {
    for agent in &agents.still_suspended {
        errln!("{}", still_suspended(agent));
    }
    for agent in &agents.still_retired {
        errln!(
            "agent {}: retired, and stays retired; register its successor under another agent_id",
            agent.key()
        );
    }
    for tool in &tools.still_suspended_tools {
        errln!("tool {}: suspended, and a push ends no suspension; `agentgov registry resume` ends it", tool);
    }
}

/// Notice about an agent that a push has as active.
fn still_suspended(agent: &Agent) -> Text {
    let notice = text!("agent {}: suspended, and a push ends no suspension", agent.key());
    match (shell_word(&agent.agent_id), shell_word(&agent.tenant_id)) {
        (Some(id), Some(tenant)) => text!(
            "{}; to end it, run `agentgov registry resume --tenant={} --reason=REASON -- {}`",
            notice,
            tenant,
            id
        ),
        _ => text!("{}; `agentgov registry resume` ends it", notice),
    }
}

/// Checks that a change has a reason, for the person who reads the log later.
pub fn check_reason(reason: &str) -> Result<(), Failure> {
    if reason.trim().is_empty() {
        return Err(Failure::new(ExitCode::Usage, "--reason: expected a text, found none".to_owned()));
    }
    Ok(())
}

/// Suspends or resumes an agent, a tool or a server. With `unregistered`, suspends a tool or a server even if its
/// name is similar to those that have an entry.
fn suspend(
    (suspension, unregistered): (Suspension, bool),
    arguments: &SuspensionArgs,
    global: &Global,
) -> Result<(), Failure> {
    let SuspensionArgs { agent, tool, server, tenant, reason } = arguments;
    check_reason(reason)?;
    let target = match (tool, server) {
        (Some(tool), _) => Some(ToolTarget::Tool(tool)),
        (None, Some(server)) => Some(ToolTarget::Server(server)),
        (None, None) => None,
    };
    if let Some(target) = target {
        check_target(tenant, target)?;
    }
    let (topology, endpoints) = (context::topology(global)?, context::endpoints(global)?);
    let context = RegistryContext { endpoints: &endpoints, topology: &topology };
    let user = current_user();
    let agent = agent.as_deref().unwrap_or_default();
    let has_entry = match target {
        Some(target) if suspension == Suspension::Suspend => match check_entry(context, (tenant, target)) {
            Err(Error::Suspension(_)) if unregistered => Some(false),
            checked => Some(checked.map_err(not_changed)?),
        },
        _ => None,
    };
    let changed = match target {
        Some(target) => change_tool_suspension(context, suspension, (tenant, target), reason, &user),
        None => change_suspension(context, suspension, (tenant, agent), reason, &user),
    };
    let outcome = changed.map_err(not_changed)?;
    let state = suspension.state().as_str();
    let (kind, member, name) = match &target {
        None => ("agent", "agent_id", agent),
        Some(target) => (target.kind(), target.kind(), target.name()),
    };
    if has_entry == Some(false) {
        errln!(
            "{} {}/{}: had no entry; if the name or the tenant is mistyped, nothing was stopped",
            kind,
            tenant,
            name
        );
    }
    if global.json {
        let mut changed = serde_json::json!({
            "tenant_id": tenant, member: name, "state": state, "reason": reason,
            "outcome": outcome.as_str(),
        });
        if let (Some(changed), Some(has_entry)) = (changed.as_object_mut(), has_entry) {
            changed.insert("registered".to_owned(), has_entry.into());
        }
        return json(&changed);
    }
    match outcome {
        SuspensionOutcome::Changed { .. } => outln!("{} {}/{} is {} now", kind, tenant, name, state),
        SuspensionOutcome::Unchanged => {
            outln!("{} {}/{} is {} already; nothing was published", kind, tenant, name, state);
        }
    }
    Ok(())
}

fn not_changed(error: Error) -> Failure {
    let is_refusal = matches!(error, Error::Suspension(_));
    Failure::new(if is_refusal { ExitCode::Failed } else { ExitCode::TryAgain }, error)
}

/// Checks the names of an entry that may be the first of its key.
fn check_target(tenant: &str, target: ToolTarget<'_>) -> Result<(), Failure> {
    let wrong = |message: String| Err(Failure::new(ExitCode::Usage, message));
    if let Err(error) = check_tenant_id(tenant) {
        return wrong(format!("--tenant: {error}"));
    }
    let (kind, name) = (target.kind(), target.name());
    if matches!(target, ToolTarget::Server(_)) {
        return check_server(name);
    }
    if name.trim().is_empty() || name.len() > MAX_ID_BYTES {
        return wrong(format!(
            "--{kind}: expected a name of 1 to {MAX_ID_BYTES} bytes, found {}",
            name.len()
        ));
    }
    Ok(())
}

/// Checks the name of a server.
pub fn check_server(name: &str) -> Result<(), Failure> {
    if name.trim().is_empty() || name.contains('/') || name.len() > MAX_ID_BYTES {
        let message =
            format!("server: expected a name of 1 to {MAX_ID_BYTES} bytes without `/`, found `{name}`");
        return Err(Failure::new(ExitCode::Usage, message));
    }
    Ok(())
}

fn list(endpoints: &Endpoints, topology: &Topology, as_json: bool) -> Result<(), Failure> {
    let context = RegistryContext { endpoints, topology };
    let entries = RegistryEntries {
        agents: list_agents(context).or_exit(ExitCode::TryAgain)?,
        tools: list_tools(context).or_exit(ExitCode::TryAgain)?,
        bundles: list_bundles(context).or_exit(ExitCode::TryAgain)?,
    };
    if as_json {
        let RegistryEntries { agents, tools, bundles } = &entries;
        json(&serde_json::json!({
            "agents": agents.entries,
            "tools": tools.entries,
            "bundles": bundles.entries,
            "unreadable": entries.unreadable().collect::<Vec<_>>(),
        }))?;
    } else {
        print_entries(&entries);
    }
    Ok(())
}

/// Entries of the agent registry.
pub struct RegistryEntries {
    /// Agents.
    pub agents: Listing<RegisteredAgent>,
    /// Tools and servers.
    pub tools: Listing<RegisteredTool>,
    /// Bundles.
    pub bundles: Listing<BundleEntry>,
}

impl RegistryEntries {
    fn unreadable(&self) -> impl Iterator<Item = &UnreadableRecord> {
        self.agents.unreadable.iter().chain(&self.tools.unreadable).chain(&self.bundles.unreadable)
    }
}

/// Prints the entries of the agent registry.
pub fn print_entries(entries: &RegistryEntries) {
    let RegistryEntries { agents, tools, bundles } = entries;
    outln!("agents");
    for RegisteredAgent { agent, reason } in &agents.entries {
        outln!(
            "  {:<32} {:<10} {:<24} {}",
            agent.key(),
            agent.state.as_str(),
            agent.owner,
            agent.roles.join(", ")
        );
        if !reason.is_empty() {
            outln!("    {}: {}", agent.state.as_str(), reason);
        }
    }
    outln!("tools");
    for tool in &tools.entries {
        print_tool(tool);
    }
    outln!("bundles");
    for bundle in &bundles.entries {
        outln!(
            "  {:<24} {:<10} {} at offset {} for {}",
            bundle.name,
            bundle.version,
            bundle.digest.short(),
            bundle.offset,
            bundle.environments.join(", ")
        );
    }
    for record in entries.unreadable() {
        errln!("unreadable: offset {}: {}", record.offset, record.reason);
    }
}

/// Prints the entry of a tool or a server.
pub fn print_tool(tool: &RegisteredTool) {
    let effect = tool.effect.map_or("-", ToolEffect::as_str);
    let kind = if tool.is_server() { "server" } else { effect };
    let pin = tool.definition.digest.map_or_else(|| "unpinned".to_owned(), |digest| digest.short());
    let pin = if tool.is_server() { String::new() } else { pin };
    outln!("  {:<44} {:<12} {:<12} {}", tool.key(), kind, pin, tool.owner);
    if tool.state != ToolState::Active {
        outln!("    {}: {}", tool.state.as_str(), tool.reason);
    }
}
