//! Alerts about bundles that do not load.

use agentgov_policy::RefusedBundle;
use agentgov_processor::{OutputError, Outputs, TableRecord};
use agentgov_schemas::alert::{Alert, AlertDecision};
use agentgov_schemas::verdict::{Mode, Origin, Severity};
use agentgov_schemas::{Digest, Micros, Millis, SessionKey};

/// Tenant of alerts about agentgov itself.
const TENANT: &str = "agentgov";
/// Policy id of these alerts.
const POLICY: &str = "agentgov:bundle-refused";

/// Refused bundles, in the order of their offsets.
#[derive(Debug)]
pub struct BundleAlerts {
    topic: String,
    alerts: Vec<BundleAlert>,
}

#[derive(Debug)]
struct BundleAlert {
    offset: i64,
    logged_at: Millis,
    environment: String,
    name: String,
    pushed_by: String,
    digest: Option<Digest>,
    message: String,
}

impl BundleAlerts {
    pub fn new(topic: &str) -> Self {
        Self { topic: topic.to_owned(), alerts: Vec::new() }
    }

    /// Adds a bundle that does not load.
    pub fn add(&mut self, refused: &RefusedBundle) {
        let problem = refused.first_problem();
        let more = refused.problems.len().saturating_sub(1);
        self.insert(BundleAlert {
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

    /// Adds a record that cannot be decoded as a bundle.
    pub fn add_unreadable(&mut self, record: &TableRecord<'_>, reason: &str) {
        self.insert(BundleAlert {
            offset: record.offset,
            logged_at: record.logged_at,
            environment: String::new(),
            name: String::new(),
            pushed_by: String::new(),
            digest: None,
            message: format!(
                "topic {} offset {}: expected a bundle, found a record that cannot be read: {reason}",
                record.topic, record.offset
            ),
        });
    }

    /// Keeps the order of offsets. At a start, unreadable records are added before bundles that do not load, because
    /// bundles are compiled only after the whole topic is read.
    fn insert(&mut self, alert: BundleAlert) {
        let index = self.alerts.partition_point(|earlier| earlier.offset < alert.offset);
        self.alerts.insert(index, alert);
    }

    /// Returns true if a bundle at `from` or later was refused.
    pub fn any_from(&self, from: i64) -> bool {
        self.alerts.last().is_some_and(|last| last.offset >= from)
    }

    /// Emits an alert for each refused bundle at `from` or later.
    pub fn emit_from(&self, from: i64, out: &mut Outputs) -> Result<(), OutputError> {
        for refused in self.alerts.iter().filter(|refused| refused.offset >= from) {
            let session_id = format!("bundle/{}", refused.name);
            let origin = Origin {
                topic: &self.topic,
                partition: 0,
                offset: refused.offset,
                logged_at: refused.logged_at,
            };
            let id = Digest::of_parts([
                TENANT.as_bytes(),
                session_id.as_bytes(),
                POLICY.as_bytes(),
                self.topic.as_bytes(),
                &0i32.to_be_bytes(),
                &refused.offset.to_be_bytes(),
            ]);
            let alert = Alert {
                alert_id: &id.to_string(),
                revision: 0,
                tenant_id: TENANT,
                environment: &refused.environment,
                session_id: &session_id,
                session_label: None,
                agent_id: &refused.pushed_by,
                event_id: "",
                policy: POLICY,
                severity: Severity::Critical.into(),
                mode: Mode::Enforce.into(),
                decision: AlertDecision::Refused.into(),
                tool: None,
                call_index: None,
                message: &refused.message,
                occurred_at: Micros(refused.logged_at.0.saturating_mul(1000)),
                opened_at: refused.logged_at,
                origin,
                first_origin: origin,
                bundle_digest: refused.digest,
                prevented: false,
            };
            let key = SessionKey { tenant_id: TENANT, session_id: &session_id }.to_bytes();
            out.emit(&key, &alert)?;
        }
        Ok(())
    }
}
