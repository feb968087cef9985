//! `registry.yaml`: agents and tools in one file, reviewed like code.

use std::collections::BTreeMap;

use agentgov_schemas::governance::server_of;
use agentgov_schemas::key::check_tenant_id;
use agentgov_schemas::yaml::{self, Fields, FromNode, Node, PartialList, Problem, Problems};
use serde_saphyr::Spanned;

use crate::{Agent, Tool};

/// The entries of a registry file, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistryFile {
    /// Agents with unique tenant and id.
    pub agents: Vec<Agent>,
    /// Tools with unique tenant and name.
    pub tools: Vec<Tool>,
}

/// The valid entries of a file, which are checked also if others are invalid.
struct Draft {
    agents: Vec<Spanned<Agent>>,
    tools: Vec<Spanned<Tool>>,
}

impl FromNode for Draft {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        let mut fields = Fields::of(node, "the registry", problems)?;
        let agents = fields.take::<PartialList<_>>("agents").map(|list| list.items).unwrap_or_default();
        let tools = fields.take::<PartialList<_>>("tools").map(|list| list.items).unwrap_or_default();
        fields.end();
        Some(Self { agents, tools })
    }
}

impl RegistryFile {
    /// Parses a registry file. On an error returns all its problems, each with `file_name` and its position.
    pub fn parse(file_name: &str, text: &str) -> Result<Self, Vec<Problem>> {
        let (draft, mut problems) = yaml::read::<Draft>(file_name, text);
        let draft = draft.unwrap_or_else(|| Draft { agents: Vec::new(), tools: Vec::new() });
        let mut seen = BTreeMap::new();
        for Spanned { value: agent, referenced, .. } in &draft.agents {
            let texts = [("agent_id", &agent.agent_id), ("name", &agent.name), ("owner", &agent.owner)];
            check_entry(*referenced, &agent.tenant_id, &texts, &mut problems);
            if agent.roles.iter().any(|role| role.trim().is_empty()) {
                problems.add(*referenced, "roles: expected names, found an empty string");
            }
            if let Some(line) = seen.insert(("agent", agent.key()), referenced.line()) {
                problems
                    .add(*referenced, format!("agent `{}` is defined in line {line} already", agent.key()));
            }
        }
        let mut draft = draft;
        draft.tools.iter_mut().for_each(|tool| name_in_calls(&mut tool.value));
        for Spanned { value: tool, referenced, .. } in &draft.tools {
            let texts = [("name", &tool.name), ("owner", &tool.owner)];
            check_entry(*referenced, &tool.tenant_id, &texts, &mut problems);
            check_server(tool, *referenced, &mut problems);
            if let Some(line) = seen.insert(("tool", tool.key()), referenced.line()) {
                problems.add(*referenced, format!("tool `{}` is defined in line {line} already", tool.key()));
            }
        }
        problems.finish(Some(Self {
            agents: draft.agents.into_iter().map(|agent| agent.value).collect(),
            tools: draft.tools.into_iter().map(|tool| tool.value).collect(),
        }))
    }
}

/// Sets the name that calls use, and the server that follows from it.
fn name_in_calls(tool: &mut Tool) {
    match &tool.server {
        Some(server) if !tool.name.is_empty() => tool.name = format!("{server}/{}", tool.name),
        Some(_) => {}
        None => tool.server = server_of(&tool.name).map(str::to_owned),
    }
}

fn check_server(tool: &Tool, at: yaml::Location, problems: &mut Problems) {
    let Some(server) = &tool.server else { return };
    if server.trim().is_empty() || server.contains('/') {
        problems.add(at, format!("server: expected a name without `/`, found `{server}`"));
    } else if tool.name.starts_with(&format!("{server}/{server}/")) {
        let problem = "name: expected the name at the server, found one that begins with the server";
        problems.add(at, problem.to_owned());
    }
}

