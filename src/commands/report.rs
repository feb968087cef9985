//! The demo's report: what came in, what was found, where, how quickly, and where to look next.

use std::collections::BTreeMap;

use agentgov_log_reader::imported::{Counts, Latency, Violation};
use agentgov_policy::{Kind, Policy};
use agentgov_schemas::Vocabulary;
use agentgov_schemas::escape::{Escaped, shell_word};
use agentgov_schemas::verdict::Severity;
use console::{Style, measure_text_width, truncate_str};
use serde::Serialize;
use serde_json::{Value, json};

use crate::print::{Text, left, right, style, style_text, text};

/// Appends a line to a [`Text`], with the same rules as [`say!`].
macro_rules! append {
    ($text:expr, $format:literal $(, $argument:expr)* $(,)?) => {
        $text.push_line(&text!($format $(, $argument)*))
    };
}

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
    pub fn to_text(&self, kept: bool) -> Text {
        let mut text = Text::default();
        self.head(&mut text);
        self.came_in(&mut text);
        self.found(&mut text);
        self.sessions(&mut text);
        self.whole(&mut text);
        self.how_quickly(&mut text);
        self.next(&mut text, kept);
        text
    }

    fn head(&self, out: &mut Text) {
        let title = text!(" agentgov · {} ", self.input);
        let rule = "━".repeat(WIDTH.saturating_sub(measure_text_width(title.as_str()) + 3));
        append!(out, "\n{}{}{}", style("━━━").cyan(), style_text(title).bold(), style(rule).cyan());
    }

    fn came_in(&self, out: &mut Text) {
        let c = &self.counts;
        heading(out, "What came in");
        append!(
            out,
            "  {} sessions · {} events · {} tool calls, each judged by bundle `{}`",
            number(c.sessions),
            number(c.events),
            number(c.tool_calls),
            self.bundle
        );
        append!(
            out,
            "  {} rows in the log: every event {}{}",
            number(c.rows),
            if c.rows == c.events {
                "exactly once".to_owned()
            } else {
                format!("once, {} sent again", c.rows.saturating_sub(c.events))
            },
            if c.undecodable == 0 { String::new() } else { format!(", {} undecodable", c.undecodable) }
        );
        let shares = [
            ("allowed", c.allowed, Style::new().green()),
            ("denied", c.denied, Style::new().red()),
            ("for a person", c.asked, Style::new().yellow()),
            ("undecided", c.indeterminate, Style::new().magenta()),
        ];
        let total: u64 = shares.iter().map(|(_, n, _)| n).sum();
        let mut bar = Text::default();
        let mut legend = Vec::new();
        for (name, n, colour) in &shares {
            if *n > 0 {
                let cells = "█".repeat(share(*n, total, 60).max(1));
                bar.push(&text!("{}", colour.apply_to(Escaped(cells))));
                legend.push(text!("{} {}", colour.apply_to(Escaped(number(*n))), name));
            }
        }
        append!(out, "  {}  {}", bar, Text::join(&legend, " · "));
        if c.without_grant > 0 {
            append!(out, "  {} of them denied since no grant allows them", number(c.without_grant));
        }
    }

    fn whole(&self, out: &mut Text) {
        let Some(audit) = &self.audit else { return };
        heading(out, "Is the log whole?");
        append!(
            out,
            "  {} records of the topics compared with {} rows of the tables, by a reader of its own",
            number(audit.records),
            number(audit.rows)
        );
        let mut line = Text::default();
        for kind in agentgov_audit::Kind::ALL {
            let n = audit.count(kind);
            let told = format!("{} {n}", kind.as_str());
            line.push(&text!("  {}", if n == 0 { style(told).green() } else { style(told).red().bold() }));
        }
        out.push_line(&line);
    }

    fn found(&self, out: &mut Text) {
        let sessions: std::collections::BTreeSet<_> = self.violations.iter().map(|v| &v.session_id).collect();
        let alerted = self.violations.iter().filter(|v| v.alerted).count();
        heading(out, "What was found");
        append!(
            out,
            "  {} violations in {} sessions; {}",
            style(self.violations.len()).bold(),
            sessions.len(),
            if alerted == self.violations.len() {
                "an alert names each of them".to_owned()
            } else {
                format!("{} have no alert", self.violations.len().saturating_sub(alerted))
            }
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
            append!(
                out,
                "  {}  {} {} {}",
                left(severity(rule.severity).apply_to(Escaped(rule.severity)), 8),
                left(style(&rule.policy).bold(), name_width),
                right(number(*n), 5),
                severity(rule.severity).apply_to(Escaped("▇".repeat(share(*n, most, 16).max(1))))
            );
            if !rule.title.is_empty() {
                append!(out, "            {}", style(&rule.title).dim());
            }
        }
        let silent: Vec<&str> =
            rules.iter().filter(|(_, n)| *n == 0).map(|(rule, _)| rule.policy.as_str()).collect();
        if !silent.is_empty() {
            append!(out, "  {}", style(format!("not violated: {}", silent.join(", "))).dim());
        }
    }

    fn sessions(&self, out: &mut Text) {
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
                let shown = style(if i == 0 { label } else { "" }).cyan().bold();
                let line = text!(
                    "  {} {} {}",
                    left(shown, 8),
                    left(text!("call {:>2} {}", v.call, v.tool), 38),
                    severity(&v.severity).apply_to(Escaped(&v.policy))
                );
                // Cut behind what was escaped, so that no part of an escape sequence remains.
                append!(out, "{}", Text::from_escaped(truncate_str(line.as_str(), WIDTH, "…").into_owned()));
            }
        }
        if let Some(more) = sessions.len().checked_sub(SESSIONS_SHOWN).filter(|more| *more > 0) {
            append!(out, "  {}", style(format!("… and {more} sessions more")).dim());
        }
    }

    fn how_quickly(&self, out: &mut Text) {
        let l = &self.latency;
        heading(out, "How quickly");
        append!(out, "  event → verdict  {}", within(l.verdict_p50, l.verdict_p99));
        append!(out, "  event → alert    {}", within(l.alert_p50, l.alert_p99));
        append!(
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

    fn next(&self, out: &mut Text, kept: bool) {
        heading(out, "Where to look next");
        let session = self
            .violations
            .first()
            .map_or_else(|| Text::from("ID"), |v| shell_session(&v.session, &v.session_id));
        if kept {
            append!(
                out,
                "  agentgov session show {:<12} what happened there, what was known, and the policy's text",
                session
            );
        } else {
            append!(
                out,
                "  agentgov demo --keep               leaves all this up, so that you can look around in it:"
            );
            append!(
                out,
                "  agentgov session show {:<12} what happened there, what was known, and the policy's text",
                session
            );
        }
        append!(out, "  docs/QUERIES.md                    questions to the log, as SQL");
        append!(
            out,
            "  examples/airline/bundle            the policies that judged; docs/policies.md explains them"
        );
    }
}

/// How a shell command names a session: by its label, unless nobody could check what the shell makes of that.
fn shell_session(label: &str, id: &str) -> Text {
    let quoted = |name| shell_word(name).map(|word| (name, word));
    let (name, word) = [label, id].into_iter().find_map(quoted).unwrap_or(("ID", "ID".into()));
    // Otherwise an option.
    let separator = if name.starts_with('-') { "-- " } else { "" };
    Text::from_escaped(format!("{separator}{word}"))
}

fn heading(out: &mut Text, text: &str) {
    append!(out, "");
    append!(out, "{}", style(text).bold().cyan());
}

fn severity(name: &str) -> Style {
    match Severity::by_name(name) {
        Some(Severity::Critical) => Style::new().red().bold(),
        Some(Severity::High) => Style::new().red(),
        Some(Severity::Medium) => Style::new().yellow(),
        Some(Severity::Low) | None => Style::new().blue(),
    }
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

fn within(p50: Option<f64>, p99: Option<f64>) -> String {
    match p50.zip(p99) {
        Some((p50, p99)) => format!("half within {}, 99 of 100 within {}", millis(p50), millis(p99)),
        None => "nothing was measured: there is none".to_owned(),
    }
}

fn millis(value: f64) -> String {
    if value >= 1000.0 { format!("{:.1} s", value / 1000.0) } else { format!("{value:.0} ms") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_measured_is_no_measurement_of_0() {
        assert_eq!(within(Some(0.4), Some(1200.0)), "half within 0 ms, 99 of 100 within 1.2 s");
        assert_eq!(within(None, None), "nothing was measured: there is none");
    }

    #[test]
    fn numbers_are_grouped() {
        for (n, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(number(n), text);
        }
    }
}
