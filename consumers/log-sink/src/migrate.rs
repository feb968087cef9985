//! Creation of the tables. Each file of `migrations/` is one repeatable statement. The holder of the migration claim
//! applies them in order, with the protocol of the rows: claim, drain, read, apply.

use agentgov_connect::ClickHouseEndpoint;
use agentgov_runtime::sink::protocol::DrainOutcome;
use agentgov_runtime::sink::store::quote;
use agentgov_runtime::sink::{Store, StoreError, protocol};
use agentgov_schemas::Digest;
use agentgov_schemas::topology::Topology;
use agentgov_service::{ShutdownSignal, StageError};
use serde::Deserialize;

use crate::tables::{self, CLAIMS, MIGRATIONS};

macro_rules! migrations {
    ($($name:literal),*) => {
        /// Migrations in order. A released file never changes; a change comes in a new file.
        const FILES: &[(&str, &str)] = &[$(($name, include_str!(concat!("../migrations/", $name, ".sql")))),*];
    };
}

migrations!(
    "0001_sink_claims",
    "0002_schema_migrations",
    "0003_sink_gaps",
    "0004_schemas",
    "0005_actions",
    "0006_verdicts",
    "0007_alerts",
    "0008_rejects",
    "0009_agents",
    "0010_tools",
    "0011_bundles",
    "0012_actions_parts",
    "0013_verdicts_parts",
    "0014_actions_merges",
    "0015_verdicts_merges",
    "0016_actions_merges",
    "0017_verdicts_merges",
    "0018a_actions_skipped",
    "0018b_agents_skipped",
    "0018c_tools_skipped",
    "0018d_bundles_skipped",
    "0018e_actions_skipped_parts",
    "0019_verdicts_findings",
    "0020_sink_empty_ranges",
    "0021_keys",
    "0022_actions_decisions",
    "0023_agents_reason",
    "0024a_verdicts_prior_decision",
    "0024b_alerts_prevented",
    "0024c_verdicts_unavailable",
    "0025_actions_decision_violations",
    "0026_evaluation_bases",
    "0027_actions_definition",
    "0028a_tools_governed",
    "0028b_agents_sponsor",
    "0029_actions_approvals",
    "0030_verdicts_approval"
);

/// Number of files that create the tables of claims and of migrations. They use IF NOT EXISTS and run each time.
const FOUNDATION_FILES: usize = 2;
/// Number of times that another process may take the migration claim before an error.
const MAX_ATTEMPTS: usize = 20;

/// Result of a migration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationReport {
    /// Name of the database.
    pub database: String,
    /// Files that this call has applied.
    pub applied: Vec<String>,
    /// Number of files that were applied before.
    pub previously_applied: usize,
}

#[derive(Deserialize)]
struct Applied {
    version: usize,
    name: String,
    sha256: Digest,
}

/// Creates the database and its tables if they are missing. Several processes may call this at the same time.
///
/// Returns `Unavailable` if the server is unavailable, and `Config` if the tables were created from other files than
/// those of this build.
pub fn migrate(endpoint: &ClickHouseEndpoint, topology: &Topology) -> Result<MigrationReport, StageError> {
    tables::feeds(topology)?;
    let store = Store::new(endpoint, topology.timing.insert_timeout.0)?;
    migrate_store(&store, &ShutdownSignal::default())
}

pub(crate) fn migrate_store(store: &Store, stop: &ShutdownSignal) -> Result<MigrationReport, StageError> {
    let database = store.database().to_owned();
    store
        .execute_without_database(&format!("CREATE DATABASE IF NOT EXISTS `{database}`"))
        .map_err(unavailable)?;
    for (_, statement) in FILES.iter().take(FOUNDATION_FILES) {
        store.execute(statement).map_err(unavailable)?;
    }
    for _ in 0..MAX_ATTEMPTS {
        match apply(store, stop) {
            Ok(Attempt::Applied { now, before }) => {
                return Ok(MigrationReport { database, applied: now, previously_applied: before });
            }
            Ok(Attempt::Foreign(why)) => return Err(StageError::Config(why)),
            Ok(Attempt::Stopped) => {
                let message = "shutdown was requested".to_owned();
                return Err(StageError::Unavailable { what: "migrations".into(), message });
            }
            Err(error) if error.is_fenced() => {
                tracing::info!("another process is migrating as well; retrying")
            }
            Err(error) => return Err(unavailable(error)),
        }
    }
    Err(StageError::Unavailable {
        what: format!("clickhouse, database {database}"),
        message: format!("other processes have taken the migration claim {MAX_ATTEMPTS} times"),
    })
}