fn check_entry(at: yaml::Location, tenant_id: &str, texts: &[(&str, &String)], problems: &mut Problems) {
    if let Err(error) = check_tenant_id(tenant_id) {
        problems.add(at, error.to_string());
    }
    for (key, _) in texts.iter().filter(|(_, text)| text.trim().is_empty()) {
        problems.add(at, format!("{key}: expected a text, found none"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AgentState, ToolEffect};

    #[test]
    fn valid_file_is_parsed() {
        let file = RegistryFile::parse(
            "registry.yaml",
            "agents:\n  - { tenant_id: acme, agent_id: clerk, name: Clerk, owner: desk, roles: [a], state: active }\n\
             tools:\n  - { tenant_id: acme, name: book, owner: desk, effect: write, description: books }\n",
        )
        .unwrap();
        assert_eq!(file.agents[0].state, AgentState::Active);
        assert_eq!(
            (file.tools[0].effect, file.tools[0].description.as_deref()),
            (ToolEffect::Write, Some("books"))
        );
        assert_eq!(RegistryFile::parse("registry.yaml", "agents: []\n").unwrap(), RegistryFile::default());
    }

    fn problems(text: &str) -> Vec<String> {
        RegistryFile::parse("r", text).unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_invalid_entry_is_a_problem() {
        assert_eq!(
            problems(
                "agents:\n\
                 - { tenant_id: a/b, agent_id: x, name: X, owner: '', state: active }\n\
                 - { tenant_id: acme, agent_id: y, name: Y, owner: o, roles: [''], state: active }\n\
                 - { tenant_id: acme, agent_id: y, name: Y, owner: o, state: active }\n\
                 tools:\n\
                 - { tenant_id: acme, name: t, owner: ' ', effect: read }\n\
                 - { tenant_id: acme, name: t, owner: o, effect: read }\n"
            ),
            [
                "r:2:3: owner: expected a text, found none",
                "r:2:3: tenant id `a/b`: expected 1 to 128 of the characters a-z A-Z 0-9 . _ -",
                "r:3:3: roles: expected names, found an empty string",
                "r:4:3: agent `acme/y` is defined in line 3 already",
                "r:6:3: owner: expected a text, found none",
                "r:7:3: tool `acme/t` is defined in line 6 already",
            ]
        );
    }

    #[test]
    fn unknown_key_or_invalid_entry_hides_no_other_mistake() {
        assert_eq!(
            problems(
                "agents:\n\
                 - { tenant_id: acme, agent_id: x, name: X, owner: o, state: active, role: [a] }\n\
                 - { tenant_id: acme, agent_id: x, name: X, owner: '', state: active }\n\
                 - { tenant_id: acme, agent_id: y }\n\
                 tools: 7\n\
                 more: 1\n"
            ),
            [
                "r:2:69: unknown key `role` of an agent; expected tenant_id, agent_id, name, owner, roles, state, description, \
                 sponsor, version or environments",
                "r:3:3: agent `acme/x` is defined in line 2 already",
                "r:3:3: owner: expected a text, found none",
                "r:4:3: an agent must have `name`",
                "r:4:3: an agent must have `owner`",
                "r:4:3: an agent must have `state`",
                "r:5:8: expected a list, found the number 7",
                "r:6:1: unknown key `more` of the registry; expected agents or tools",
            ]
        );
    }

    #[test]
    fn malformed_file_has_problems_with_positions() {
        assert_eq!(
            problems(
                "agents:\n\
                 - { tenant_id: acme, agent_id: x, name: X, owner: o, state: asleep, role: [a] }\n\
                 - { tenant_id: acme, agent_id: 7, name: X, state: active }\n\
                 tols: []\n"
            ),
            [
                "r:2:61: expected active, suspended or retired, found `asleep`",
                "r:2:69: unknown key `role` of an agent; expected tenant_id, agent_id, name, owner, roles, state, \
                 description, sponsor, version or environments",
                "r:3:3: an agent must have `owner`",
                "r:3:32: expected text, found the number 7; put it in quotes if it is meant as text",
                "r:4:1: unknown key `tols` of the registry; expected agents or tools",
            ]
        );
    }
}
