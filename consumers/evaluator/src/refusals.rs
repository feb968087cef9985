//! Bundles that did not load, as alerts: someone pushed rules that do not hold.

use agentgov_policy::RefusedBundle;
use agentgov_processor::{OutputError, Outputs, TableRecord};
use agentgov_schemas::alert::{Alert, AlertDecision};
use agentgov_schemas::verdict::{Mode, Origin, Severity};
use agentgov_schemas::{Digest, Micros, Millis, SessionKey};

/// The tenant of what concerns agentgov itself.
const TENANT: &str = "agentgov";
/// The policy that such alerts name.
const POLICY: &str = "agentgov:bundle-refused";

/// Refused bundles in the order of their topic.
#[derive(Debug)]
pub struct Refusals {
    topic: String,
    all: Vec<Refusal>,
}

#[derive(Debug)]
struct Refusal {
    offset: i64,
    logged_at: Millis,
    environment: String,
    name: String,
    pushed_by: String,
    digest: Option<Digest>,
    message: String,
}

impl Refusals {
    pub fn new(topic: &str) -> Self {
        Self { topic: topic.to_owned(), all: Vec::new() }
    }

    /// Remembers a bundle that does not load.
    pub fn add(&mut self, refused: &RefusedBundle) {
        let problem = refused.first_problem();
        let more = refused.problems.len().saturating_sub(1);
        self.insert(Refusal {
            offset: refused.offset,
            logged_at: refused.logged_at,
            environment: refused.environments.join(","),
            name: refused.name.clone(),
            pushed_by: refused.pushed_by.clone(),
            digest: Some(refused.digest),
            message: format!(
                "bundle {} {} does not load; the last good one stays active: {problem} (and {more} more)",
                refused.name, refused.version
            ),
        });
    }

    /// Remembers a record that is no bundle at all.
    pub fn add_unreadable(&mut self, record: &TableRecord<'_>, why: &str) {
        self.insert(Refusal {
            offset: record.offset,
            logged_at: record.logged_at,
            environment: String::new(),
            name: String::new(),
            pushed_by: String::new(),
            digest: None,
            message: format!("offset {} of {} is no bundle: {why}", record.offset, record.topic),
        });
    }

    /// In order: at a start, what is no bundle is known before what does not load.
    fn insert(&mut self, refusal: Refusal) {
        let at = self.all.partition_point(|known| known.offset < refusal.offset);
        self.all.insert(at, refusal);
    }

    /// True if one stands at `from` or later.
    pub fn any_from(&self, from: i64) -> bool {
        self.all.last().is_some_and(|last| last.offset >= from)
    }

    /// Emits an alert for each one at `from` or later.
    pub fn announce(&self, from: i64, out: &mut Outputs) -> Result<(), OutputError> {
        for refusal in self.all.iter().filter(|refusal| refusal.offset >= from) {
            let session_id = format!("bundle/{}", refusal.name);
            let origin = Origin {
                topic: &self.topic,
                partition: 0,
                offset: refusal.offset,
                logged_at: refusal.logged_at,
            };
            let id = Digest::of_parts([
                TENANT.as_bytes(),
                session_id.as_bytes(),
                POLICY.as_bytes(),
                self.topic.as_bytes(),
                &0i32.to_be_bytes(),
                &refusal.offset.to_be_bytes(),
            ]);
            let alert = Alert {
                alert_id: &id.to_string(),
                revision: 0,
                tenant_id: TENANT,
                environment: &refusal.environment,
                session_id: &session_id,
                session_label: None,
                agent_id: &refusal.pushed_by,
                event_id: "",
                policy: POLICY,
                severity: Severity::Critical.into(),
                mode: Mode::Enforce.into(),
                decision: AlertDecision::Refused.into(),
                tool: None,
                call_index: None,
                message: &refusal.message,
                occurred_at: Micros(refusal.logged_at.0.saturating_mul(1000)),
                opened_at: refusal.logged_at,
                origin,
                first_origin: origin,
                bundle_digest: refusal.digest,
            };
            let key = SessionKey { tenant_id: TENANT, session_id: &session_id }.to_bytes();
            out.emit(&key, &alert)?;
        }
        Ok(())
    }
}
