//! Which topic goes into which table. The names stand in topology.yaml and in the migrations; they must be the same.

use agentgov_runtime::sink::Route;
use agentgov_schemas::subject::{self, Subject};
use agentgov_schemas::topology::{ProducerKind, Stage, Topology};
use agentgov_service::StageError;

/// The stage's name: also its command, and its entry in topology.yaml.
pub(crate) const STAGE: &str = "log-sink";
/// Tables that are fed from no topic, as the migrations name them.
pub(crate) const CLAIMS: &str = "sink_claims";
pub(crate) const GAPS: &str = "sink_gaps";
pub(crate) const EMPTY: &str = "sink_empty_ranges";
pub(crate) const SCHEMAS: &str = "schemas";
pub(crate) const MIGRATIONS: &str = "schema_migrations";

/// The tables of the log, as the migrations name them, by the schema of their records.
const LOG: [(Subject, &str); 7] = [
    (subject::ACTION_EVENT, "actions"),
    (subject::VERDICT, "verdicts"),
    (subject::ALERT, "alerts"),
    (subject::REJECT, "rejects"),
    (subject::AGENT, "agents"),
    (subject::TOOL, "tools"),
    (subject::BUNDLE, "bundles"),
];

/// A topic that the stage reads.
#[derive(Clone, Debug)]
pub(crate) struct Feed {
    pub(crate) subject: Subject,
    pub(crate) route: Route,
}

/// The stage's entry.
pub(crate) fn stage(topology: &Topology) -> Result<&Stage, StageError> {
    Ok(topology.stage(STAGE)?)
}

/// What the stage reads, and where it goes. All mismatches at once.
pub(crate) fn feeds(topology: &Topology) -> Result<Vec<Feed>, StageError> {
    let mut wrong = Vec::new();
    let mut feeds = Vec::new();
    for read in &stage(topology)?.reads {
        match feed(topology, &read.value) {
            Ok(feed) => feeds.push(feed),
            Err(why) => wrong.push(why),
        }
    }
    for name in [CLAIMS, GAPS, EMPTY, SCHEMAS, MIGRATIONS] {
        if !topology.stores.values().any(|store| store.value.tables.contains_key(name)) {
            wrong.push(format!(
                "topology: expected a table `{name}` in a store that {STAGE} writes, found none"
            ));
        }
    }
    if wrong.is_empty() { Ok(feeds) } else { Err(StageError::Config(wrong.join("; "))) }
}

fn feed(topology: &Topology, name: &str) -> Result<Feed, String> {
    let topic = topology
        .topics
        .get(name)
        .ok_or_else(|| format!("topology: {STAGE} reads `{name}`, which is no topic"))?;
    let schema = &topic.value.schema.value;
    let (subject, expected) = LOG.iter().find(|(subject, _)| subject.name == schema).ok_or_else(|| {
        format!("topology: {STAGE} reads `{name}`, but has no table for records of schema `{schema}`")
    })?;
    let (_, table) = topology.table_from(name).map_err(|e| e.to_string())?;
    if table != *expected {
        return Err(format!(
            "topology: expected records of schema `{schema}` to go to table `{expected}`, which the migrations create, found \
             `{table}`"
        ));
    }
    // The tables of these have a column `skipped`.
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
        assert_eq!(gapless, ["actions", "agents", "tools", "bundles"]);
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
