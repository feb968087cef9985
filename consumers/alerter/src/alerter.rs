//! The alerter as a [`Processor`]: its step and its changelog entries.

use std::sync::Arc;
use std::time::Duration;

use agentgov_processor::{OutputError, Outputs, Processor, Reject, RestoreError, RestoreValue};
use agentgov_schemas::alert::Alert;
use agentgov_schemas::state::{AlertProgress, AlertState, AlertWindow};
use agentgov_schemas::verdict::{Origin, Verdict};
use agentgov_schemas::{Digest, OpenEnum, SessionKey};

use crate::findings::{Finding, findings};
use crate::windows::{AlertKey, Window, Windows};

/// The stage that groups the violations of verdicts into alerts.
#[derive(Debug)]
pub struct Alerter {
    window: Duration,
}

impl Alerter {
    /// Creates an alerter. Violations within `window` after the opening of an alert, by `logged_at`, are revisions of it.
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
            windows.remove(&parse_key(key)?);
            return Ok(None);
        };
        let entry: AlertState<'_> = value.decode()?;
        if let Some(AlertWindow { policy, alert_id, revision, opened_at, first_origin: first }) = entry.window
        {
            let alert_key = AlertKey {
                tenant_id: entry.tenant_id.to_owned(),
                session_id: entry.session_id.to_owned(),
                policy: policy.to_owned(),
            };
            let first = first.into();
            windows.insert(
                Arc::new(alert_key),
                Window { alert_id: alert_id.to_owned(), revision, opened_at, first },
            );
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
        let result = emit_alerts(windows, &closed, verdict, &mut raised, out);
        result.map_err(|error| {
            for (alert_key, before) in raised.into_iter().rev() {
                match before {
                    Some(before) => drop(windows.insert(alert_key, before)),
                    None => drop(windows.remove(&alert_key)),
                }
            }
            for (alert_key, window) in closed {
                windows.insert(alert_key, window);
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

/// An alert that a step opened or revised, with its previous revision.
type Raised = (Arc<AlertKey>, Option<Window>);

/// Writes tombstones for the alerts in `closed`, and emits the alerts that `verdict` opens or revises. Adds the latter to
/// `raised`, even if it returns an error, so that the caller can undo them.
fn emit_alerts(
    windows: &mut Windows,
    closed: &[(Arc<AlertKey>, Window)],
    verdict: &Verdict<'_>,
    raised: &mut Vec<Raised>,
    out: &mut Outputs,
) -> Result<(), OutputError> {
    for (alert_key, _) in closed {
        out.state::<AlertState<'_>>(&changelog_key(alert_key), None)?;
    }
    for finding in findings(verdict) {
        raised.push(emit_alert(windows, verdict, &finding, out)?);
    }
    Ok(())
}

/// Opens an alert or emits its next revision. On an error the open alerts are unchanged.
fn emit_alert(
    windows: &mut Windows,
    verdict: &Verdict<'_>,
    finding: &Finding<'_>,
    out: &mut Outputs,
) -> Result<Raised, OutputError> {
    let alert_key = AlertKey {
        tenant_id: verdict.tenant_id.to_owned(),
        session_id: verdict.session_id.to_owned(),
        policy: finding.policy.to_owned(),
    };
    let action = verdict.origin;
    let window = match windows.get(&alert_key) {
        Some(open) => Window { revision: open.revision.saturating_add(1), ..open.clone() },
        None => Window {
            alert_id: alert_id(&alert_key, &action),
            revision: 0,
            opened_at: action.logged_at,
            first: action.into(),
        },
    };
    let first_origin = window.first.origin();
    let prevented = verdict.prior_decision.is_some_and(|prior| prior.is_prevented());
    let message = format!(
        "{} {}: {} {}",
        verdict.agent_id,
        describe_action(verdict, prevented),
        finding.description,
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
        prevented,
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
    out.state(&changelog_key(&alert_key), Some(&entry))?;
    let alert_key = Arc::new(alert_key);
    let before = windows.insert(Arc::clone(&alert_key), window);
    Ok((alert_key, before))
}

/// Returns the verb and the object of an alert's message.
fn describe_action(verdict: &Verdict<'_>, prevented: bool) -> String {
    match verdict.tool {
        Some(tool) if prevented => format!("was prevented from calling {tool}"),
        Some(tool) => format!("called {tool}"),
        None => verdict.r#type.to_owned(),
    }
}

/// Key of the progress entry. It differs from every key of an alert: those have three parts.
const PROGRESS_KEY: &[u8] = br#"["progress"]"#;

/// Returns the id of an alert. It follows from the key and the first action, so that a replay gives the same id.
fn alert_id(alert_key: &AlertKey, first: &Origin<'_>) -> String {
    Digest::of_parts([
        alert_key.tenant_id.as_bytes(),
        alert_key.session_id.as_bytes(),
        alert_key.policy.as_bytes(),
        first.topic.as_bytes(),
        &first.partition.to_be_bytes(),
        &first.offset.to_be_bytes(),
    ])
    .to_string()
}

/// Returns the key of an alert in the changelog: a JSON array of tenant, session and policy.
fn changelog_key(alert_key: &AlertKey) -> Vec<u8> {
    serde_json::json!([alert_key.tenant_id, alert_key.session_id, alert_key.policy]).to_string().into_bytes()
}

fn parse_key(key: &[u8]) -> Result<AlertKey, RestoreError> {
    let (tenant_id, session_id, policy) = serde_json::from_slice(key).map_err(|e| {
        RestoreError(format!(
            "expected a changelog key [tenant, session, policy], found {:?}: {e}",
            String::from_utf8_lossy(key)
        ))
    })?;
    Ok(AlertKey { tenant_id, session_id, policy })
}

#[cfg(test)]
mod tests {
    use agentgov_schemas::topology::{MissingRole, Topology};
    use agentgov_schemas::verdict::{
        ApprovalFinding, ApprovalUse, Decision, DecisionCause, DecisionFinding, DuplicateOf, Mode,
        PriorDecision, Reason, RuleEffect, Severity, Violation,
    };
    use agentgov_schemas::wire::{self, SchemaId};
    use agentgov_schemas::{Micros, Millis, Vocabulary as _, subject};

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
            prior_decision: None,
            approval: None,
        }
    }

    fn outputs() -> Outputs {
        let topology = Topology::embedded().unwrap();
        let stage = topology.stage("alerter").unwrap();
        Outputs::new(&topology, stage, |_, _| Ok::<_, MissingRole>(SchemaId(7))).unwrap()
    }

    /// Steps over `(logged_at, verdict)`. Returns policy, revision and id of each emitted alert.
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
        let emitted: Vec<_> =
            found.iter().map(|(policy, revision, _)| (policy.as_str(), *revision)).collect();
        assert_eq!(
            emitted,
            [("a", 0), ("a", 1), ("b", 0), ("a", 2), ("a", 0)],
            "a violation later than an hour after the opening is a new alert"
        );
        assert_eq!(found[0].2, found[1].2);
        assert_ne!(found[0].2, found[4].2);
        assert_ne!(found[0].2, found[2].2);
    }

    /// Verdicts of a version before 0.1 may have names of any length, and an alert repeats them.
    #[test]
    fn verdict_whose_alert_is_too_large_is_rejected_and_changes_nothing() {
        let name = "x".repeat(900_000);
        let mut alerter = Alerter::new(Duration::from_millis(HOUR as u64));
        let (mut windows, mut expected, mut out) = (alerter.partition(3), alerter.partition(3), outputs());
        let policy = "p".repeat(500_000);
        // The first is rejected for its alert. The second closes open alerts, emits small ones and is rejected for the
        // large one.
        let too_large = [
            Verdict { tool: Some(&name), ..verdict(1, &["a", "b"]) },
            Verdict { environment: &name, ..verdict(2 * HOUR, &["a", "b", "a", &policy, &policy]) },
        ];
        let mut step = |windows: &mut Windows, verdict: &Verdict<'_>| {
            out.clear();
            let origin = verdict.origin;
            alerter.step(windows, &origin, verdict, &mut out)?;
            let emitted: Vec<_> =
                out.iter().map(|sent| (sent.key.to_vec(), sent.value.map(<[u8]>::to_vec))).collect();
            Ok::<_, Reject>(emitted)
        };
        for offset in [0, HOUR, 2 * HOUR] {
            let good = verdict(offset, &["a", "b"]);
            assert_eq!(step(&mut windows, &good).unwrap(), step(&mut expected, &good).unwrap());
            for large in &too_large {
                let reject = step(&mut windows, large).unwrap_err();
                assert_eq!((reject.reason.as_str(), reject.undo), ("output_refused", false));
            }
        }
    }

    /// A later build may write decisions that this one does not know.
    #[test]
    fn unknown_decision_is_kept_in_alerts_and_adds_no_finding() {
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
    fn decision_without_a_policy_is_alerted_and_a_duplicate_is_not() {
        let mut no_grant = verdict(1, &[]);
        (no_grant.decision, no_grant.reason) = (Decision::Deny.into(), Reason::NoGrant.into());
        let mut failed = verdict(2, &[]);
        (failed.decision, failed.reason) = (Decision::Indeterminate.into(), Reason::Error.into());
        let mut again = verdict(3, &["a"]);
        again.duplicate_of = Some(DuplicateOf { source_id: "x", sequence: 1, last_sequence: 5 });
        let found = alerts(&[(0, no_grant), (1, failed), (2, again), (3, verdict(4, &[]))]);
        let emitted: Vec<_> = found.iter().map(|(policy, ..)| policy.as_str()).collect();
        assert_eq!(emitted, ["agentgov:no-grant", "agentgov:indeterminate"]);
    }

    #[test]
    fn call_that_the_registry_blocks_is_alerted() {
        for (reason, policy) in [
            (Reason::Suspended, "agentgov:suspended"),
            (Reason::ToolSuspended, "agentgov:tool-suspended"),
            (Reason::ServerSuspended, "agentgov:server-suspended"),
            (Reason::Unpinned, "agentgov:unpinned"),
            (Reason::DefinitionChanged, "agentgov:definition-changed"),
        ] {
            let denied =
                Verdict { decision: Decision::Deny.into(), reason: reason.into(), ..verdict(1, &[]) };
            let found = alerts(&[(0, denied)]);
            let emitted: Vec<_> = found.iter().map(|(policy, ..)| policy.as_str()).collect();
            assert_eq!(emitted, [policy]);
        }
    }

    #[test]
    fn approved_call_is_not_alerted_and_an_approval_that_nobody_may_give_is() {
        let approved = || Verdict { reason: Reason::Approved.into(), ..verdict(1, &["asks"]) };
        let emitted =
            |verdict| alerts(&[(0, verdict)]).into_iter().map(|(policy, ..)| policy).collect::<Vec<String>>();
        assert_eq!(emitted(approved()), Vec::<String>::new());
        let mut observed = approved();
        observed.violations[0].mode = Mode::Observe.into();
        assert_eq!(emitted(observed), ["asks"]);
        for finding in ApprovalFinding::ALL {
            let approval = ApprovalUse { id: "a", finding: (*finding).into(), cause: None, approver: None };
            let asked = Verdict { approval: Some(approval), ..verdict(1, &[]) };
            let expected: &[&str] = match finding {
                ApprovalFinding::Forged
                | ApprovalFinding::Altered
                | ApprovalFinding::Own
                | ApprovalFinding::Unknown => &["agentgov:approval"],
                _ => &[],
            };
            assert_eq!(emitted(asked), expected, "{finding:?}");
        }
    }

    fn decided(
        offset: i64,
        policies: &[&'static str],
        finding: DecisionFinding,
        outcome: Option<Decision>,
    ) -> Verdict<'static> {
        let prior = PriorDecision {
            finding: finding.into(),
            cause: None,
            id: None,
            outcome: outcome.map(Into::into),
            required: false,
            unavailable: None,
        };
        Verdict { prior_decision: Some(prior), ..verdict(offset, policies) }
    }

    #[test]
    fn finding_about_a_decision_is_alerted_if_a_person_must_see_it() {
        use DecisionFinding::{Altered, Differs, Forged, Matched, Reused, Undecided};
        let required = |finding| {
            let mut verdict = decided(1, &[], finding, None);
            verdict.prior_decision.as_mut().unwrap().required = true;
            verdict
        };
        let unseen = |finding, outcome| {
            let mut verdict = decided(1, &[], finding, Some(outcome));
            verdict.prior_decision.as_mut().unwrap().unavailable = Some("stale");
            verdict
        };
        let expired = |mut verdict: Verdict<'static>| {
            verdict.prior_decision.as_mut().unwrap().cause = Some(DecisionCause::Expired.into());
            verdict
        };
        let both = alerts(&[(0, expired(unseen(Forged, Decision::Allow)))]);
        let both: Vec<_> = both.iter().map(|(policy, ..)| policy.as_str()).collect();
        assert_eq!(both, ["agentgov:forged", "agentgov:unavailable"]);
        let severity = |verdict: &Verdict<'_>| findings(verdict)[0].severity.as_str().to_owned();
        let forged = decided(1, &[], Forged, None);
        assert_eq!((severity(&forged).as_str(), severity(&expired(forged)).as_str()), ("high", "medium"));
        for (verdict, expected) in [
            (expired(decided(1, &[], Forged, Some(Decision::Allow))), Some("agentgov:forged")),
            (expired(unseen(Forged, Decision::Deny)), Some("agentgov:forged")),
            (unseen(Forged, Decision::Allow), Some("agentgov:forged")),
            (unseen(Matched, Decision::Allow), Some("agentgov:unavailable")),
            (unseen(Matched, Decision::Deny), None),
            (unseen(Reused, Decision::Allow), Some("agentgov:reused")),
            (required(Undecided), Some("agentgov:undecided")),
            (decided(1, &[], Undecided, None), None),
            (required(Matched), None),
            (decided(1, &[], Forged, None), Some("agentgov:forged")),
            (decided(1, &[], Altered, Some(Decision::Allow)), Some("agentgov:altered")),
            (decided(1, &[], Reused, Some(Decision::Allow)), Some("agentgov:reused")),
            (decided(1, &[], Differs, Some(Decision::Deny)), Some("agentgov:differs")),
        ] {
            let found = alerts(&[(0, verdict.clone())]);
            let found: Vec<_> = found.iter().map(|(policy, ..)| policy.as_str()).collect();
            assert_eq!(found, Vec::from_iter(expected), "{:?}", verdict.prior_decision);
        }
    }

    #[test]
    fn alert_says_prevented_if_a_valid_token_says_that_the_call_was_not_made() {
        use DecisionFinding::{Altered, Differs, Forged, Matched, Reused, Undecided};
        for (finding, outcome, prevented) in [
            (Matched, Some(Decision::Deny), true),
            (Matched, Some(Decision::Ask), true),
            (Differs, Some(Decision::Indeterminate), true),
            (Differs, Some(Decision::Allow), false),
            (Reused, Some(Decision::Deny), false),
            (Altered, Some(Decision::Deny), false),
            (Forged, None, false),
            (Undecided, None, false),
        ] {
            let verdict = decided(1, &["a"], finding, outcome);
            let mut alerter = Alerter::new(Duration::from_secs(1));
            let (mut windows, mut out) = (alerter.partition(3), outputs());
            alerter.step(&mut windows, &verdict.origin, &verdict, &mut out).unwrap();
            let schema = subject::ALERT.schema().unwrap();
            let record = out.iter().next().unwrap();
            let (id, datum) = wire::split(record.value.unwrap()).unwrap();
            let alert: Alert<'_> = schema.decode(id, datum).unwrap();
            let action = if prevented { "was prevented from calling refund" } else { "called refund" };
            let message = format!("helper {action}: violates the policy a");
            assert_eq!(
                (alert.prevented, alert.message),
                (prevented, message.as_str()),
                "{finding} {outcome:?}"
            );
        }
    }
}
