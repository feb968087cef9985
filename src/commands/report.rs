//! The demo's report: what came in, what was found, where, how quickly, and where to look next.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use agentgov_log_reader::imported::{Counts, Latency, Violation};
use agentgov_policy::{Kind, Policy};
use console::{Style, measure_text_width, pad_str, style, truncate_str};
use serde::Serialize;
use serde_json::{Value, json};

/// What the demo found.
pub struct Report {
    /// What comparing topics and tables found; `None` if it was not asked.
    pub audit: Option<agentgov_audit::Report>,
    /// The file of recorded runs.
    pub input: String,
    /// What is in the log.
    pub counts: Counts,
    /// How quickly verdicts and alerts came.
    pub latency: Latency,
    /// Every violation, read back from ClickHouse.
    pub violations: Vec<Violation>,
    /// The bundle that judged.
    pub bundle: String,
    /// Its rules.
    pub policies: Vec<Rule>,
    /// From the first event's publishing to the last alert's row, in milliseconds.
    pub pipeline_ms: u128,
    /// The whole demo so far, in milliseconds.
    pub total_ms: u128,
}

/// A rule, for the report.
#[derive(Clone, Debug, Serialize)]
pub struct Rule {
    policy: String,
    title: String,
    severity: &'static str,
}

impl Rule {
    /// Of a policy that forbids; `None` of a grant.
    pub fn of(policy: &Policy) -> Option<Self> {
        let Kind::Rule { severity, .. } = policy.kind else { return None };
        let title = policy.title.clone().unwrap_or_default();
        Some(Self { policy: policy.id.clone(), title, severity: severity.as_str() })
    }
}

/// Sessions shown one by one; the rest is counted.
const SESSIONS_SHOWN: usize = 12;
const WIDTH: usize = 100;

impl Report {
    /// For a program.
    pub fn to_json(&self) -> Value {
        let by_policy: Vec<Value> = self
            .policies
            .iter()
            .map(|rule| {
                let mine = self.violations.iter().filter(|v| v.policy == rule.policy).count();
                json!({ "policy": rule.policy, "title": rule.title, "severity": rule.severity, "violations": mine })
            })
            .collect();
        json!({
            "input": self.input,
            "counts": self.counts,
            "violations": self.violations.len(),
            "alerted": self.violations.iter().filter(|v| v.alerted).count(),
            "by_policy": by_policy,
            "findings": self.violations,
            "audit": self.audit,
            "latency_ms": self.latency,
            "bundle": self.bundle,
            "pipeline_ms": self.pipeline_ms,
            "total_ms": self.total_ms,
        })
    }

    /// For a person. `kept` says whether the stack is still there to look around in.
    pub fn to_text(&self, kept: bool) -> String {
        let mut text = String::new();
        self.head(&mut text);
        self.came_in(&mut text);
        self.found(&mut text);
        self.sessions(&mut text);
        self.whole(&mut text);
        self.how_quickly(&mut text);
        self.next(&mut text, kept);
        text
    }

    fn head(&self, out: &mut String) {
        let title = format!(" agentgov · {} ", self.input);
        let rule = "━".repeat(WIDTH.saturating_sub(measure_text_width(&title) + 3));
        let _ = writeln!(out, "\n{}{}{}", style("━━━").cyan(), style(title).bold(), style(rule).cyan());
    }

