//! `agentgov registry show` and `history`: entries of agents, tools and servers as of any position.

use agentgov_registry::{
    LoggedChange, RegisteredAgent, RegisteredTool, RegistryContext, TopicHistory, UnreadableRecord,
    agent_history, tool_history,
};
use agentgov_schemas::Millis;
use agentgov_service::ExitCode;
use serde_json::json;

use crate::cli::{Global, RegistryQuery};
use crate::context;
use crate::failure::{Failure, OrExit as _};
use crate::print::{errln, json as print_json, outln};

/// Entries that a query selects.
pub struct Selection<'h> {
    /// Entries of agents.
    pub agents: Vec<&'h LoggedChange<RegisteredAgent>>,
    /// Entries of tools and servers.
    pub tools: Vec<&'h LoggedChange<RegisteredTool>>,
    /// Records that this build cannot read.
    pub unreadable: Vec<&'h UnreadableRecord>,
}

/// Prints the last entry of each agent, tool and server.
pub fn show(query: &RegistryQuery, global: &Global) -> Result<(), Failure> {
    let (agents, tools) = read(query, global)?;
    let selection = select(query, agents.last(), tools.last(), (&agents.unreadable, &tools.unreadable));
    print(&selection, global)
}

/// Prints each entry.
pub fn history(query: &RegistryQuery, global: &Global) -> Result<(), Failure> {
    let (agents, tools) = read(query, global)?;
    let (of_agents, of_tools) = (agents.changes.iter().collect(), tools.changes.iter().collect());
    let selection = select(query, of_agents, of_tools, (&agents.unreadable, &tools.unreadable));
    print(&selection, global)
}

fn read(
    query: &RegistryQuery,
    global: &Global,
) -> Result<(TopicHistory<RegisteredAgent>, TopicHistory<RegisteredTool>), Failure> {
    let (topology, endpoints) = (context::topology(global)?, context::endpoints(global)?);
    let context = RegistryContext { endpoints: &endpoints, topology: &topology };
    let agents = agent_history(context, query.as_of).or_exit(ExitCode::TryAgain)?;
    let tools = tool_history(context, query.as_of).or_exit(ExitCode::TryAgain)?;
    Ok((agents, tools))
}

fn select<'h>(
    query: &RegistryQuery,
    agents: Vec<&'h LoggedChange<RegisteredAgent>>,
    tools: Vec<&'h LoggedChange<RegisteredTool>>,
    (of_agents, of_tools): (&'h [UnreadableRecord], &'h [UnreadableRecord]),
) -> Selection<'h> {
    let RegistryQuery { name, tool, server, tenant, .. } = query;
    let of_tenant = |id: &str| tenant.as_ref().is_none_or(|tenant| tenant == id);
    let is = |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| wanted == found);
    let of_agent = |entry: &RegisteredAgent| {
        tool.is_none()
            && server.is_none()
            && of_tenant(&entry.agent.tenant_id)
            && is(name, &entry.agent.agent_id)
    };
    let of_tool = |entry: &RegisteredTool| {
        let of_server = entry.server_name();
        let is_named = is(name, &entry.name) || name.as_deref() == Some(of_server);
        of_tenant(&entry.tenant_id) && is_named && is(tool, &entry.name) && is(server, of_server)
    };
    Selection {
        agents: agents.into_iter().filter(|change| of_agent(&change.entry)).collect(),
        tools: tools.into_iter().filter(|change| of_tool(&change.entry)).collect(),
        unreadable: of_agents.iter().chain(of_tools).collect(),
    }
}

fn print(selection: &Selection<'_>, global: &Global) -> Result<(), Failure> {
    if global.json {
        let Selection { agents, tools, unreadable } = selection;
        return print_json(&json!({ "agents": agents, "tools": tools, "unreadable": unreadable }));
    }
    print_selection(selection);
    Ok(())
}

/// Prints entries, each with its offset, time, author and reason.
pub fn print_selection(selection: &Selection<'_>) {
    outln!("agents");
    for LoggedChange { offset, logged_at, pushed_by, entry } in &selection.agents {
        let RegisteredAgent { agent, reason } = entry;
        outln!("  {:<6} {} by {}", offset, time(*logged_at), pushed_by);
        outln!("    {} {} owner {}", agent.key(), agent.state.as_str(), agent.owner);
        let texts = [
            ("roles", agent.roles.join(", ")),
            ("sponsor", agent.sponsor.clone().unwrap_or_default()),
            ("version", agent.version.clone().unwrap_or_default()),
            ("environments", agent.environments.join(", ")),
            ("reason", reason.clone()),
        ];
        print_texts(&texts);
    }
    outln!("tools");
    for LoggedChange { offset, logged_at, pushed_by, entry: tool } in &selection.tools {
        outln!("  {:<6} {} by {}", offset, time(*logged_at), pushed_by);
        super::print_tool(tool);
        let digest = tool.definition.digest.map(|digest| digest.to_string());
        let texts = [
            ("data classes", tool.data_classes.join(", ")),
            ("definition", digest.unwrap_or_default()),
            ("reason", tool.reason.clone()),
        ];
        print_texts(&texts);
    }
    for record in &selection.unreadable {
        errln!("unreadable: offset {}: {}", record.offset, record.reason);
    }
}

/// Formats the append time of a record, to seconds.
fn time(at: Millis) -> String {
    let at = jiff::Timestamp::from_millisecond(at.0);
    at.map_or_else(|_| "?".to_owned(), |at| at.strftime("%Y-%m-%d %H:%M:%S").to_string())
}

fn print_texts(texts: &[(&'static str, String)]) {
    for (name, text) in texts.iter().filter(|(_, text)| !text.is_empty()) {
        outln!("    {}: {}", name, text);
    }
}
