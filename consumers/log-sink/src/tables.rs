//! Tables by topic. topology.yaml and the migrations both name them, and must agree.

use agentgov_runtime::sink::Route;
use agentgov_schemas::subject::{self, Subject};
use agentgov_schemas::topology::{ProducerKind, Stage, Topology};
use agentgov_service::StageError;

/// Name of the stage, of its command, and of its entry in topology.yaml.
pub(crate) const STAGE: &str = "log-sink";
/// Tables without a topic, as the migrations name them.
pub(crate) const CLAIMS: &str = "sink_claims";
pub(crate) const GAPS: &str = "sink_gaps";
pub(crate) const EMPTY: &str = "sink_empty_ranges";
pub(crate) const SCHEMAS: &str = "schemas";
pub(crate) const MIGRATIONS: &str = "schema_migrations";

/// Tables of the log, as the migrations name them, by the schema of their records.
const LOG: [(Subject, &str); 9] = [
    (subject::ACTION_EVENT, "actions"),
    (subject::VERDICT, "verdicts"),
    (subject::ALERT, "alerts"),
    (subject::REJECT, "rejects"),
    (subject::EVALUATION_BASIS, "evaluation_bases"),
    (subject::AGENT, "agents"),
    (subject::TOOL, "tools"),
    (subject::BUNDLE, "bundles"),
    (subject::KEY, "keys"),
];

/// Topic that the stage reads.
#[derive(Clone, Debug)]
pub(crate) struct Feed {
    pub(crate) subject: Subject,
    pub(crate) route: Route,
}

/// Returns the stage's entry in the topology.
pub(crate) fn stage(topology: &Topology) -> Result<&Stage, StageError> {
    Ok(topology.stage(STAGE)?)
}

/// Returns the topics of the stage with their tables, or all mismatches in one error.
pub(crate) fn feeds(topology: &Topology) -> Result<Vec<Feed>, StageError> {
    let mut mismatches = Vec::new();
    let mut feeds = Vec::new();
    for read in &stage(topology)?.reads {
        match feed(topology, &read.value) {
            Ok(feed) => feeds.push(feed),
            Err(why) => mismatches.push(why),
        }
    }
    for name in [CLAIMS, GAPS, EMPTY, SCHEMAS, MIGRATIONS] {
        if !topology.stores.values().any(|store| store.value.tables.contains_key(name)) {
            mismatches.push(format!(
                "topology: expected a table `{name}` in a store that {STAGE} writes, found none"
            ));
        }
    }
    if mismatches.is_empty() { Ok(feeds) } else { Err(StageError::Config(mismatches.join("; "))) }
}

fn feed(topology: &Topology, name: &str) -> Result<Feed, String> {
    let topic = topology
        .topics
        .get(name)
        .ok_or_else(|| format!("topology: expected a topic `{name}`, which {STAGE} reads, found none"))?;
    let schema = &topic.value.schema.value;
    let (subject, expected) = LOG.iter().find(|(subject, _)| subject.name == schema).ok_or_else(|| {
        format!("topology: expected {STAGE} to read topics whose records have a table, found `{name}` with records of schema `{schema}`")
    })?;
    let (_, table) = topology.table_from(name).map_err(|e| e.to_string())?;
    if table != *expected {
        return Err(format!(
            "topology: expected records of schema `{schema}` to go to table `{expected}`, which the migrations create, found \
             `{table}`"
        ));
    }
    // Tables of idempotent producers have a column `skipped`.
    let gapless = topic.value.producer == ProducerKind::Idempotent;
    let retention = topic.value.retention.value;
    let route = Route { topic: name.to_owned(), table: table.to_owned(), gapless, retention };
    Ok(Feed { subject: *subject, route })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topology() -> Topology {
        Topology::embedded().unwrap()
    }

    #[test]
    fn topology_and_migrations_name_the_same_tables() {
        let feeds = feeds(&topology()).unwrap();
        assert_eq!(feeds.len(), LOG.len());
        let gapless: Vec<_> =
            feeds.iter().filter(|f| f.route.gapless).map(|f| f.route.table.as_str()).collect();
        assert_eq!(gapless, ["actions", "agents", "tools", "bundles", "keys"]);
    }

    #[test]
    fn all_mismatches_are_reported_together() {
        let mut topology = topology();
        for store in topology.stores.values_mut() {
            store.value.tables.remove("sink_gaps");
            let verdicts = store.value.tables.remove("verdicts").unwrap();
            store.value.tables.insert("judgements".into(), verdicts);
        }
        let message = feeds(&topology).unwrap_err().to_string();
        assert!(message.contains("`verdicts`") && message.contains("`judgements`"), "{message}");
        assert!(message.contains("`sink_gaps`"), "{message}");
    }
}
