//! Report of the demo with the gateway: what the agent tried, and what was prevented.

use agentgov_log_reader::decided::DecidedCall;
use agentgov_log_reader::imported::Violation;
use agentgov_log_reader::session::Verdict;
use agentgov_schemas::escape::Escaped;
use agentgov_schemas::verdict::{Decision, Mode, Reason};
use serde_json::{Value, json};

use super::scenario::Step;
use crate::commands::report::{
    Rule, append, push_audit, push_heading, push_title, severity_style, with_thousands,
};
use crate::print::{Text, left, right, style, text};

/// Results of the demo.
pub struct DeskReport {
    /// Name of the MCP server.
    pub server: String,
    /// The session.
    pub session_id: String,
    /// Name of the person who approved.
    pub approver: &'static str,
    /// What the agent tried.
    pub steps: Vec<Step>,
    /// Verdicts of the session, in the order of the log.
    pub verdicts: Vec<Verdict>,
    /// Calls with their decisions.
    pub calls: Vec<DecidedCall>,
    /// Violations, read from ClickHouse.
    pub violations: Vec<Violation>,
    /// Rules of the bundle.
    pub rules: Vec<Rule>,
    /// Result of the audit; `None` if it did not run.
    pub audit: Option<agentgov_audit::Report>,
    /// Milliseconds of the whole demo.
    pub total_ms: u128,
}

