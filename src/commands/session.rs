//! `agentgov session show`: prints a session event by event.

use std::collections::BTreeMap;

use agentgov_log_reader::session::{CallDecision, Entry, Event, SessionMatch, Verdict};
use agentgov_log_reader::{DecisionEvidence, LogReader, LoggedBytes};
use agentgov_policy::{Bundle, BundleFiles};
use agentgov_schemas::escape::{EscapedBytes, shell_word};
use agentgov_schemas::verdict::{Decision, DecisionFinding, Mode, RuleEffect};
use agentgov_schemas::{Vocabulary, catalogue};
use agentgov_service::ExitCode;
use serde_json::Value;

use crate::cli::{Global, SessionCommand};
use crate::context;
use crate::failure::{Failure, OrExit as _};
use crate::print::{Text, json, outln, style, text};
use crate::progress::Progress;

/// Maximum number of characters shown of a payload.
const MAX_SHOWN_CHARS: usize = 400;
/// Upper bound of the UTF-8 bytes of [`MAX_SHOWN_CHARS`] characters.
const MAX_SHOWN_BYTES: usize = 4 * (MAX_SHOWN_CHARS + 1);

pub fn session(command: &SessionCommand, global: &Global) -> Result<ExitCode, Failure> {
    let SessionCommand::Show { session, tenant } = command;
    let (topology, endpoints) = (context::topology(global)?, context::endpoints(global)?);
    let reader = LogReader::new(&endpoints.clickhouse, &topology).or_exit(ExitCode::Config)?;
    let progress = Progress::new(global.json);
    let step = progress.step("reading the log");
    let found = reader.find_sessions(session, tenant.as_deref()).or_exit(ExitCode::TryAgain)?;
    let chosen = match found.as_slice() {
        [] => {
            let message =
                format!("expected a session with the id or label `{session}` in the log, found none");
            return Err(Failure::new(ExitCode::Failed, message));
        }
        [one] => one,
        several => {
            // Quoted for a shell where that is possible.
            let word =
                |text: &str| shell_word(text).map_or_else(|| format!("{text:?}"), |word| word.into_owned());
            let lines =
                several.iter().map(|f| format!("--tenant {} {}", word(&f.tenant_id), word(&f.session_id)));
            return Err(Failure::all(
                ExitCode::Usage,
                &format!("`{session}` matches several sessions:"),
                lines,
            ));
        }
    };
    let entries = reader.session(&chosen.tenant_id, &chosen.session_id).or_exit(ExitCode::TryAgain)?;
    let bundles = bundles(&reader, &entries)?;
    drop(step);
    if global.json {
        let result = serde_json::json!({ "session": chosen, "entries": entries });
        json(&result)?;
    } else {
        print_session(chosen, &entries, &bundles);
    }
    Ok(ExitCode::Done)
}

/// Returns the bundles of the session's verdicts by digest, from the log.
fn bundles(reader: &LogReader, entries: &[Entry]) -> Result<BTreeMap<String, Bundle>, Failure> {
    let mut bundles = BTreeMap::new();
    for verdict in entries.iter().filter_map(|entry| entry.verdict.as_ref()) {
        let digest = &verdict.bundle_digest;
        if digest.is_empty() || bundles.contains_key(digest) {
            continue;
        }
        let files = reader.bundle_files(digest).or_exit(ExitCode::TryAgain)?;
        // If this build cannot compile a bundle, the session is printed without policy texts.
        if let Ok(bundle) = Bundle::compile(&BundleFiles(files)) {
            bundles.insert(digest.clone(), bundle);
        }
    }
    Ok(bundles)
}

/// Prints a session.
pub fn print_session(session: &SessionMatch, entries: &[Entry], bundles: &BTreeMap<String, Bundle>) {
    let name = if session.session_label.is_empty() { &session.session_id } else { &session.session_label };
    outln!("{} {}", style("session").cyan(), style(name).bold());
    outln!("  id {} · tenant {} · agent {}", session.session_id, session.tenant_id, session.agent_id);
    if !session.actor_id.is_empty() {
        outln!("  on behalf of {}", session.actor_id);
    }
    let mut agent = session.agent_id.as_str();
    for entry in entries {
        let Entry { event, decision, verdict, .. } = entry;
        outln!();
        print_event(entry);
        if event.agent_id != agent {
            outln!("  agent {}", style(&event.agent_id).bold());
            agent = &event.agent_id;
        }
        for reject in &entry.rejects {
            let rejected = style("rejected").red();
            outln!("  {} ({}) by {}: {}", rejected, reject.reason, reject.stage, reject.detail);
        }
        if let Some(decision) = decision {
            print_call_decision(decision, entry);
        }
        if let Some(verdict) = verdict {
            print_verdict(verdict, bundles.get(&verdict.bundle_digest));
            print_disagreement(entry, verdict);
        }
    }
}

