//! `agentgov registry …`: agents and tools.

use agentgov_connect::Endpoints;
use agentgov_registry::{
    Pushed, RegistryFile, Source, list_agents, list_bundles, list_tools, push_agents, push_tools,
};
use agentgov_runtime::ExitCode;
use agentgov_schemas::topology::Topology;
use serde_json::json;

use super::policy::pusher;
use crate::cli::{Global, RegistryCommand};
use crate::context;
use crate::failure::{Failure, OrExit as _};

pub fn registry(command: &RegistryCommand, global: &Global) -> Result<ExitCode, Failure> {
    let topology = context::topology(global)?;
    match command {
        RegistryCommand::Push { file } => {
            let entries = parse(&file.display().to_string(), &context::read_text(file)?)?;
            let pushed = push(&entries, &context::endpoints(global)?, &topology)?;
            for (what, Pushed { pushed, unchanged }) in ["agents", "tools"].iter().zip(&pushed) {
                say!("{what}: {} pushed, {} unchanged", pushed.len(), unchanged.len());
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
) -> Result<[Pushed; 2], Failure> {
    let source = Source { endpoints, topology };
    let who = pusher();
    let agents = push_agents(source, &entries.agents, &who).or_exit(ExitCode::TryAgain)?;
    let tools = push_tools(source, &entries.tools, &who).or_exit(ExitCode::TryAgain)?;
    Ok([agents, tools])
}

fn list(endpoints: &Endpoints, topology: &Topology, json: bool) -> Result<(), Failure> {
    let source = Source { endpoints, topology };
    let agents = list_agents(source).or_exit(ExitCode::TryAgain)?;
    let tools = list_tools(source).or_exit(ExitCode::TryAgain)?;
    let bundles = list_bundles(source).or_exit(ExitCode::TryAgain)?;
    if json {
        let all = json!({ "agents": agents.entries, "tools": tools.entries, "bundles": bundles.entries });
        say!("{}", serde_json::to_string_pretty(&all).or_exit(ExitCode::Failed)?);
        return Ok(());
    }
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
    let unreadable = agents.unreadable.iter().chain(&tools.unreadable).chain(&bundles.unreadable);
    for record in unreadable {
        eprintln!("unreadable: offset {}: {}", record.offset, record.reason);
    }
    Ok(())
}
