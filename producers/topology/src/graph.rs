//! Draws the topology as a Mermaid flowchart.

use std::collections::BTreeSet;

use agentgov_schemas::subject;
use agentgov_schemas::topology::{Stage, Topology};

/// Marker before the drawing in a document.
const BEGIN: &str = "<!-- topology:begin -->";
/// Marker after the drawing.
const END: &str = "<!-- topology:end -->";

/// Returns the topology as a Mermaid flowchart without a code fence: producers, topics, stages and stores from left to right.
/// The same topology gives the same text.
pub fn graph(topology: &Topology) -> String {
    let mut lines = vec!["flowchart LR".to_owned()];
    let groups = Groups::new(topology);
    lines.push("  services[/\"platform services<br/>SDK, importers\"/]".to_owned());
    lines.push("  operators[/\"operators<br/>registry and policy push\"/]".to_owned());
    push_group(&mut lines, "actions", "what agents did", &groups.actions);
    push_group(&mut lines, "tables", "governance tables", &groups.tables);
    for name in topology.stages.keys() {
        lines.push(format!("  {}[\"<b>{name}</b>\"]", stage_id(name)));
    }
    lines.extend(groups.state.iter().map(|topic| format!("  {}([\"{topic}\"])", topic_id(topic))));
    push_group(&mut lines, "results", "what was found", &groups.results);
    for (name, store) in &topology.stores {
        // Tables without a topic are internal to the writer and not drawn.
        let filled = store.value.tables.iter().filter(|(_, table)| table.value.from.is_some());
        let tables: Vec<_> = filled.map(|(name, _)| name.as_str()).collect();
        lines.push(format!("  {}[(\"<b>{name}</b><br/>{}\")]", store_id(name), in_rows(&tables)));
    }
    lines.extend(groups.actions.iter().map(|topic| format!("  services --> {}", topic_id(topic))));
    if !groups.tables.is_empty() {
        lines.push("  operators --> tables".to_owned());
    }
    for (name, stage) in &topology.stages {
        push_edges(&mut lines, name, &stage.value, &groups);
    }
    lines.push("  classDef stage fill:#dbeafe,stroke:#1d4ed8,color:#111".to_owned());
    lines.push("  classDef state fill:#fff,stroke:#888,stroke-dasharray:4 3,color:#333".to_owned());
    push_class(&mut lines, "stage", topology.stages.keys().map(|name| stage_id(name)));
    push_class(&mut lines, "state", groups.state.iter().map(|name| topic_id(name)));
    lines.join("\n") + "\n"
}

/// Topics by purpose. Each group except `state` is drawn as a box.
struct Groups<'t> {
    actions: Vec<&'t str>,
    tables: Vec<&'t str>,
    state: Vec<&'t str>,
    results: Vec<&'t str>,
}

impl<'t> Groups<'t> {
    fn new(topology: &'t Topology) -> Self {
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

fn push_group(lines: &mut Vec<String>, id: &str, title: &str, topics: &[&str]) {
    if topics.is_empty() {
        return;
    }
    lines.push(format!("  subgraph {id} [\"{title}\"]"));
    lines.extend(topics.iter().map(|topic| format!("    {}([\"{topic}\"])", topic_id(topic))));
    lines.push("  end".to_owned());
}

fn push_edges(lines: &mut Vec<String>, name: &str, stage: &Stage, groups: &Groups) {
    let id = stage_id(name);
    let mut line = |text: String| lines.push(format!("  {text}"));
    let reads: Vec<_> = stage.reads.iter().map(|topic| topic.value.as_str()).collect();
    // A stage that reads all topics of a group has one arrow from the group.
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
        // In this direction, Mermaid draws the changelog beside its stage and not at the right edge.
        line(format!("{} <-. state .-> {id}", topic_id(&state.value)));
    }
    for topic in &stage.emits {
        line(format!("{id} --> {}", topic_id(&topic.value)));
    }
    for store in &stage.stores {
        line(format!("{id} ==> {}", store_id(&store.value)));
    }
}

fn push_class(lines: &mut Vec<String>, name: &str, ids: impl Iterator<Item = String>) {
    let ids: Vec<_> = ids.collect();
    if !ids.is_empty() {
        lines.push(format!("  class {} {name}", ids.join(",")));
    }
}

/// Breaks names into rows of at most three.
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

/// Returns a Mermaid id. The prefix avoids reserved words such as `end`.
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

/// A document without the two markers.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected a line `{BEGIN}` and after it a line `{END}`, found none; add both where the drawing belongs"
)]
pub struct MissingMarkers;

/// Returns `document` with `mermaid` between its markers `<!-- topology:begin -->` and `<!-- topology:end -->`.
pub fn splice(document: &str, mermaid: &str) -> Result<String, MissingMarkers> {
    let (before, rest) = document.split_once(BEGIN).ok_or(MissingMarkers)?;
    let (_, after) = rest.split_once(END).ok_or(MissingMarkers)?;
    Ok(format!("{before}{BEGIN}\n```mermaid\n{mermaid}```\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn embedded() -> String {
        graph(&Topology::embedded().expect("the embedded topology is valid"))
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
    fn graph_contains_every_topic_stage_and_store() {
        let drawing = embedded();
        let topology = Topology::embedded().unwrap();
        for name in topology.topics.keys().chain(topology.stages.keys()).chain(topology.stores.keys()) {
            assert!(drawing.contains(name.as_str()), "{name}");
        }
    }

    #[test]
    fn splice_replaces_only_the_drawing() {
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