fn print_event(entry: &Entry) {
    let event = &entry.event;
    let at = jiff::Timestamp::from_microsecond(event.occurred_at)
        .map_or_else(|_| format!("{} µs", event.occurred_at), |time| time.to_string());
    let place = format!("{}/{}@{}", event.topic, event.partition, event.offset);
    let source = format!("{}#{}", event.source_id, event.source_sequence);
    outln!(
        "{}  {}  {}  {}",
        style(at).dim(),
        style(&event.event_type).bold(),
        style(place).dim(),
        style(source).dim()
    );
    let who = if event.role.is_empty() { String::new() } else { format!("{}: ", event.role) };
    if !event.text.is_empty() {
        outln!("  {}{}", who, shorten(&event.text));
    }
    if !event.decision.is_empty() {
        print_decision(event, entry.evidence);
        return;
    }
    let answers = !event.result.is_empty() || event.event_type == catalogue::TOOL_RESPONSE_RECEIVED;
    let tool = style(&event.tool).cyan();
    if !event.arguments.is_empty() || !(event.tool.is_empty() || answers) {
        outln!("  {}({}){}", tool, shorten(&event.arguments), call_id(event));
    }
    if answers {
        let tool = if event.tool.is_empty() { Text::default() } else { text!("{} ", tool) };
        outln!("  {}→ {}{}", tool, shorten(&event.result), call_id(event));
    }
}

/// Formats the id of a call, by which calls and results belong together.
fn call_id(event: &Event) -> Text {
    if event.call_id.is_empty() {
        Text::default()
    } else {
        text!("  {} {}", style("call").dim(), event.call_id)
    }
}

/// Colours a decision: green for allow, red for deny.
fn style_of_decision(decision: &str) -> console::StyledObject<impl std::fmt::Display> {
    match Decision::by_name(decision) {
        Some(Decision::Allow) => style(decision).green(),
        Some(Decision::Deny) => style(decision).red(),
        _ => style(decision).yellow(),
    }
}

/// Returns a remark about a decision that no verified token confirms.
fn claim_remark(evidence: Option<DecisionEvidence>) -> Text {
    match evidence {
        Some(DecisionEvidence::Token) => Text::default(),
        Some(DecisionEvidence::Claim) | None => text!(" {}", style("claimed, not verified").yellow()),
    }
}

/// Prints a decision that was made before a call.
fn print_decision(event: &Event, evidence: Option<DecisionEvidence>) {
    let decision = style_of_decision(&event.decision);
    let about =
        if event.tool.is_empty() { Text::default() } else { text!(" on {}", style(&event.tool).cyan()) };
    let reason = if event.decision_reason.is_empty() { "no reason" } else { &event.decision_reason };
    outln!(
        "  {} {} ({}){} by {}{}",
        style("decision").cyan(),
        decision.bold(),
        reason,
        about,
        event.decided_by,
        claim_remark(evidence)
    );
}

/// Prints the decision about a call, above its verdict.
fn print_call_decision(decision: &CallDecision, entry: &Entry) {
    let call = &entry.event;
    let outcome = style_of_decision(&decision.outcome);
    let bundle = if decision.bundle.is_empty() { &decision.bundle_digest } else { &decision.bundle };
    let bundle = if bundle.is_empty() { Text::from("no bundle") } else { Text::from(bundle) };
    let reason = if decision.reason.is_empty() { Text::default() } else { text!(" ({})", decision.reason) };
    let finding = entry.verdict.as_ref().map_or("", |verdict| verdict.prior_decision_finding.as_str());
    let is_altered = finding == DecisionFinding::Altered.as_str();
    let decided = if is_altered {
        text!("{} {}", style("altered token:").red(), style("decided").cyan())
    } else {
        text!("{}", style("decided").cyan())
    };
    let about = if is_altered { text!(" on {}", style(&decision.tool).cyan()) } else { Text::default() };
    outln!(
        "  {} {}{}{} by {} with {}{}",
        decided,
        outcome.bold(),
        reason,
        about,
        decision.decided_by,
        bundle,
        claim_remark(entry.evidence)
    );
    let known = if !decision.unavailable.is_empty() {
        text!("the session was not known: {}", decision.unavailable)
    } else if decision.known_through < 0 {
        text!("no record of partition {} was known", decision.known_partition)
    } else {
        text!("known through {}/{}@{}", call.topic, decision.known_partition, decision.known_through)
    };
    let caller =
        if decision.caller.is_empty() { Text::default() } else { text!(", asked by {}", decision.caller) };
    outln!("    {} {}, {}{}", style("id").dim(), decision.id, known, caller);
    if call.token_decision_id.is_empty() {
        outln!("    {}", style("the call carries no token").yellow());
    }
    if decision.offset < 0 {
        let remark = "no event of this id agrees with the token: the reason is not known";
        outln!("    {}", style(remark).yellow());
    }
    if entry.other_events > 0 {
        let remark = "other events of this id state something else; any producer can write them";
        outln!("    {} {}", entry.other_events, style(remark).yellow());
    }
}

