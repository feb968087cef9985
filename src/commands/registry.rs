//! `agentgov registry …`: agents and tools.

use agentgov_connect::Endpoints;
use agentgov_registry::{
    Agent, BundleEntry, Listing, PushSummary, RegistryContext, RegistryFile, Tool, UnreadableRecord,
    list_agents, list_bundles, list_tools, push_agents, push_tools,
};
use agentgov_schemas::topology::Topology;
use agentgov_service::ExitCode;

use super::policy::pusher;
use crate::cli::{Global, RegistryCommand};
use crate::context;
use crate::failure::{Failure, OrExit as _};
use crate::print::{json, note, say};

pub fn registry(command: &RegistryCommand, global: &Global) -> Result<ExitCode, Failure> {
    let topology = context::topology(global)?;
    match command {
        RegistryCommand::Push { file } => {
            let entries = parse(&file.display().to_string(), &context::read_text(file)?)?;
            let pushed = push(&entries, &context::endpoints(global)?, &topology)?;
            if global.json {
                let keys =
                    |of: &PushSummary| serde_json::json!({ "pushed": of.pushed, "unchanged": of.unchanged });
                let [agents, tools] = &pushed;
                json(&serde_json::json!({ "agents": keys(agents), "tools": keys(tools) }))?;
            } else {
                for (what, PushSummary { pushed, unchanged }) in ["agents", "tools"].iter().zip(&pushed) {
                    say!("{}: {} pushed, {} unchanged", what, pushed.len(), unchanged.len());
                }
            }
        }
        RegistryCommand::List => list(&context::endpoints(global)?, &topology, global.json)?,
    }
    Ok(ExitCode::Done)
}

/// Checks a registry.yaml; every error is named with its place.
pub fn parse(file: &str, text: &str) -> Result<RegistryFile, Failure> {
    RegistryFile::parse(file, text).map_err(|problems| {
        Failure::all(ExitCode::Config, "nothing was pushed, since the file has errors:", problems)
    })
}

/// Pushes agents, then tools.
pub fn push(
    entries: &RegistryFile,
    endpoints: &Endpoints,
    topology: &Topology,
) -> Result<[PushSummary; 2], Failure> {
    let context = RegistryContext { endpoints, topology };
    let who = pusher();
    let agents = push_agents(context, &entries.agents, &who).or_exit(ExitCode::TryAgain)?;
    let tools = push_tools(context, &entries.tools, &who).or_exit(ExitCode::TryAgain)?;
    Ok([agents, tools])
}

fn list(endpoints: &Endpoints, topology: &Topology, as_json: bool) -> Result<(), Failure> {
    let context = RegistryContext { endpoints, topology };
    let listed = Listed {
        agents: list_agents(context).or_exit(ExitCode::TryAgain)?,
        tools: list_tools(context).or_exit(ExitCode::TryAgain)?,
        bundles: list_bundles(context).or_exit(ExitCode::TryAgain)?,
    };
    if as_json {
        let Listed { agents, tools, bundles } = &listed;
        json(&serde_json::json!({
            "agents": agents.entries,
            "tools": tools.entries,
            "bundles": bundles.entries,
            "unreadable": listed.unreadable().collect::<Vec<_>>(),
        }))?;
    } else {
        tell(&listed);
    }
    Ok(())
}

/// The entries of the registry.
pub struct Listed {
    /// Agents.
    pub agents: Listing<Agent>,
    /// Tools.
    pub tools: Listing<Tool>,
    /// Bundles.
    pub bundles: Listing<BundleEntry>,
}

impl Listed {
    fn unreadable(&self) -> impl Iterator<Item = &UnreadableRecord> {
        self.agents.unreadable.iter().chain(&self.tools.unreadable).chain(&self.bundles.unreadable)
    }
}

/// Prints the entries of the registry.
pub fn tell(listed: &Listed) {
    let Listed { agents, tools, bundles } = listed;
    say!("agents");
    for agent in &agents.entries {
        say!(
            "  {:<32} {:<10} {:<24} {}",
            agent.key(),
            agent.state.as_str(),
            agent.owner,
            agent.roles.join(", ")
        );
    }
    say!("tools");
    for tool in &tools.entries {
        say!("  {:<44} {:<12} {}", tool.key(), tool.effect.as_str(), tool.owner);
    }
    say!("bundles");
    for bundle in &bundles.entries {
        say!(
            "  {:<24} {:<10} {} at offset {} for {}",
            bundle.name,
            bundle.version,
            bundle.digest.short(),
            bundle.offset,
            bundle.environments.join(", ")
        );
    }
    for record in listed.unreadable() {
        note!("unreadable: offset {}: {}", record.offset, record.reason);
    }
}
