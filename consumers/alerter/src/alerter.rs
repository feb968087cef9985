//! The step, and its changelog.

use std::sync::Arc;
use std::time::Duration;

use agentgov_processor::{OutputError, Outputs, Processor, Reject, RestoreError, RestoreValue};
use agentgov_schemas::alert::Alert;
use agentgov_schemas::state::{AlertProgress, AlertState, AlertWindow};
use agentgov_schemas::verdict::{Origin, Verdict};
use agentgov_schemas::{Digest, OpenEnum, SessionKey};

use crate::findings::{Finding, findings};
use crate::windows::{Subject, Window, Windows};

/// The stage that turns violations into alerts.
#[derive(Debug)]
pub struct Alerter {
    window: Duration,
}

impl Alerter {
    /// Further violations belong to an open alert for `window`, by `logged_at`.
    pub const fn new(window: Duration) -> Self {
        Self { window }
    }
}

impl Processor for Alerter {
    type Input<'a> = Verdict<'a>;
    type Partition = Windows;

    fn partition(&self, _partition: i32) -> Windows {
        Windows::default()
    }

    fn restore(
        &self,
        windows: &mut Windows,
        key: &[u8],
        value: Option<RestoreValue<'_>>,
    ) -> Result<Option<i64>, RestoreError> {
        let Some(value) = value else {
            windows.remove(&subject_of(key)?);
            return Ok(None);
        };
        let entry: AlertState<'_> = value.decode()?;
        if let Some(AlertWindow { policy, alert_id, revision, opened_at, first_origin: first }) = entry.window
        {
            let subject = Subject {
                tenant_id: entry.tenant_id.to_owned(),
                session_id: entry.session_id.to_owned(),
                policy: policy.to_owned(),
            };
            let first = first.into();
            windows
                .put(Arc::new(subject), Window { alert_id: alert_id.to_owned(), revision, opened_at, first });
        }
        Ok(entry.progress.map(|progress| progress.next_offset))
    }

    fn step(
        &mut self,
        windows: &mut Windows,
        _origin: &Origin<'_>,
        verdict: &Verdict<'_>,
        out: &mut Outputs,
    ) -> Result<(), Reject> {
        let closed = windows.close_before(verdict.origin.logged_at, self.window);
        let mut raised = Vec::new();
        let stepped = emit(windows, &closed, verdict, &mut raised, out);
        stepped.map_err(|error| {
            for (subject, before) in raised.into_iter().rev() {
                match before {
                    Some(before) => drop(windows.put(subject, before)),
                    None => drop(windows.remove(&subject)),
                }
            }
            for (subject, window) in closed {
                windows.put(subject, window);
            }
            Reject::from_output_error(&error)
        })
    }

    fn for_each_tenant(&self, windows: &Windows, each: &mut dyn FnMut(&str)) {
        windows.tenants().for_each(each);
    }

    fn finish(
        &mut self,
        _windows: &mut Windows,
        next_offset: i64,
        out: &mut Outputs,
    ) -> Result<(), OutputError> {
        let progress = Some(AlertProgress { next_offset });
        out.state(PROGRESS_KEY, Some(&AlertState { tenant_id: "", session_id: "", window: None, progress }))
    }
}

/// An alert that was opened or revised, and how it was before.
type Raised = (Arc<Subject>, Option<Window>);

/// Writes the alerts that are `closed`, and those that `verdict` opens or revises; these are noted in `raised`, also on an error.
fn emit(
    windows: &mut Windows,
    closed: &[(Arc<Subject>, Window)],
    verdict: &Verdict<'_>,
    raised: &mut Vec<Raised>,
    out: &mut Outputs,
) -> Result<(), OutputError> {
    for (subject, _) in closed {
        out.state::<AlertState<'_>>(&key_of(subject), None)?;
    }
    for finding in findings(verdict) {
        raised.push(raise(windows, verdict, &finding, out)?);
    }
    Ok(())
}