/// Prints how the decision before a call differs from its verdict, and what the verdict says about the call's token.
fn print_disagreement(entry: &Entry, verdict: &Verdict) {
    let finding = verdict.prior_decision_finding.as_str();
    if let Some(DecisionFinding::Forged | DecisionFinding::Altered | DecisionFinding::Reused) =
        DecisionFinding::by_name(finding)
    {
        let cause = &verdict.prior_decision_cause;
        let cause = if cause.is_empty() { Text::default() } else { text!(": {}", cause) };
        outln!("    {} {}{}", style("token").red(), finding, cause);
    }
    if finding == DecisionFinding::Undecided.as_str() && verdict.prior_decision_required {
        outln!("    {} the bundle requires a decision before each call", style("undecided").red());
    }
    let disagreement = entry.disagreement.as_ref().filter(|disagreement| disagreement.has_other_result());
    let (Some(decision), Some(disagreement)) = (&entry.decision, disagreement) else { return };
    let reasons = decision.outcome == verdict.decision;
    let rules = reasons && decision.reason == verdict.reason;
    let side = |outcome: &str, reason: &str, violations: &[String]| match (reasons, rules) {
        (false, _) => text!("{}", outcome),
        (true, false) => text!("{} ({})", outcome, reason),
        (true, true) if violations.is_empty() => text!("{} without a violation", outcome),
        (true, true) => text!("{} for {}", outcome, violations.join(", ")),
    };
    let decided = side(&decision.outcome, &decision.reason, &decision.violations);
    let judged = side(&verdict.decision, &verdict.reason, &verdict.violations);
    let differs = style("differs").yellow();
    outln!("    {} decided {}, judged {}: by {}", differs, decided, judged, disagreement.cause);
}

fn print_verdict(verdict: &Verdict, bundle: Option<&Bundle>) {
    let decision = style_of_decision(&verdict.decision);
    let name = verdict.bundle.trim();
    let by = if name.is_empty() { Text::default() } else { text!(" by {}", name) };
    outln!("  {} {} ({}){}", style("verdict").cyan(), decision.bold(), verdict.reason, by);
    print_known_values(&verdict.known);
    for error in &verdict.errors {
        outln!("    {} {}", style("error").red(), error);
    }
    for finding in &verdict.findings {
        outln!("    {} {}", style("finding").yellow(), finding);
    }
    for (at, id) in verdict.violations.iter().enumerate() {
        let is = |values: &[String], value: &str| values.get(at).is_some_and(|found| found == value);
        let label = if is(&verdict.modes, Mode::Observe.as_str()) {
            style("observed").yellow()
        } else if is(&verdict.effects, RuleEffect::Ask.as_str()) {
            style("asks").yellow()
        } else {
            style("violates").red()
        };
        outln!("    {} {}", label, style(id).bold());
        let Some(policy) = bundle.and_then(|bundle| bundle.policy(id)) else { continue };
        outln!("      {}", style(format!("{}:{}", policy.file, policy.line)).dim());
        for line in policy.source.lines() {
            outln!("      {}", style(line.replace('\t', "    ")).dim());
        }
    }
}

