//! Draws the topology as a Mermaid flowchart.

use std::collections::BTreeSet;

use agentgov_schemas::subject;
use agentgov_schemas::topology::{Stage, Topology};

/// Where the picture of a document begins.
const BEGIN: &str = "<!-- topology:begin -->";
/// Where it ends.
const END: &str = "<!-- topology:end -->";

/// The topology as a Mermaid flowchart, without a code fence: producers, topics, stages and stores from left to right. The same
/// map gives the same text.
pub fn graph(topology: &Topology) -> String {
    let mut lines = vec!["flowchart LR".to_owned()];
    let groups = Groups::of(topology);
    lines.push("  services[/\"platform services<br/>SDK, importers\"/]".to_owned());
    lines.push("  operators[/\"operators<br/>registry and policy push\"/]".to_owned());
    group(&mut lines, "actions", "what agents did", &groups.actions);
    group(&mut lines, "tables", "governance tables", &groups.tables);
    for name in topology.stages.keys() {
        lines.push(format!("  {}[\"<b>{name}</b>\"]", stage_id(name)));
    }
    lines.extend(groups.state.iter().map(|topic| format!("  {}([\"{topic}\"])", topic_id(topic))));
    group(&mut lines, "results", "what was found", &groups.results);
    for (name, store) in &topology.stores {
        // What the writer keeps for itself is no part of the flow.
        let fed = store.value.tables.iter().filter(|(_, table)| table.value.from.is_some());
        let tables: Vec<_> = fed.map(|(name, _)| name.as_str()).collect();
        lines.push(format!("  {}[(\"<b>{name}</b><br/>{}\")]", store_id(name), in_rows(&tables)));
    }
    lines.extend(groups.actions.iter().map(|topic| format!("  services --> {}", topic_id(topic))));
    if !groups.tables.is_empty() {
        lines.push("  operators --> tables".to_owned());
    }
    for (name, stage) in &topology.stages {
        edges(&mut lines, name, &stage.value, &groups);
    }
    lines.push("  classDef stage fill:#dbeafe,stroke:#1d4ed8,color:#111".to_owned());
    lines.push("  classDef state fill:#fff,stroke:#888,stroke-dasharray:4 3,color:#333".to_owned());
    class(&mut lines, "stage", topology.stages.keys().map(|name| stage_id(name)));
    class(&mut lines, "state", groups.state.iter().map(|name| topic_id(name)));
    lines.join("\n") + "\n"
}

/// Topics by what they are for. A group is drawn together.
struct Groups<'t> {
    actions: Vec<&'t str>,
    tables: Vec<&'t str>,
    state: Vec<&'t str>,
    results: Vec<&'t str>,
}

impl<'t> Groups<'t> {
    fn of(topology: &'t Topology) -> Self {
        let mut groups =
            Self { actions: Vec::new(), tables: Vec::new(), state: Vec::new(), results: Vec::new() };
        let states: BTreeSet<_> = topology
            .stages
            .values()
            .filter_map(|s| s.value.state.as_ref())
            .map(|s| s.value.as_str())
            .collect();
        let registry = [subject::AGENT.name, subject::TOOL.name, subject::BUNDLE.name, subject::KEY.name];
        for (name, topic) in &topology.topics {
            let schema = topic.value.schema.value.as_str();
            let group = if schema == subject::ACTION_EVENT.name {
                &mut groups.actions
            } else if registry.contains(&schema) {
                &mut groups.tables
            } else if states.contains(name.as_str()) {
                &mut groups.state
            } else {
                &mut groups.results
            };
            group.push(name);
        }
        groups
    }
}

fn group(lines: &mut Vec<String>, id: &str, title: &str, topics: &[&str]) {
    if topics.is_empty() {
        return;
    }
    lines.push(format!("  subgraph {id} [\"{title}\"]"));
    lines.extend(topics.iter().map(|topic| format!("    {}([\"{topic}\"])", topic_id(topic))));
    lines.push("  end".to_owned());
}