/// Outcome of an attempt.
enum Attempt {
    /// The tables match this build.
    Applied {
        /// Files that it has applied.
        now: Vec<String>,
        /// Number of files that were applied before.
        before: usize,
    },
    /// The tables were created from other files.
    Foreign(String),
    /// Shutdown was requested.
    Stopped,
}

#[expect(clippy::expect_used, reason = "`claim` returns a claim for each name")]
fn apply(store: &Store, stop: &ShutdownSignal) -> Result<Attempt, StoreError> {
    let claims = protocol::claim(store, CLAIMS, [MIGRATIONS.to_owned()])?;
    let claim = claims.get(MIGRATIONS).expect("a claim for the claimed name");
    if protocol::drain(store, &claims, stop)? == DrainOutcome::Stopped {
        return Ok(Attempt::Stopped);
    }
    let applied: Vec<Applied> = store.select(&format!(
        "SELECT DISTINCT version, name, lower(hex(sha256)) AS sha256 FROM {MIGRATIONS} ORDER BY version"
    ))?;
    if let Err(why) = check_applied(&applied) {
        return Ok(Attempt::Foreign(why));
    }
    let mut now = Vec::new();
    for (at, (name, statement)) in FILES.iter().enumerate().skip(applied.len()) {
        let marker = claims.marker();
        store.execute(&format!("{marker} {statement}"))?;
        store.execute(&format!(
            "{marker} INSERT INTO {MIGRATIONS} (version, name, sha256, claim) VALUES ({}, {}, unhex('{}'), {claim})",
            at + 1,
            quote(name),
            Digest::of(statement.as_bytes())
        ))?;
        tracing::info!(database = store.database(), migration = name, "applied a migration");
        now.push((*name).to_owned());
    }
    Ok(Attempt::Applied { now, before: applied.len() })
}

/// Checks that the applied files are a prefix of this build's files.
fn check_applied(applied: &[Applied]) -> Result<(), String> {
    for (at, found) in applied.iter().enumerate() {
        let Some((name, statement)) = FILES.get(at) else {
            return Err(format!(
                "table {MIGRATIONS}: expected at most {} migrations, which are all that this build has, found {}: {}; run \
                 the build that applied it, or a later one",
                FILES.len(),
                found.version,
                found.name
            ));
        };
        if found.version != at + 1 || found.name != *name || found.sha256 != Digest::of(statement.as_bytes())
        {
            return Err(format!(
                "table {MIGRATIONS}: expected {} to be {name} with SHA-256 {}, found {} {} with SHA-256 {}: these tables were \
                 created from other files",
                at + 1,
                Digest::of(statement.as_bytes()),
                found.version,
                found.name,
                found.sha256
            ));
        }
    }
    Ok(())
}

fn unavailable(error: StoreError) -> StageError {
    match error {
        StoreError::NoResponse { url, message } => {
            StageError::Unavailable { what: format!("clickhouse at {url}"), message }
        }
        error => StageError::Unavailable { what: "migrations".into(), message: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(count: usize) -> Vec<Applied> {
        let files = FILES.iter().enumerate().take(count);
        files
            .map(|(at, (name, text))| Applied {
                version: at + 1,
                name: (*name).to_owned(),
                sha256: Digest::of(text.as_bytes()),
            })
            .collect()
    }

    #[test]
    fn migrations_are_numbered_in_order_and_repeatable() {
        assert!(FILES.is_sorted_by(|(before, _), (after, _)| before < after));
        for (name, text) in FILES {
            assert!(name.chars().take(4).all(|c| c.is_ascii_digit()), "{name}");
            let repeatable = text.contains("IF NOT EXISTS")
                || text.contains(" MODIFY SETTING ")
                || text.contains(" MATERIALIZE ");
            assert!(repeatable && !text.contains(';'), "{name}: one statement, repeatable");
        }
        let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")).unwrap();
        assert_eq!(files.count(), FILES.len(), "expected every file to be listed");
    }

    #[test]
    fn applied_migrations_must_be_a_prefix_of_this_builds() {
        for count in [0, 1, FILES.len()] {
            assert_eq!(check_applied(&applied(count)), Ok(()));
        }
        let mut changed = applied(3);
        changed[1].sha256 = Digest::of(b"edited");
        assert!(check_applied(&changed).unwrap_err().contains("0002_schema_migrations"));
        let mut newer = applied(FILES.len());
        newer.push(Applied { version: 99, name: "0099_later".into(), sha256: Digest::of(b"") });
        assert!(check_applied(&newer).unwrap_err().contains("0099_later"));
    }
}