/// Prints the derived values and facts of a verdict, one per line.
fn print_known_values(known: &str) {
    let Ok(Value::Object(known)) = serde_json::from_str::<Value>(known) else { return };
    if let Some(Value::Object(derived)) = known.get("derived") {
        for (name, value) in derived {
            outln!("    {} {} = {}", style("known").dim(), name, value);
        }
    }
    if let Some(Value::Array(facts)) = known.get("facts") {
        for fact in facts {
            let text = |field| fact.get(field).and_then(Value::as_str).unwrap_or_default();
            let offset = fact.get("offset").map(ToString::to_string).unwrap_or_default();
            outln!("    {} {} {} (at offset {})", style("fact ").dim(), text("kind"), text("key"), offset);
        }
    }
}

/// Formats a payload as one line of limited length.
fn shorten(payload: &LoggedBytes) -> Text {
    let words: Vec<&[u8]> =
        payload.0.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect();
    let line = words.join(&b' ');
    // Counts the bytes that begin a UTF-8 character; invalid bytes count as characters.
    let mut begins = line.iter().enumerate().filter(|(_, byte)| **byte & 0xc0 != 0x80).map(|(at, _)| at);
    let end =
        begins.nth(MAX_SHOWN_CHARS).or_else(|| (line.len() > MAX_SHOWN_BYTES).then_some(MAX_SHOWN_BYTES));
    match end.and_then(|end| line.get(..end)) {
        Some(shown) => text!("{}{}", EscapedBytes(shown), "…"),
        None => text!("{}", EscapedBytes(&line)),
    }
}

#[cfg(test)]
mod tests {
    use agentgov_log_reader::Disagreement;
    use agentgov_log_reader::session::Reject;

    use super::*;
    use crate::print::capture;

    fn event(offset: i64, agent: &str, source: (&str, i64)) -> Entry {
        let event = Event {
            topic: "agent.actions".into(),
            partition: 3,
            offset,
            logged_at: 0,
            occurred_at: 0,
            source_id: source.0.into(),
            source_sequence: source.1,
            agent_id: agent.into(),
            event_type: "user.input".into(),
            role: String::new(),
            text: "".into(),
            tool: String::new(),
            call_id: String::new(),
            arguments: "".into(),
            result: "".into(),
            token_decision_id: String::new(),
            decision: String::new(),
            decision_reason: String::new(),
            decided_by: String::new(),
        };
        Entry::new(event)
    }

    fn session() -> SessionMatch {
        SessionMatch {
            tenant_id: "acme".into(),
            session_id: "s".into(),
            session_label: String::new(),
            agent_id: "clerk".into(),
            actor_id: String::new(),
        }
    }

    /// Returns a call that was allowed by the bundle `a 1`, and judged so.
    fn decided() -> (Event, CallDecision, Verdict) {
        let event = Event {
            event_type: catalogue::TOOL_INVOKED.into(),
            tool: "pay".into(),
            token_decision_id: "id-1".into(),
            ..event(9, "clerk", ("a", 7)).event
        };
        let decision = CallDecision {
            partition: 3,
            offset: 8,
            id: "id-1".into(),
            agent_id: "clerk".into(),
            tool: "pay".into(),
            call_id: String::new(),
            outcome: "allow".into(),
            reason: "granted".into(),
            decided_by: "pdp-1".into(),
            caller: "gateway".into(),
            violations: Vec::new(),
            bundle: "a 1".into(),
            bundle_digest: "aa".into(),
            known_digest: "00".into(),
            known_partition: 3,
            known_through: 7,
            unavailable: String::new(),
        };
        let verdict = Verdict {
            partition: 3,
            offset: 9,
            call_index: 0,
            decision: "allow".into(),
            reason: "granted".into(),
            determining: Vec::new(),
            violations: Vec::new(),
            modes: Vec::new(),
            effects: Vec::new(),
            known: "{}".into(),
            known_digest: "00".into(),
            errors: Vec::new(),
            bundle: "a 1".into(),
            bundle_digest: "aa".into(),
            findings: Vec::new(),
            prior_decision_finding: "matched".into(),
            prior_decision_cause: String::new(),
            prior_decision_id: "id-1".into(),
            prior_decision_outcome: "allow".into(),
            prior_decision_required: false,
        };
        (event, decision, verdict)
    }

    /// Returns the entry of a call whose decision its token proves.
    fn entry(event: Event, decision: CallDecision, verdict: Verdict) -> Entry {
        let disagreement = Disagreement::between(&decision, &verdict);
        let evidence = Some(DecisionEvidence::Token);
        Entry {
            decision: Some(decision),
            evidence,
            verdict: Some(verdict),
            disagreement,
            ..Entry::new(event)
        }
    }