fn edges(lines: &mut Vec<String>, name: &str, stage: &Stage, groups: &Groups) {
    let id = stage_id(name);
    let mut line = |text: String| lines.push(format!("  {text}"));
    let reads: Vec<_> = stage.reads.iter().map(|topic| topic.value.as_str()).collect();
    // A stage that reads all of a group has one arrow from the group.
    let whole = groups.tables.len() > 1 && groups.tables.iter().all(|table| reads.contains(table));
    for topic in reads.iter().filter(|topic| !(whole && groups.tables.contains(topic))) {
        line(format!("{} --> {id}", topic_id(topic)));
    }
    if whole {
        line(format!("tables --> {id}"));
    }
    for table in &stage.global_tables {
        line(format!("{} -. table .-> {id}", topic_id(&table.value)));
    }
    if let Some(state) = &stage.state {
        // Written this way round, the changelog is drawn in front of its stage and not at the far end.
        line(format!("{} <-. state .-> {id}", topic_id(&state.value)));
    }
    for topic in &stage.emits {
        line(format!("{id} --> {}", topic_id(&topic.value)));
    }
    for store in &stage.stores {
        line(format!("{id} ==> {}", store_id(&store.value)));
    }
}

fn class(lines: &mut Vec<String>, name: &str, ids: impl Iterator<Item = String>) {
    let ids: Vec<_> = ids.collect();
    if !ids.is_empty() {
        lines.push(format!("  class {} {name}", ids.join(",")));
    }
}

/// At most three names a row.
fn in_rows(names: &[&str]) -> String {
    let rows: Vec<_> = names.chunks(3).map(|row| row.join(", ")).collect();
    rows.join("<br/>")
}

fn topic_id(name: &str) -> String {
    id('t', name)
}

fn stage_id(name: &str) -> String {
    id('s', name)
}

fn store_id(name: &str) -> String {
    id('d', name)
}

/// Mermaid has words that are no ids, such as `end`: the prefix keeps clear of them.
fn id(prefix: char, name: &str) -> String {
    let mut id = format!("{prefix}_");
    for c in name.chars() {
        match c {
            '.' => id.push('_'),
            '-' => id.push_str("__"),
            '_' => id.push_str("___"),
            c => id.push(c),
        }
    }
    id
}

/// A document without the two comments that a picture goes between.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected a line `{BEGIN}` and after it a line `{END}`, found none; add both where the picture belongs"
)]
pub struct MissingMarkers;

/// `document` with `mermaid` between its markers `<!-- topology:begin -->` and `<!-- topology:end -->`.
pub fn splice(document: &str, mermaid: &str) -> Result<String, MissingMarkers> {
    let (before, rest) = document.split_once(BEGIN).ok_or(MissingMarkers)?;
    let (_, after) = rest.split_once(END).ok_or(MissingMarkers)?;
    Ok(format!("{before}{BEGIN}\n```mermaid\n{mermaid}```\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn embedded() -> String {
        graph(&Topology::embedded().expect("the embedded map keeps its rules"))
    }

    #[test]
    fn readme_shows_the_topology() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md");
        let readme = std::fs::read_to_string(path).expect(path);
        let spliced = splice(&readme, &embedded()).expect(path);
        assert!(
            spliced == readme,
            "README.md does not show topology.yaml; run `agentgov topology graph --write README.md`"
        );
    }

    #[test]
    fn every_name_of_the_map_is_in_the_picture() {
        let picture = embedded();
        let map = Topology::embedded().unwrap();
        for name in map.topics.keys().chain(map.stages.keys()).chain(map.stores.keys()) {
            assert!(picture.contains(name.as_str()), "{name}");
        }
    }

    #[test]
    fn splicing_replaces_the_picture_and_nothing_else() {
        let document = format!("# a\n\n{BEGIN}\nold\n{END}\nb\n");
        let once = splice(&document, "flowchart LR\n").unwrap();
        assert_eq!(once, format!("# a\n\n{BEGIN}\n```mermaid\nflowchart LR\n```\n{END}\nb\n"));
        assert_eq!(splice(&once, "flowchart LR\n").unwrap(), once);
        assert_eq!(splice("# a", "x"), Err(MissingMarkers));
        assert_eq!(splice(&format!("{END} {BEGIN}"), "x"), Err(MissingMarkers));
    }

    #[test]
    fn ids_differ_where_names_do() {
        let ids: BTreeSet<_> = ["a.b", "a-b", "a_b", "ab"].into_iter().map(|name| id('t', name)).collect();
        assert_eq!(ids.len(), 4, "{ids:?}");
    }
}