impl DeskReport {
    /// Returns what is not as it must be.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for step in self.steps.iter().filter(|step| !step.is_expected) {
            let Step { call, outcome, by, answer, .. } = step;
            faults.push(format!(
                "{call}: found outcome {outcome} {by}, or the files are not as expected; answer: {answer}"
            ));
        }
        let tried: Vec<&str> = self.tried().map(|step| step.outcome.as_str()).collect();
        let judged: Vec<&str> = self.verdicts.iter().map(|verdict| verdict.decision.as_str()).collect();
        if tried != judged {
            faults.push(format!("expected the verdicts {}, found {}", tried.join(" "), judged.join(" ")));
        }
        for call in &self.calls {
            let differs = call.differences();
            if !differs.is_empty() {
                let differs = differs.join(", ");
                faults.push(format!(
                    "call {} {}: decision and verdict differ: {differs}",
                    call.call, call.tool
                ));
            }
        }
        let approved = self.count(|verdict| verdict.reason == Reason::Approved.as_str());
        if approved != 1 {
            faults.push(format!("expected one call that is allowed by an approval, found {approved}"));
        }
        for violation in
            self.violations.iter().filter(|violation| self.needs_alert(violation) && !violation.alerted)
        {
            faults.push(format!(
                "call {}: expected an alert about {}, found none",
                violation.call, violation.policy
            ));
        }
        if let Some(audit) = self.audit.as_ref().filter(|audit| !audit.findings.is_empty()) {
            faults.push(format!("expected a complete log, found {} findings", audit.findings.len()));
        }
        faults
    }

    /// Returns false for a rule that an approval has satisfied: it raises no alert.
    fn needs_alert(&self, violation: &Violation) -> bool {
        let is_approved = |verdict: &Verdict| {
            verdict.call_index == violation.call && verdict.reason == Reason::Approved.as_str()
        };
        violation.mode != Mode::Enforce.as_str() || !self.verdicts.iter().any(is_approved)
    }

    /// Returns the calls of tools.
    fn tried(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(|step| !step.tool.is_empty())
    }

    fn count(&self, of: impl Fn(&&Verdict) -> bool) -> usize {
        self.verdicts.iter().filter(of).count()
    }

    fn with_outcome(&self, decision: Decision) -> usize {
        self.count(|verdict| verdict.decision == decision.as_str())
    }

    /// Formats the report as JSON.
    pub fn to_json(&self) -> Value {
        let by_policy: Vec<Value> = self
            .rules
            .iter()
            .map(|rule| {
                let held = self.held_by(rule);
                json!({ "policy": rule.policy, "title": rule.title, "severity": rule.severity, "held": held })
            })
            .collect();
        let calls: Vec<Value> =
            self.calls.iter().map(|call| json!({ "call": call, "differs": call.differences() })).collect();
        json!({
            "server": self.server,
            "session": self.session_id,
            "steps": self.steps,
            "prevented": self.with_outcome(Decision::Deny) + self.with_outcome(Decision::Ask),
            "denied": self.with_outcome(Decision::Deny),
            "asked": self.with_outcome(Decision::Ask),
            "without_grant": self.without_grant(),
            "approved": self.count(|verdict| verdict.reason == Reason::Approved.as_str()),
            "approver": self.approver,
            "by_policy": by_policy,
            "violations": self.violations,
            "calls": calls,
            "audit": self.audit,
            "faults": self.faults(),
            "total_ms": self.total_ms,
        })
    }

    /// Formats the report as text. `kept`: the stack stays up after the report.
    pub fn to_text(&self, kept: bool) -> Text {
        let mut out = Text::default();
        push_title(&mut out, "examples/desk, behind the gateway");
        self.push_steps(&mut out);
        self.push_prevented(&mut out);
        self.push_decisions(&mut out);
        if let Some(audit) = &self.audit {
            push_audit(&mut out, audit);
        }
        self.push_faults(&mut out);
        self.push_next_steps(&mut out, kept);
        out
    }

    fn push_steps(&self, out: &mut Text) {
        push_heading(out, "What the agent tried");
        append!(out, "  {}", style(format!("server: {}", self.server)).dim());
        for step in &self.steps {
            let outcome = match step.outcome.as_str() {
                "allow" => style(step.outcome.as_str()).green(),
                "ask" => style(step.outcome.as_str()).yellow(),
                other => style(other).red(),
            };
            let mark = if step.is_expected { style("✓").green() } else { style("✗").red().bold() };
            append!(
                out,
                "  {} {} {} {}",
                mark,
                left(text!("{}", outcome), 6),
                left(step.call, 40),
                step.effect
            );
        }
    }

    fn push_prevented(&self, out: &mut Text) {
        push_heading(out, "What was prevented");
        append!(
            out,
            "  {} calls denied, {} held for a person: the gateway sent none of them to the server",
            style(self.with_outcome(Decision::Deny)).bold(),
            style(self.with_outcome(Decision::Ask)).bold()
        );
        let width = self.rules.iter().map(|rule| rule.policy.len()).max().unwrap_or(0);
        for rule in &self.rules {
            append!(
                out,
                "  {}  {} {}  {}",
                left(severity_style(rule.severity).apply_to(Escaped(rule.severity)), 8),
                left(style(&rule.policy).bold(), width),
                right(self.held_by(rule).to_string(), 3),
                style(&rule.title).dim()
            );
        }
        append!(
            out,
            "  {}  {} {}  {}",
            left("", 8),
            left("no grant", width),
            right(self.without_grant().to_string(), 3),
            style("A tool that no grant names").dim()
        );
        let approved = self.count(|verdict| verdict.reason == Reason::Approved.as_str());
        append!(
            out,
            "  {} call approved by {}; the same call asks again afterwards",
            approved,
            self.approver
        );
    }

    /// Returns the number of calls that a rule held, including those that an approval let through later.
    fn held_by(&self, rule: &Rule) -> usize {
        self.count(|verdict| {
            verdict.decision != Decision::Allow.as_str() && verdict.violations.contains(&rule.policy)
        })
    }

    fn without_grant(&self) -> usize {
        self.count(|verdict| verdict.reason == Reason::NoGrant.as_str())
    }

    fn push_decisions(&self, out: &mut Text) {
        push_heading(out, "Asked before each call");
        let differing = self.calls.iter().filter(|call| !call.differences().is_empty()).count();
        append!(
            out,
            "  {} calls decided, {} judged later from the log",
            self.calls.len(),
            self.verdicts.len()
        );
        if differing == 0 {
            append!(out, "  {}", style("each decision equals its verdict").green());
        } else {
            append!(out, "  {}", style(format!("{differing} decisions differ from their verdicts")).red());
        }
    }

    fn push_faults(&self, out: &mut Text) {
        let faults = self.faults();
        if faults.is_empty() {
            return;
        }
        push_heading(out, "What is not as it must be");
        for fault in faults {
            append!(out, "  {}", style(fault).red());
        }
    }

    fn push_next_steps(&self, out: &mut Text, kept: bool) {
        push_heading(out, "Where to look next");
        append!(
            out,
            "  {}",
            style(format!(
                "the whole demo, stack included: {} s",
                with_thousands(u64::try_from(self.total_ms / 1_000).unwrap_or(u64::MAX))
            ))
            .dim()
        );
        if !kept {
            append!(
                out,
                "  agentgov demo --desk --keep        leaves all this up, so that you can look around in it:"
            );
        }
        append!(out, "  agentgov session show {}", self.session_id);
        append!(out, "  agentgov approvals list --all      the requests for approvals");
        append!(
            out,
            "  examples/desk                      the policies; docs/CONTROL.md explains gateway and approvals"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_is_named() {
        let own = |text: &str| text.to_owned();
        let step = Step {
            call: "write plan.txt",
            tool: "write_file",
            outcome: own("allow"),
            by: String::new(),
            effect: "plan.txt is unchanged",
            is_expected: false,
            answer: own("written"),
            approval_id: String::new(),
        };
        let violation = Violation {
            session_id: own("s"),
            session: own("s"),
            call: 0,
            tool: own("files/write_file"),
            policy: own("read-before-write"),
            severity: own("high"),
            mode: own("enforce"),
            alerted: false,
        };
        let call = DecidedCall {
            session: own("s"),
            call: 0,
            tool: own("files/write_file"),
            decision_id: own("id"),
            decided: own("allow"),
            decided_reason: own("granted"),
            decided_violations: Vec::new(),
            decided_known: own("00"),
            judged: own("deny"),
            judged_reason: own("granted"),
            judged_violations: Vec::new(),
            judged_known: own("00"),
        };
        let report = DeskReport {
            server: own("server"),
            session_id: own("s"),
            approver: "someone",
            steps: vec![step],
            verdicts: Vec::new(),
            calls: vec![call],
            violations: vec![violation],
            rules: Vec::new(),
            audit: None,
            total_ms: 1,
        };
        let faults = report.faults();
        let expected = [
            "write plan.txt: found outcome allow",
            "expected the verdicts allow, found ",
            "call 0 files/write_file: decision and verdict differ: outcome",
            "expected one call that is allowed by an approval, found 0",
            "call 0: expected an alert about read-before-write, found none",
        ];
        assert_eq!(faults.len(), expected.len(), "{faults:#?}");
        for (fault, expected) in faults.iter().zip(expected) {
            assert!(fault.starts_with(expected), "{fault}");
        }
    }
}