    /// Returns the lines below the event of a call.
    fn shown(change: impl FnOnce(&mut Event, &mut CallDecision, &mut Verdict)) -> Vec<String> {
        let (mut event, mut decision, mut verdict) = decided();
        change(&mut event, &mut decision, &mut verdict);
        lines(&entry(event, decision, verdict)).split_off(1)
    }

    /// Returns the lines of an entry, without its first one.
    fn lines(entry: &Entry) -> Vec<String> {
        let entries = std::slice::from_ref(entry);
        let shown = capture::lines(|| print_session(&session(), entries, &BTreeMap::new()));
        let lines = shown.lines().skip_while(|line| !line.contains("agent.actions/3@"));
        lines.skip(1).map(|line| line.trim().to_owned()).collect()
    }

    #[test]
    fn decision_stands_above_its_verdict_with_what_differs() {
        let equal = [
            "decided allow (granted) by pdp-1 with a 1",
            "id id-1, known through agent.actions/3@7, asked by gateway",
            "verdict allow (granted) by a 1",
        ];
        assert_eq!(shown(|_, _, _| ()), equal);
        let differs = |change: &dyn Fn(&mut CallDecision, &mut Verdict)| {
            let lines = shown(|_, decision, verdict| change(decision, verdict));
            lines.last().unwrap().clone()
        };
        let by_bundle = |_: &mut CallDecision, verdict: &mut Verdict| {
            verdict.decision = "deny".into();
            verdict.bundle_digest = "bb".into();
        };
        assert_eq!(differs(&by_bundle), "differs decided allow, judged deny: by bundle");
        let named = |_: &mut CallDecision, verdict: &mut Verdict| {
            verdict.decision = "deny".into();
            verdict.known_digest = "01".into();
            verdict.prior_decision_cause = "records".into();
        };
        assert_eq!(differs(&named), "differs decided allow, judged deny: by records");
        let reason = |decision: &mut CallDecision, verdict: &mut Verdict| {
            (decision.outcome, verdict.decision) = ("deny".into(), "deny".into());
            (decision.reason, verdict.reason) = ("unavailable".into(), "policy".into());
            decision.unavailable = "stale".into();
        };
        assert_eq!(
            differs(&reason),
            "differs decided deny (unavailable), judged deny (policy): by unavailable"
        );
        let rules = |decision: &mut CallDecision, verdict: &mut Verdict| {
            decision.known_digest = "02".into();
            verdict.violations = vec!["limit".into(), "window".into()];
        };
        assert_eq!(
            differs(&rules),
            "differs decided allow without a violation, judged allow for limit, window: by known"
        );
    }

    #[test]
    fn decision_with_other_inputs_and_the_same_result_is_shown_in_json_only() {
        let inputs = |decision: &mut CallDecision| decision.known_digest = "02".into();
        let lines = shown(|_, decision, _| inputs(decision));
        assert!(lines.last().unwrap().starts_with("verdict allow"), "{lines:?}");
        let (event, mut decision, verdict) = decided();
        inputs(&mut decision);
        let json = serde_json::to_value(entry(event, decision, verdict)).unwrap();
        assert_eq!(json["disagreement"], serde_json::json!({ "parts": ["known_digest"], "cause": "known" }));
    }