    fn came_in(&self, out: &mut String) {
        let c = &self.counts;
        heading(out, "What came in");
        let _ = writeln!(
            out,
            "  {} sessions · {} events · {} tool calls, each judged by bundle `{}`",
            number(c.sessions),
            number(c.events),
            number(c.tool_calls),
            self.bundle
        );
        let _ = writeln!(
            out,
            "  {} rows in the log: every event {}{}",
            number(c.rows),
            if c.rows == c.events {
                "exactly once".to_owned()
            } else {
                format!("once, {} sent again", c.rows.saturating_sub(c.events))
            },
            if c.undecodable == 0 { String::new() } else { format!(", {} undecodable", c.undecodable) },
        );
        let shares = [
            ("allowed", c.allowed, Style::new().green()),
            ("denied", c.denied, Style::new().red()),
            ("for a person", c.asked, Style::new().yellow()),
            ("undecided", c.indeterminate, Style::new().magenta()),
        ];
        let total: u64 = shares.iter().map(|(_, n, _)| n).sum();
        let mut bar = String::new();
        let mut legend = Vec::new();
        for (name, n, colour) in &shares {
            if *n > 0 {
                bar.push_str(&colour.apply_to("█".repeat(share(*n, total, 60).max(1))).to_string());
                legend.push(format!("{} {name}", colour.apply_to(number(*n))));
            }
        }
        let _ = writeln!(out, "  {bar}  {}", legend.join(" · "));
        if c.without_grant > 0 {
            let _ = writeln!(out, "  {} of them denied since no grant allows them", number(c.without_grant));
        }
    }

    fn whole(&self, out: &mut String) {
        let Some(audit) = &self.audit else { return };
        heading(out, "Is the log whole?");
        let _ = writeln!(
            out,
            "  {} records of the topics compared with {} rows of the tables, by a reader of its own",
            number(audit.records),
            number(audit.rows)
        );
        for kind in agentgov_audit::Kind::ALL {
            let n = audit.count(kind);
            let told = format!("{} {n}", kind.as_str());
            let _ = write!(out, "  {}", if n == 0 { style(told).green() } else { style(told).red().bold() });
        }
        let _ = writeln!(out);
    }

