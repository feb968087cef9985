//! Report of the demo: input, violations, sessions, audit, latency and next steps.

use std::collections::BTreeMap;

use agentgov_log_reader::imported::{Counts, Latency, Violation};
use agentgov_policy::{Policy, PolicyKind};
use agentgov_schemas::Vocabulary;
use agentgov_schemas::escape::{Escaped, shell_word};
use agentgov_schemas::verdict::Severity;
use console::{Style, measure_text_width, truncate_str};
use serde::Serialize;
use serde_json::{Value, json};

use super::inline::{Comparison, DifferingCall};
use crate::print::{Text, left, right, style, style_text, text};

/// Appends a formatted line to a [`Text`], with the rules of [`outln!`].
macro_rules! append {
    ($text:expr, $format:literal $(, $argument:expr)* $(,)?) => {
        $text.push_line(&text!($format $(, $argument)*))
    };
}
pub(super) use append;

/// Results of the demo.
pub struct Report {
    /// Result of the audit; `None` if it did not run.
    pub audit: Option<agentgov_audit::Report>,
    /// Decisions before the calls, compared with the verdicts; `None` without `--inline`.
    pub inline: Option<Comparison>,
    /// Name of the file of recorded runs.
    pub input: String,
    /// Counts of the log.
    pub counts: Counts,
    /// Latency of verdicts and alerts.
    pub latency: Latency,
    /// Violations, read from ClickHouse.
    pub violations: Vec<Violation>,
    /// Name of the bundle.
    pub bundle: String,
    /// Rules of the bundle.
    pub policies: Vec<Rule>,
    /// Milliseconds from the first published event to the last row.
    pub pipeline_ms: u128,
    /// Milliseconds of the whole demo so far.
    pub total_ms: u128,
}

/// Rule of the bundle, as the report shows it.
#[derive(Clone, Debug, Serialize)]
pub struct Rule {
    /// Its id.
    pub policy: String,
    /// Its title.
    pub title: String,
    /// Its severity.
    pub severity: &'static str,
}

impl Rule {
    /// Returns the rule of a `forbid` policy; `None` for a grant.
    pub fn of(policy: &Policy) -> Option<Self> {
        let PolicyKind::Rule { severity, .. } = policy.kind else { return None };
        let title = policy.title.clone().unwrap_or_default();
        Some(Self { policy: policy.id.clone(), title, severity: severity.as_str() })
    }
}

/// Maximum number of sessions listed; further ones are counted.
const MAX_SHOWN_SESSIONS: usize = 12;
const WIDTH: usize = 100;

