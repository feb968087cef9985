//! Decision points: keys, spools and the URLs of their current processes.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::ChildStdout;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use agentgov_registry::{Agent, KeyHolder, RegistryContext};
use agentgov_schemas::governance::KeyKind;

use crate::callers::CALLERS;
use crate::run::Setup;

/// Number of concurrent decision points.
pub const DECISION_POINTS: usize = 2;
/// Name of their processes in logs and reports.
pub(crate) const PDP: &str = "pdp";
/// Prefix of the agents of the callers.
pub(crate) const AGENT_PREFIX: &str = "caller-";
/// Author of the records in the governance topics.
pub(crate) const AUTHOR: &str = "fault harness";

/// URL of a process, once it has reported it.
type ReportedUrl = Arc<OnceLock<String>>;

/// The decision points of a run.
pub(crate) struct DecisionPoints {
    /// Has a key and a spool of each.
    folder: PathBuf,
    urls: [Mutex<ReportedUrl>; DECISION_POINTS],
    agents: Vec<String>,
}

impl DecisionPoints {
    /// Publishes the keys of the decision points, and registers the agents of the callers.
    pub(crate) fn prepare(setup: &Setup<'_>) -> Result<Self, String> {
        // Several pipelines may share the stack, so the name contains the pipeline's database.
        let folder = setup.env.logs().join(format!("pdp-{}", setup.endpoints.clickhouse.database));
        std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let points = Self { folder, urls: Default::default(), agents: agents() };
        let context = RegistryContext { endpoints: setup.endpoints, topology: setup.topology };
        for member in 0..DECISION_POINTS {
            points.publish_key(context, member)?;
        }
        let listing = agentgov_registry::list_agents(context).map_err(|e| e.to_string())?;
        let is_load = |agent: &Agent| (&*agent.tenant_id, &*agent.agent_id) == (setup.tenant, setup.agent);
        let load = listing.entries.into_iter().map(|registered| registered.agent).find(is_load);
        let load = load.ok_or_else(|| format!("expected a registered agent, found no {}", setup.agent))?;
        let agents: Vec<Agent> =
            points.agents.iter().map(|id| Agent { agent_id: id.clone(), ..load.clone() }).collect();
        agentgov_registry::push_agents(context, &agents, AUTHOR).map_err(|e| e.to_string())?;
        Ok(points)
    }

    /// Returns the agents of the callers.
    pub(crate) fn agents(&self) -> &[String] {
        &self.agents
    }

    /// Returns the URL of a decision point, if its process has reported one.
    pub(crate) fn url(&self, member: usize) -> Option<String> {
        let slot = self.urls.get(member)?;
        slot.lock().unwrap_or_else(PoisonError::into_inner).get().cloned()
    }

    /// Returns the arguments of a process.
    pub(crate) fn arguments(&self, member: usize) -> Vec<OsString> {
        let mut arguments: Vec<OsString> =
            ["--json", "--listen", "127.0.0.1:0", "--name"].map(OsString::from).into();
        arguments.push(name(member).into());
        arguments.extend(["--signing-key".into(), self.key_file(member).into_os_string()]);
        arguments.extend(["--spool".into(), self.spool(member).into_os_string()]);
        arguments
    }

    /// Forgets the URL of the last process, and reads that of a new one from its output.
    pub(crate) fn read_url(&self, member: usize, stdout: ChildStdout) {
        let reported = ReportedUrl::default();
        if let Some(slot) = self.urls.get(member) {
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&reported);
        }
        // Ends with the process.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let line = serde_json::from_str::<serde_json::Value>(&line).unwrap_or_default();
                if let Some(url) = line.get("listening").and_then(|url| url.as_str()) {
                    reported.get_or_init(|| url.to_owned());
                }
            }
        });
    }

    /// Returns the number of sources in the spools.
    pub(crate) fn spooled_sources(&self) -> usize {
        let spools = (0..DECISION_POINTS).filter_map(|member| std::fs::read_dir(self.spool(member)).ok());
        spools.flatten().flatten().filter(|entry| entry.path().is_dir()).count()
    }

    fn publish_key(&self, context: RegistryContext<'_>, member: usize) -> Result<(), String> {
        let file = self.key_file(member);
        let key = agentgov_registry::generate_key().map_err(|e| e.to_string())?;
        agentgov_registry::create_key_file(&file, &key).map_err(|e| format!("{}: {e}", file.display()))?;
        let name = name(member);
        let holder = KeyHolder { kind: KeyKind::Pdp, name: &name, tenant_id: None };
        agentgov_registry::publish_key(context, key.public_key(), holder, AUTHOR)
            .map_err(|e| e.to_string())?;
        Ok(())
    }

    fn key_file(&self, member: usize) -> PathBuf {
        self.folder.join(format!("{}.jwk", name(member)))
    }

    fn spool(&self, member: usize) -> PathBuf {
        self.folder.join(format!("{}-spool", name(member)))
    }
}

fn name(member: usize) -> String {
    format!("{PDP}-{}", member + 1)
}

fn agents() -> Vec<String> {
    (1..=CALLERS).map(|number| format!("{AGENT_PREFIX}{number}")).collect()
}