    #[test]
    fn token_of_a_call_is_shown_if_it_is_missing_or_wrong() {
        let lines = shown(|call, _, _| call.token_decision_id.clear());
        assert_eq!(lines[2], "the call carries no token");
        let lines = shown(|_, decision, verdict| {
            decision.known_through = -1;
            decision.tool = "read".into();
            verdict.prior_decision_finding = "altered".into();
            verdict.prior_decision_cause = "tool".into();
        });
        let expected = [
            "altered token: decided allow (granted) on read by pdp-1 with a 1",
            "id id-1, no record of partition 3 was known, asked by gateway",
            "verdict allow (granted) by a 1",
            "token altered: tool",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn decision_without_a_verified_token_is_marked_as_claimed() {
        let (call, decision, verdict) = decided();
        let mut entry = entry(call.clone(), decision.clone(), verdict);
        entry.evidence = Some(DecisionEvidence::Claim);
        entry.other_events = 2;
        let claimed = "decided allow (granted) by pdp-1 with a 1 claimed, not verified";
        let others = "2 other events of this id state something else; any producer can write them";
        assert_eq!(lines(&entry)[1], claimed);
        assert_eq!(lines(&entry)[3], others);
        // A token without an event.
        entry.evidence = Some(DecisionEvidence::Token);
        let of_token = CallDecision { offset: -1, reason: String::new(), bundle: String::new(), ..decision };
        entry.decision = Some(of_token);
        let expected = "no event of this id agrees with the token: the reason is not known";
        assert_eq!((&*lines(&entry)[1], &*lines(&entry)[3]), ("decided allow by pdp-1 with aa", expected));

        let event = Event { decision: "allow".into(), decided_by: "the boss".into(), ..call };
        let mut made = Entry { evidence: Some(DecisionEvidence::Claim), ..Entry::new(event) };
        let line = "decision allow (no reason) on pay by the boss";
        assert_eq!(lines(&made), [format!("{line} claimed, not verified")]);
        made.evidence = Some(DecisionEvidence::Token);
        assert_eq!(lines(&made), [line]);
    }

    #[test]
    fn faults_of_a_record_and_of_its_deciding_are_shown() {
        let (call, _, mut verdict) = decided();
        verdict.prior_decision_finding = "undecided".into();
        verdict.violations = vec!["a".into(), "b".into(), "c".into()];
        verdict.modes = vec!["observe".into(), "enforce".into(), "enforce".into()];
        verdict.effects = vec!["deny".into(), "ask".into(), "deny".into()];
        let mut entry = Entry { verdict: Some(verdict), ..Entry::new(call) };
        let judged = ["verdict allow (granted) by a 1", "observed a", "asks b", "violates c"];
        assert_eq!(lines(&entry)[1..], judged, "no decision is required");
        entry.verdict.as_mut().unwrap().prior_decision_required = true;
        let undecided = "undecided the bundle requires a decision before each call";
        assert_eq!(lines(&entry).last().unwrap(), undecided);

        let reject = Reject {
            partition: 3,
            offset: 9,
            stage: "evaluator".into(),
            reason: "empty_source_id".into(),
            detail: "source.id is empty".into(),
        };
        entry.rejects = vec![reject];
        assert_eq!(lines(&entry)[1], "rejected (empty_source_id) by evaluator: source.id is empty");
        let duplicate = Verdict {
            decision: "duplicate".into(),
            reason: "duplicate".into(),
            bundle: " ".into(),
            ..Verdict::default()
        };
        entry = Entry { verdict: Some(duplicate), ..Entry::new(entry.event) };
        assert_eq!(lines(&entry).last().unwrap(), "verdict duplicate (duplicate)");
    }

    #[test]
    fn calls_and_results_show_the_id_that_matches_them() {
        let (call, ..) = decided();
        let call = Event { call_id: "c1".into(), arguments: "{}".into(), ..call };
        assert_eq!(lines(&Entry::new(call)), ["pay({})  call c1"]);
        let result = Event { result: "1".into(), call_id: "c1".into(), ..event(10, "clerk", ("a", 8)).event };
        assert_eq!(lines(&Entry::new(result)), ["→ 1  call c1"]);
    }

    #[test]
    fn denial_for_want_of_a_key_differs_by_the_key() {
        let lines = shown(|_, decision, _| {
            decision.outcome = "deny".into();
            decision.reason = "not_signed".into();
        });
        assert_eq!(lines.last().unwrap(), "differs decided deny, judged allow: by signing_key");
    }

    #[test]
    fn agent_is_named_where_it_changes_and_source_at_each_event() {
        let session = session();
        let entries = [
            event(1, "clerk", ("a", 7)),
            event(2, "refunds", ("b", 0)),
            event(3, "refunds", ("b", 1)),
            event(4, "clerk", ("a", 8)),
        ];
        let shown = capture::lines(|| print_session(&session, &entries, &BTreeMap::new()));
        let at = |offset, source: &str| {
            format!("1970-01-01T00:00:00Z  user.input  agent.actions/3@{offset}  {source}\n")
        };
        let expected = format!(
            "session s\n  id s · tenant acme · agent clerk\n\n{}\n{}  agent refunds\n\n{}\n{}  agent clerk\n",
            at(1, "a#7"),
            at(2, "b#0"),
            at(3, "b#1"),
            at(4, "a#8")
        );
        assert_eq!(shown, expected);
        let json = serde_json::to_value(&entries[1]).unwrap();
        let named = ["agent_id", "source_id", "source_sequence"].map(|field| json["event"][field].clone());
        assert_eq!(named, [serde_json::json!("refunds"), "b".into(), 0.into()]);
    }
}