impl Report {
    /// Formats the report as JSON.
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
            "inline": self.inline,
            "latency_ms": self.latency,
            "bundle": self.bundle,
            "pipeline_ms": self.pipeline_ms,
            "total_ms": self.total_ms,
        })
    }

    /// Formats the report as text. `kept`: the stack stays up after the report.
    pub fn to_text(&self, kept: bool) -> Text {
        let mut text = Text::default();
        push_title(&mut text, &self.input);
        self.push_input(&mut text);
        self.push_violations(&mut text);
        self.push_sessions(&mut text);
        self.push_inline(&mut text);
        if let Some(audit) = &self.audit {
            push_audit(&mut text, audit);
        }
        self.push_latency(&mut text);
        self.push_next_steps(&mut text, kept);
        text
    }

    fn push_input(&self, out: &mut Text) {
        let c = &self.counts;
        push_heading(out, "What came in");
        append!(
            out,
            "  {} sessions · {} events · {} tool calls, each judged by bundle `{}`",
            with_thousands(c.sessions),
            with_thousands(c.events),
            with_thousands(c.tool_calls),
            self.bundle
        );
        append!(
            out,
            "  {} rows in the log: every event {}{}",
            with_thousands(c.rows),
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
                let cells = "█".repeat(bar_cells(*n, total, 60).max(1));
                bar.push(&text!("{}", colour.apply_to(Escaped(cells))));
                legend.push(text!("{} {}", colour.apply_to(Escaped(with_thousands(*n))), name));
            }
        }
        append!(out, "  {}  {}", bar, Text::join(&legend, " · "));
        if c.without_grant > 0 {
            append!(out, "  {} of them denied since no grant allows them", with_thousands(c.without_grant));
        }
    }

    fn push_inline(&self, out: &mut Text) {
        let Some(inline) = &self.inline else { return };
        push_heading(out, "Asked before each call");
        let p50 = inline.p50_ms.map_or_else(|| "not measured".to_owned(), |p50| format!("{p50:.1} ms"));
        append!(
            out,
            "  {} asked · {} allowed · {} denied · {} for a person · {} undecided; half of the answers within {}",
            with_thousands(inline.asked),
            with_thousands(inline.allowed),
            with_thousands(inline.denied),
            with_thousands(inline.asked_a_person),
            with_thousands(inline.indeterminate + inline.errors.len() as u64),
            p50
        );
        if inline.is_equal() {
            append!(out, "  {}", style("each decision equals its verdict").green());
        } else {
            append!(
                out,
                "  {}",
                style(format!("{} decisions differ from their verdicts", inline.differed)).red()
            );
        }
        for DifferingCall { call, differs } in inline.differences.iter().take(MAX_SHOWN_SESSIONS) {
            let or_none = |outcome: &str| if outcome.is_empty() { "none" } else { outcome }.to_owned();
            append!(
                out,
                "  {} call {} {}: decided {}, judged {}; differs: {}",
                style(&call.session).cyan().bold(),
                call.call,
                call.tool,
                or_none(&call.decided),
                or_none(&call.judged),
                differs.join(", ")
            );
        }
        for error in inline.errors.iter().take(MAX_SHOWN_SESSIONS) {
            append!(out, "  {}", style(error).red());
        }
    }

    fn push_violations(&self, out: &mut Text) {
        let sessions: std::collections::BTreeSet<_> = self.violations.iter().map(|v| &v.session_id).collect();
        let alerted = self.violations.iter().filter(|v| v.alerted).count();
        push_heading(out, "What was found");
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
                left(severity_style(rule.severity).apply_to(Escaped(rule.severity)), 8),
                left(style(&rule.policy).bold(), name_width),
                right(with_thousands(*n), 5),
                severity_style(rule.severity).apply_to(Escaped("▇".repeat(bar_cells(*n, most, 16).max(1))))
            );
            if !rule.title.is_empty() {
                append!(out, "            {}", style(&rule.title).dim());
            }
        }
        let not_violated: Vec<&str> =
            rules.iter().filter(|(_, n)| *n == 0).map(|(rule, _)| rule.policy.as_str()).collect();
        if !not_violated.is_empty() {
            append!(out, "  {}", style(format!("not violated: {}", not_violated.join(", "))).dim());
        }
    }

    fn push_sessions(&self, out: &mut Text) {
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
        push_heading(out, "Where");
        for (_, list) in sessions.iter().take(MAX_SHOWN_SESSIONS) {
            let label = list.first().map_or("", |v| v.session.as_str());
            for (i, v) in list.iter().enumerate() {
                let shown = style(if i == 0 { label } else { "" }).cyan().bold();
                let line = text!(
                    "  {} {} {}",
                    left(shown, 8),
                    left(text!("call {:>2} {}", v.call, v.tool), 38),
                    severity_style(&v.severity).apply_to(Escaped(&v.policy))
                );
                // Truncates after escaping, so that no incomplete escape sequence remains.
                append!(out, "{}", Text::from_escaped(truncate_str(line.as_str(), WIDTH, "…").into_owned()));
            }
        }
        if let Some(more) = sessions.len().checked_sub(MAX_SHOWN_SESSIONS).filter(|more| *more > 0) {
            append!(out, "  {}", style(format!("… and {more} sessions more")).dim());
        }
    }

    fn push_latency(&self, out: &mut Text) {
        let l = &self.latency;
        push_heading(out, "How quickly");
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

    fn push_next_steps(&self, out: &mut Text, kept: bool) {
        push_heading(out, "Where to look next");
        let session = self
            .violations
            .first()
            .map_or_else(|| Text::from("ID"), |v| session_argument(&v.session, &v.session_id));
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

/// Returns the shell argument that names a session: the label if it can be quoted safely, otherwise the id.
fn session_argument(label: &str, id: &str) -> Text {
    let quoted = |name| shell_word(name).map(|word| (name, word));
    let (name, word) = [label, id].into_iter().find_map(quoted).unwrap_or(("ID", "ID".into()));
    // Keeps a label that begins with `-` from being parsed as an option.
    let separator = if name.starts_with('-') { "-- " } else { "" };
    Text::from_escaped(format!("{separator}{word}"))
}

/// Appends the title of a report.
pub fn push_title(out: &mut Text, input: &str) {
    let title = text!(" agentgov · {} ", input);
    let rule = "━".repeat(WIDTH.saturating_sub(measure_text_width(title.as_str()) + 3));
    append!(out, "\n{}{}{}", style("━━━").cyan(), style_text(title).bold(), style(rule).cyan());
}

/// Appends the result of an audit.
pub fn push_audit(out: &mut Text, audit: &agentgov_audit::Report) {
    push_heading(out, "Is the log whole?");
    append!(
        out,
        "  {} records of the topics compared with {} rows of the tables, by a reader of its own",
        with_thousands(audit.records),
        with_thousands(audit.rows)
    );
    let mut line = Text::default();
    for kind in agentgov_audit::FindingKind::ALL {
        let n = audit.count(kind);
        let count = format!("{} {n}", kind.as_str());
        line.push(&text!("  {}", if n == 0 { style(count).green() } else { style(count).red().bold() }));
    }
    out.push_line(&line);
}

/// Appends a heading.
pub fn push_heading(out: &mut Text, text: &str) {
    append!(out, "");
    append!(out, "{}", style(text).bold().cyan());
}

/// Returns the style of a severity.
pub fn severity_style(name: &str) -> Style {
    match Severity::by_name(name) {
        Some(Severity::Critical) => Style::new().red().bold(),
        Some(Severity::High) => Style::new().red(),
        Some(Severity::Medium) => Style::new().yellow(),
        Some(Severity::Low) | None => Style::new().blue(),
    }
}

/// Returns the number of bar cells, of `width`, for `part` of `whole`.
fn bar_cells(part: u64, whole: u64, width: u64) -> usize {
    usize::try_from((part * width).checked_div(whole).unwrap_or(0)).unwrap_or(0)
}

/// Formats a number with commas between thousands.
pub fn with_thousands(n: u64) -> String {
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
        None => "not measured".to_owned(),
    }
}

fn millis(value: f64) -> String {
    if value >= 1000.0 { format!("{:.1} s", value / 1000.0) } else { format!("{value:.0} ms") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_without_measurement_is_not_shown_as_0() {
        assert_eq!(within(Some(0.4), Some(1200.0)), "half within 0 ms, 99 of 100 within 1.2 s");
        assert_eq!(within(None, None), "not measured");
    }

    #[test]
    fn numbers_have_commas_between_thousands() {
        for (n, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(with_thousands(n), text);
        }
    }
}
