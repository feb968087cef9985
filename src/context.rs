//! Where the stack is and what the map says: from the command line, the environment, or the stack that `up` left a note of.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use agentgov_connect::{ClickHouseEndpoint, Endpoints, KafkaEndpoint, RegistryEndpoint, Secret};
use agentgov_runtime::ExitCode;
use agentgov_schemas::topology::Topology;

use crate::cli::Global;
use crate::failure::Failure;
use crate::local;

/// The database that holds the log, unless the environment names another.
const DATABASE: &str = "agentgov";

/// The map of `--topology`, or the built-in one.
pub fn topology(global: &Global) -> Result<Arc<Topology>, Failure> {
    topology_from(global.topology.as_deref())
}

/// The map of `file`, or the built-in one.
pub fn topology_from(file: Option<&Path>) -> Result<Arc<Topology>, Failure> {
    let parsed = match file {
        None => Topology::embedded(),
        Some(file) => Topology::parse(&file.display().to_string(), &read_text(file)?),
    };
    parsed
        .map(Arc::new)
        .map_err(|problems| Failure::all(ExitCode::Config, "the topology has errors:", problems))
}

/// The stack of the command line and environment; without one, the stack that a running `up` or `demo --keep` noted.
pub fn endpoints(global: &Global) -> Result<Endpoints, Failure> {
    let (kafka, registry, clickhouse) = (&global.kafka, &global.registry, &global.clickhouse);
    if let (Some(kafka), Some(registry), Some(clickhouse)) = (kafka, registry, clickhouse) {
        let variable = |name| std::env::var(name).ok();
        return Ok(Endpoints {
            kafka: KafkaEndpoint { bootstrap: kafka.clone() },
            registry: RegistryEndpoint { url: registry.clone() },
            clickhouse: ClickHouseEndpoint {
                url: clickhouse.clone(),
                user: variable("AGENTGOV_CLICKHOUSE_USER").unwrap_or_default(),
                password: Secret::new(variable("AGENTGOV_CLICKHOUSE_PASSWORD").unwrap_or_default()),
                database: variable("AGENTGOV_CLICKHOUSE_DATABASE").unwrap_or_else(|| DATABASE.into()),
            },
        });
    }
    let missing: Vec<&str> = [
        (kafka, "AGENTGOV_KAFKA (--kafka)"),
        (registry, "AGENTGOV_REGISTRY (--registry)"),
        (clickhouse, "AGENTGOV_CLICKHOUSE (--clickhouse)"),
    ]
    .iter()
    .filter(|(value, _)| value.is_none())
    .map(|(_, name)| *name)
    .collect();
    if missing.len() == 3
        && let Some(noted) = local::noted()
    {
        return Ok(noted);
    }
    Err(Failure::new(
        ExitCode::Usage,
        format!("no stack: set {}, or start one with `agentgov up` in another terminal", missing.join(", ")),
    ))
}

/// A file's bytes.
pub fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(file).map_err(|e| Failure::new(ExitCode::Failed, format!("{}: {e}", file.display())))
}

/// A file's text.
pub fn read_text(file: &Path) -> Result<String, Failure> {
    String::from_utf8(read(file)?)
        .map_err(|e| Failure::new(ExitCode::Config, format!("{}: expected UTF-8, found {e}", file.display())))
}

/// Writes a file.
pub fn write(file: &PathBuf, text: &str) -> Result<(), Failure> {
    std::fs::write(file, text).map_err(|e| Failure::new(ExitCode::Failed, format!("{}: {e}", file.display())))
}