    fn found(&self, out: &mut String) {
        let sessions: std::collections::BTreeSet<_> = self.violations.iter().map(|v| &v.session_id).collect();
        let alerted = self.violations.iter().filter(|v| v.alerted).count();
        heading(out, "What was found");
        let _ = writeln!(
            out,
            "  {} violations in {} sessions; {}",
            style(self.violations.len()).bold(),
            sessions.len(),
            if alerted == self.violations.len() {
                "an alert names each of them".to_owned()
            } else {
                format!("{} have no alert", self.violations.len().saturating_sub(alerted))
            },
        );
        let mut by_policy: BTreeMap<&str, u64> = BTreeMap::new();
        for violation in &self.violations {
            *by_policy.entry(&violation.policy).or_default() += 1;
        }
        let most = by_policy.values().copied().max().unwrap_or(0);
        let mut rules: Vec<(&Rule, u64)> = self
            .policies
            .iter()
            .map(|rule| (rule, by_policy.get(rule.policy.as_str()).copied().unwrap_or(0)))
            .collect();
        rules.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.policy.cmp(&b.0.policy)));
        let name_width = rules.iter().map(|(rule, _)| rule.policy.len()).max().unwrap_or(0);
        for (rule, n) in rules.iter().filter(|(_, n)| *n > 0) {
            let _ = writeln!(
                out,
                "  {}  {} {} {}",
                pad(&severity(rule.severity).apply_to(rule.severity).to_string(), 8),
                pad(&style(&rule.policy).bold().to_string(), name_width),
                right(&number(*n), 5),
                severity(rule.severity).apply_to("▇".repeat(share(*n, most, 16).max(1))),
            );
            if !rule.title.is_empty() {
                let _ = writeln!(out, "            {}", style(&rule.title).dim());
            }
        }
        let silent: Vec<&str> =
            rules.iter().filter(|(_, n)| *n == 0).map(|(rule, _)| rule.policy.as_str()).collect();
        if !silent.is_empty() {
            let _ = writeln!(out, "  {}", style(format!("not violated: {}", silent.join(", "))).dim());
        }
    }

    fn sessions(&self, out: &mut String) {
        if self.violations.is_empty() {
            return;
        }
        let mut sessions: Vec<(&str, Vec<&Violation>)> = Vec::new();
        for violation in &self.violations {
            match sessions.last_mut() {
                Some((id, list)) if *id == violation.session_id => list.push(violation),
                _ => sessions.push((&violation.session_id, vec![violation])),
            }
        }
        sessions.sort_by_key(|(_, list)| std::cmp::Reverse(list.len()));
        heading(out, "Where");
        for (_, list) in sessions.iter().take(SESSIONS_SHOWN) {
            let label = list.first().map_or("", |v| v.session.as_str());
            for (i, v) in list.iter().enumerate() {
                let shown = if i == 0 { style(label).cyan().bold().to_string() } else { String::new() };
                let call = format!("call {:>2} {}", v.call, v.tool);
                let line = format!(
                    "  {} {} {}",
                    pad(&shown, 8),
                    pad(&call, 38),
                    severity(&v.severity).apply_to(&v.policy)
                );
                let _ = writeln!(out, "{}", truncate_str(&line, WIDTH, "…"));
            }
        }
        if let Some(more) = sessions.len().checked_sub(SESSIONS_SHOWN).filter(|more| *more > 0) {
            let _ = writeln!(out, "  {}", style(format!("… and {more} sessions more")).dim());
        }
    }

    fn how_quickly(&self, out: &mut String) {
        let l = &self.latency;
        heading(out, "How quickly");
        let _ = writeln!(
            out,
            "  event → verdict  half within {}, 99 of 100 within {}",
            millis(l.verdict_p50),
            millis(l.verdict_p99)
        );
        let _ = writeln!(
            out,
            "  event → alert    half within {}, 99 of 100 within {}",
            millis(l.alert_p50),
            millis(l.alert_p99)
        );
        let _ = writeln!(
            out,
            "  {}",
            style(format!(
                "first event to last row: {:.1} s; the whole demo, stack included: {:.1} s",
                self.pipeline_ms as f64 / 1000.0,
                self.total_ms as f64 / 1000.0
            ))
            .dim()
        );
    }

    fn next(&self, out: &mut String, kept: bool) {
        heading(out, "Where to look next");
        let session = self.violations.first().map_or("ID", |v| v.session.as_str());
        if kept {
            let _ = writeln!(
                out,
                "  agentgov session show {session:<12} what happened there, what was known, and the policy's text"
            );
        } else {
            let _ = writeln!(
                out,
                "  agentgov demo --keep               leaves all this up, so that you can look around in it:"
            );
            let _ = writeln!(
                out,
                "  agentgov session show {session:<12} what happened there, what was known, and the policy's text"
            );
        }
        let _ = writeln!(out, "  docs/QUERIES.md                    questions to the log, as SQL");
        let _ = writeln!(
            out,
            "  examples/airline/bundle            the policies that judged; docs/policies.md explains them"
        );
    }
}

fn heading(out: &mut String, text: &str) {
    let _ = writeln!(out, "\n{}", style(text).bold().cyan());
}

fn severity(name: &str) -> Style {
    match name {
        "critical" => Style::new().red().bold(),
        "high" => Style::new().red(),
        "medium" => Style::new().yellow(),
        _ => Style::new().blue(),
    }
}

fn pad(text: &str, width: usize) -> String {
    pad_str(text, width, console::Alignment::Left, None).into_owned()
}

fn right(text: &str, width: usize) -> String {
    pad_str(text, width, console::Alignment::Right, None).into_owned()
}

/// `part` of `whole`, in cells of a bar of `width`.
fn share(part: u64, whole: u64, width: u64) -> usize {
    usize::try_from((part * width).checked_div(whole).unwrap_or(0)).unwrap_or(0)
}

/// With a comma between thousands.
fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut grouped = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn millis(value: f64) -> String {
    if value >= 1000.0 { format!("{:.1} s", value / 1000.0) } else { format!("{value:.0} ms") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        for (n, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(number(n), text);
        }
    }
}