/// Opens an alert or emits its next revision. On an error nothing is changed.
fn raise(
    windows: &mut Windows,
    verdict: &Verdict<'_>,
    finding: &Finding<'_>,
    out: &mut Outputs,
) -> Result<Raised, OutputError> {
    let subject = Subject {
        tenant_id: verdict.tenant_id.to_owned(),
        session_id: verdict.session_id.to_owned(),
        policy: finding.policy.to_owned(),
    };
    let action = verdict.origin;
    let window = match windows.get(&subject) {
        Some(open) => Window { revision: open.revision.saturating_add(1), ..open.clone() },
        None => Window {
            alert_id: alert_id(&subject, &action),
            revision: 0,
            opened_at: action.logged_at,
            first: action.into(),
        },
    };
    let first_origin = window.first.origin();
    let message = format!(
        "{} {}: {} {}",
        verdict.agent_id,
        verdict.tool.map_or_else(|| verdict.r#type.to_owned(), |tool| format!("called {tool}")),
        finding.what,
        finding.policy
    );
    let alert = Alert {
        alert_id: &window.alert_id,
        revision: window.revision,
        tenant_id: verdict.tenant_id,
        environment: verdict.environment,
        session_id: verdict.session_id,
        session_label: verdict.session_label,
        agent_id: verdict.agent_id,
        event_id: verdict.event_id,
        policy: finding.policy,
        severity: finding.severity,
        mode: finding.mode,
        decision: OpenEnum::from_name(verdict.decision.as_str()),
        tool: verdict.tool,
        call_index: verdict.call_index,
        message: &message,
        occurred_at: verdict.occurred_at,
        opened_at: window.opened_at,
        origin: action,
        first_origin,
        bundle_digest: verdict.bundle.map(|bundle| bundle.digest),
    };
    let key = SessionKey { tenant_id: verdict.tenant_id, session_id: verdict.session_id }.to_bytes();
    out.emit(&key, &alert)?;
    let entry = AlertState {
        tenant_id: verdict.tenant_id,
        session_id: verdict.session_id,
        window: Some(AlertWindow {
            policy: finding.policy,
            alert_id: &window.alert_id,
            revision: window.revision,
            opened_at: window.opened_at,
            first_origin,
        }),
        progress: None,
    };
    out.state(&key_of(&subject), Some(&entry))?;
    let subject = Arc::new(subject);
    let before = windows.put(Arc::clone(&subject), window);
    Ok((subject, before))
}

/// Key of the entry that says how far the partition is applied. No subject has it: subjects have three parts.
const PROGRESS_KEY: &[u8] = br#"["progress"]"#;

/// The alert's identity: the same verdicts give the same, also in a replay.
fn alert_id(subject: &Subject, first: &Origin<'_>) -> String {
    Digest::of_parts([
        subject.tenant_id.as_bytes(),
        subject.session_id.as_bytes(),
        subject.policy.as_bytes(),
        first.topic.as_bytes(),
        &first.partition.to_be_bytes(),
        &first.offset.to_be_bytes(),
    ])
    .to_string()
}

/// The changelog's key: a JSON array of tenant, session and policy.
fn key_of(subject: &Subject) -> Vec<u8> {
    serde_json::json!([subject.tenant_id, subject.session_id, subject.policy]).to_string().into_bytes()
}

fn subject_of(key: &[u8]) -> Result<Subject, RestoreError> {
    let (tenant_id, session_id, policy) = serde_json::from_slice(key).map_err(|e| {
        RestoreError(format!(
            "expected a key [tenant, session, policy], found {:?} ({e})",
            String::from_utf8_lossy(key)
        ))
    })?;
    Ok(Subject { tenant_id, session_id, policy })
}

#[cfg(test)]
mod tests {
    use agentgov_schemas::topology::{MissingRole, Topology};
    use agentgov_schemas::verdict::{Decision, DuplicateOf, Mode, Reason, RuleEffect, Severity, Violation};
    use agentgov_schemas::wire::{self, SchemaId};
    use agentgov_schemas::{Micros, Millis, subject};

    use super::*;

    const HOUR: i64 = 3_600_000;

    fn verdict<'a>(offset: i64, policies: &[&'a str]) -> Verdict<'a> {
        Verdict {
            tenant_id: "acme",
            environment: "test",
            session_id: "s-1",
            session_label: Some("1/0"),
            agent_id: "helper",
            event_id: "e",
            r#type: "tool.invoked",
            occurred_at: Micros(0),
            origin: Origin { topic: "actions", partition: 3, offset, logged_at: Millis(offset) },
            tool: Some("refund"),
            call_id: None,
            call_index: Some(0),
            decision: if policies.is_empty() { Decision::Allow } else { Decision::Deny }.into(),
            reason: if policies.is_empty() { Reason::Granted } else { Reason::Policy }.into(),
            determining_policies: policies.to_vec(),
            violations: policies
                .iter()
                .map(|policy| Violation {
                    policy,
                    severity: Severity::High.into(),
                    mode: Mode::Enforce.into(),
                    effect: RuleEffect::Deny.into(),
                })
                .collect(),
            bundle: None,
            tables: vec![],
            known_digest: Digest::of(b""),
            known: "{}",
            errors: vec![],
            duplicate_of: None,
            state_limit: false,
            findings: vec![],
        }
    }

    fn outputs() -> Outputs {
        let topology = Topology::embedded().unwrap();
        let stage = topology.stage("alerter").unwrap();
        Outputs::new(&topology, stage, |_, _| Ok::<_, MissingRole>(SchemaId(7))).unwrap()
    }

    /// What steps over `(logged_at, verdict)` put onto the alerts topic: policy, revision, alert id.
    fn alerts(steps: &[(i64, Verdict<'_>)]) -> Vec<(String, i32, String)> {
        let mut alerter = Alerter::new(Duration::from_millis(HOUR as u64));
        let (mut windows, mut out) = (alerter.partition(3), outputs());
        for (logged_at, verdict) in steps {
            let mut verdict = verdict.clone();
            verdict.origin.logged_at = Millis(*logged_at);
            let late = Origin { topic: "verdicts", partition: 3, offset: 0, logged_at: Millis(9 * HOUR) };
            alerter.step(&mut windows, &late, &verdict, &mut out).unwrap();
        }
        let schema = subject::ALERT.schema().unwrap();
        out.iter()
            .filter_map(|record| {
                let (id, datum) = wire::split(record.value?).unwrap();
                let alert: Alert<'_> = schema.decode(id, datum).ok()?;
                assert_eq!(record.key, b"acme/s-1");
                Some((alert.policy.to_owned(), alert.revision, alert.alert_id.to_owned()))
            })
            .collect()
    }

    #[test]
    fn further_violations_within_the_window_are_revisions_of_one_alert() {
        let found = alerts(&[
            (0, verdict(10, &["a"])),
            (5, verdict(11, &["a", "b"])),
            (HOUR, verdict(12, &["a"])),
            (HOUR + 1, verdict(13, &["a"])),
        ]);
        let told: Vec<_> = found.iter().map(|(policy, revision, _)| (policy.as_str(), *revision)).collect();
        assert_eq!(
            told,
            [("a", 0), ("a", 1), ("b", 0), ("a", 2), ("a", 0)],
            "an hour after it opened, a new alert"
        );
        assert_eq!(found[0].2, found[1].2);
        assert_ne!(found[0].2, found[4].2);
        assert_ne!(found[0].2, found[2].2);
    }

    /// A version before 0.1 let names of any length into verdicts: an alert repeats them.
    #[test]
    fn a_verdict_whose_alert_is_too_large_is_rejected_and_leaves_nothing_behind() {
        let name = "x".repeat(900_000);
        let mut alerter = Alerter::new(Duration::from_millis(HOUR as u64));
        let (mut windows, mut spared, mut out) = (alerter.partition(3), alerter.partition(3), outputs());
        let policy = "p".repeat(500_000);
        // The second opens nothing; the third closes what the first opened, opens a small alert, and is refused for a large one.
        let too_large = [
            Verdict { tool: Some(&name), ..verdict(1, &["a", "b"]) },
            Verdict { environment: &name, ..verdict(2 * HOUR, &["a", "b", "a", &policy, &policy]) },
        ];
        let mut step = |windows: &mut Windows, verdict: &Verdict<'_>| {
            out.clear();
            let origin = verdict.origin;
            alerter.step(windows, &origin, verdict, &mut out)?;
            let told: Vec<_> =
                out.iter().map(|sent| (sent.key.to_vec(), sent.value.map(<[u8]>::to_vec))).collect();
            Ok::<_, Reject>(told)
        };
        for offset in [0, HOUR, 2 * HOUR] {
            let good = verdict(offset, &["a", "b"]);
            assert_eq!(step(&mut windows, &good).unwrap(), step(&mut spared, &good).unwrap());
            for large in &too_large {
                let reject = step(&mut windows, large).unwrap_err();
                assert_eq!((reject.reason.as_str(), reject.undo), ("output_refused", false));
            }
        }
    }

    /// Of a later build: the alert has the name as it came, and an unknown decision raises none of its own.
    #[test]
    fn unknown_decision_is_passed_on_and_raises_nothing() {
        let mut later = verdict(1, &["a"]);
        later.decision = OpenEnum::from_name("quarantine");
        later.violations[0].severity = OpenEnum::from_name("apocalyptic");
        let mut none = later.clone();
        none.violations.clear();
        let mut alerter = Alerter::new(Duration::from_secs(1));
        let (mut windows, mut out) = (alerter.partition(3), outputs());
        for verdict in [&none, &later] {
            alerter.step(&mut windows, &verdict.origin, verdict, &mut out).unwrap();
        }
        let schema = subject::ALERT.schema().unwrap();
        let alerts = out.iter().filter_map(|record| {
            let (id, datum) = wire::split(record.value?).unwrap();
            let alert: Alert<'_> = schema.decode(id, datum).ok()?;
            Some((alert.policy, alert.decision.as_str(), alert.severity.as_str()))
        });
        assert_eq!(alerts.collect::<Vec<_>>(), [("a", "quarantine", "apocalyptic")]);
    }

    #[test]
    fn what_no_policy_says_is_told_as_well_and_duplicates_are_not() {
        let mut no_grant = verdict(1, &[]);
        (no_grant.decision, no_grant.reason) = (Decision::Deny.into(), Reason::NoGrant.into());
        let mut failed = verdict(2, &[]);
        (failed.decision, failed.reason) = (Decision::Indeterminate.into(), Reason::Error.into());
        let mut again = verdict(3, &["a"]);
        again.duplicate_of = Some(DuplicateOf { source_id: "x", sequence: 1, last_sequence: 5 });
        let found = alerts(&[(0, no_grant), (1, failed), (2, again), (3, verdict(4, &[]))]);
        let told: Vec<_> = found.iter().map(|(policy, ..)| policy.as_str()).collect();
        assert_eq!(told, ["agentgov:no-grant", "agentgov:indeterminate"]);
    }
}
