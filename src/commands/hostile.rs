//! Tests that commands escape text of records, files and servers: they print the same number of lines for hostile text as
//! for harmless text, and no character that a terminal interprets or hides.

use std::collections::BTreeMap;

use agentgov_audit::{Finding, FindingKind, Interval, Report as Audit};
use agentgov_importers::{ImportOptions, Input};
use agentgov_log_reader::approvals::AskedApproval;
use agentgov_log_reader::decided::DecidedCall;
use agentgov_log_reader::imported::{Counts, Latency, Violation};
use agentgov_log_reader::overview::{ActiveBundle, AlertCount, Gap, RejectCount, SkippedOffsets};
use agentgov_log_reader::session::{CallDecision, Entry, Event, Reject, SessionMatch, Verdict};
use agentgov_log_reader::{DecisionEvidence, Disagreement};
use agentgov_policy::testing;
use agentgov_registry::{
    AcceptedDefinition, Agent, AgentState, BundleEntry, DefinitionDiff, Listing, LoggedChange,
    RegisteredAgent, RegisteredTool, ToolEffect, ToolState, UnreadableRecord,
};
use agentgov_schemas::escape::{EscapedLines, is_escaped};
use agentgov_schemas::yaml::Problem;
use agentgov_schemas::{Digest, Millis};
use agentgov_service::ExitCode;
use agentgov_service::serve::StageReadiness;
use agentgov_status::{
    Answer, Fault, Group, GroupState, Health, HeldBack, Part, Process, Stage, Status, Table, TopicLag,
    TopologyState,
};
use agentgov_topology::{Action, ApplyError, Aspect, Difference, Plan};
use proptest::prelude::*;

use super::approvals::{ApprovalState, ListedApproval, ListedDecision};
use super::desk::report::DeskReport;
use super::desk::scenario::Step;
use super::inline::{Comparison, DifferingCall};
use super::registry::RegistryEntries;
use super::report::Report;
use crate::failure::Failure;
use crate::print::{Text, capture, errln, json, outln};

/// Returns the output of each command, by command name, with `text` in place of all outside text.
fn outputs(text: &str) -> Vec<(&'static str, String)> {
    let own = || text.to_owned();
    vec![
        ("session show", capture::lines(|| print_session(text))),
        ("approvals list", capture::lines(|| super::approvals::print_list(&[approval(text)]))),
        ("approvals show", capture::lines(|| super::approvals::print_approval(&approval(text)))),
        ("registry list", capture::lines(|| super::registry::print_entries(&registry_entries(text)))),
        ("registry show", capture::lines(|| print_history(text))),
        ("registry pin", capture::lines(|| print_diffs(text))),
        ("demo", capture::lines(|| outln!("{}", report(text).to_text(true)))),
        ("demo, ended", capture::lines(|| outln!("{}", report(text).to_text(false)))),
        ("demo --desk", capture::lines(|| outln!("{}", desk_report(text).to_text(true)))),
        ("demo --violations", super::demo::tab_separated(&[violation(text), violation(text)])),
        ("status", capture::lines(|| super::status::print_status(&status(text)))),
        ("audit completeness", capture::lines(|| super::audit::print_report(&audit(text)))),
        ("policy test", capture::lines(|| outln!("{}", EscapedLines(tests(text))))),
        ("topology plan", capture::lines(|| outln!("{}", EscapedLines(plan(text))))),
        ("up", capture::lines(|| outln!("{}", super::up::export("AGENTGOV_KAFKA", text)))),
        ("a failure", failure(&Failure::new(ExitCode::Failed, text))),
        ("problems", failure(&Failure::all(ExitCode::Config, "problems:", [problem(text), problem(text)]))),
        ("topology apply", failure(&Failure::report(ExitCode::Failed, ApplyError::Refused(plan(text))))),
        ("import", imported(text)),
        ("json", capture::lines(|| json(&BTreeMap::from([(own(), own())])).unwrap())),
    ]
}

fn failure(failure: &Failure) -> String {
    capture::lines(|| errln!("agentgov: {}", failure.message()))
}

fn print_session(text: &str) {
    let own = || text.to_owned();
    let found = SessionMatch {
        tenant_id: own(),
        session_id: own(),
        session_label: own(),
        agent_id: own(),
        actor_id: format!("x{text}"),
    };
    let known = serde_json::json!({
        "derived": { text: text, "list": [text] },
        "facts": [{ "kind": text, "key": text, "offset": 1 }],
    });
    let event = Event {
        topic: own(),
        partition: 0,
        offset: 1,
        logged_at: 0,
        occurred_at: 0,
        source_id: own(),
        source_sequence: 0,
        agent_id: own(),
        event_type: own(),
        role: format!("x{text}"),
        text: format!("x{text}").as_str().into(),
        tool: format!("x{text}"),
        call_id: own(),
        arguments: format!("x{text}").as_str().into(),
        result: format!("x{text}").as_str().into(),
        token_decision_id: format!("x{text}"),
        decision: own(),
        decision_reason: own(),
        decided_by: own(),
    };
    let verdict = verdict(text, known.to_string());
    let decision = CallDecision {
        partition: 0,
        offset: 0,
        id: own(),
        agent_id: own(),
        tool: own(),
        call_id: own(),
        outcome: own(),
        reason: own(),
        decided_by: own(),
        caller: format!("x{text}"),
        violations: vec![own()],
        bundle: own(),
        bundle_digest: own(),
        known_digest: own(),
        known_partition: 0,
        known_through: 0,
        unavailable: String::new(),
    };
    let disagreement = Some(Disagreement { parts: vec!["outcome"], cause: own() });
    let reject = Reject { partition: 0, offset: 1, stage: own(), reason: own(), detail: own() };
    let entry = Entry {
        event,
        decision: Some(decision),
        evidence: Some(DecisionEvidence::Claim),
        other_events: 1,
        verdict: Some(verdict),
        rejects: vec![reject],
        disagreement,
    };
    super::session::print_session(&found, &[entry], &BTreeMap::new());
}

fn approval(text: &str) -> ListedApproval {
    let own = || text.to_owned();
    ListedApproval {
        asked: AskedApproval {
            id: own(),
            tenant_id: own(),
            environment: own(),
            session_id: own(),
            agent_id: own(),
            actor_id: format!("x{text}"),
            tool: own(),
            call_id: own(),
            arguments: text.into(),
            comment: format!("x{text}"),
            asked_at: 0,
            expires_at: 0,
        },
        arguments_sha256: own(),
        state: ApprovalState::Open,
        decision: Some(ListedDecision { approver: own(), granted: true, reason: own(), decided_at: 0 }),
        used_by: vec![1],
    }
}

fn registry_entries(text: &str) -> RegistryEntries {
    let own = || text.to_owned();
    let unreadable = || vec![UnreadableRecord { offset: 3, reason: own() }];
    let agent = Agent {
        tenant_id: own(),
        agent_id: own(),
        name: own(),
        owner: own(),
        roles: vec![own(), own()],
        state: AgentState::Active,
        description: Some(own()),
        sponsor: Some(own()),
        version: Some(own()),
        environments: vec![own()],
    };
    let tool = RegisteredTool {
        tenant_id: own(),
        server: Some(own()),
        name: own(),
        owner: own(),
        effect: Some(ToolEffect::Read),
        data_classes: vec![own()],
        description: Some(own()),
        state: ToolState::Suspended,
        reason: own(),
        definition: definition(text),
    };
    let bundle = BundleEntry {
        offset: 1,
        logged_at: Millis(0),
        name: own(),
        version: own(),
        digest: Digest::of(text.as_bytes()),
        environments: vec![own()],
        last_in: vec![own()],
        files: vec![own()],
        policies: vec![own()],
        pushed_by: own(),
    };
    RegistryEntries {
        agents: Listing { entries: vec![RegisteredAgent { agent, reason: own() }], unreadable: unreadable() },
        tools: Listing { entries: vec![tool], unreadable: unreadable() },
        bundles: Listing { entries: vec![bundle], unreadable: unreadable() },
    }
}

fn definition(text: &str) -> AcceptedDefinition {
    let json = serde_json::json!({ "name": text, "description": text }).to_string();
    AcceptedDefinition { digest: Some(Digest::of(json.as_bytes())), json }
}

fn print_history(text: &str) {
    let RegistryEntries { agents, tools, .. } = registry_entries(text);
    let logged = (3, Millis(0), text.to_owned());
    fn change<E>((offset, logged_at, pushed_by): (i64, Millis, String), entry: E) -> LoggedChange<E> {
        LoggedChange { offset, logged_at, pushed_by, entry }
    }
    let agent = agents.entries.into_iter().next().map(|agent| change(logged.clone(), agent));
    let tool = tools.entries.into_iter().next().map(|tool| change(logged, tool));
    super::registry::history::print_selection(&super::registry::history::Selection {
        agents: agent.iter().collect(),
        tools: tool.iter().collect(),
        unreadable: agents.unreadable.iter().collect(),
    });
}

fn print_diffs(text: &str) {
    let other = AcceptedDefinition { digest: Some(Digest::of(b"")), json: "{}".to_owned() };
    let none = AcceptedDefinition::default;
    let diffs = [
        DefinitionDiff::new(text, other, definition(text)),
        DefinitionDiff::new(text, none(), definition(text)),
        DefinitionDiff::new(text, definition(text), none()),
    ];
    super::registry::pin::print_diffs(&diffs);
}

fn verdict(text: &str, known: String) -> Verdict {
    let own = || text.to_owned();
    Verdict {
        partition: 0,
        offset: 1,
        call_index: 0,
        decision: own(),
        reason: own(),
        determining: vec![own()],
        violations: vec![own()],
        modes: vec![own()],
        effects: vec![own()],
        known,
        known_digest: own(),
        errors: vec![own()],
        bundle: own(),
        bundle_digest: own(),
        findings: vec![own()],
        prior_decision_finding: own(),
        prior_decision_cause: own(),
        prior_decision_id: own(),
        prior_decision_outcome: own(),
        prior_decision_required: true,
    }
}

fn violation(text: &str) -> Violation {
    let own = || text.to_owned();
    Violation {
        session_id: own(),
        session: own(),
        call: 1,
        tool: own(),
        policy: own(),
        severity: own(),
        mode: own(),
        alerted: true,
    }
}

fn inline(text: &str) -> Comparison {
    let own = || text.to_owned();
    let call = DecidedCall {
        session: own(),
        call: 1,
        tool: own(),
        decision_id: own(),
        decided: own(),
        decided_reason: own(),
        decided_violations: vec![own()],
        decided_known: own(),
        judged: own(),
        judged_reason: own(),
        judged_violations: vec![own()],
        judged_known: own(),
    };
    Comparison {
        asked: 1,
        asked_again: 0,
        allowed: 1,
        denied: 0,
        asked_a_person: 0,
        indeterminate: 0,
        differed: 1,
        p50_ms: Some(1.0),
        errors: vec![own()],
        differences: vec![DifferingCall { call, differs: vec!["outcome"] }],
    }
}

fn report(text: &str) -> Report {
    let counts = Counts {
        sessions: 1,
        events: 2,
        rows: 2,
        tool_calls: 1,
        undecodable: 0,
        allowed: 1,
        denied: 1,
        asked: 0,
        indeterminate: 0,
        without_grant: 1,
    };
    Report {
        audit: Some(audit(text)),
        inline: Some(inline(text)),
        input: text.to_owned(),
        counts,
        latency: Latency { verdict_p50: Some(1.0), verdict_p99: Some(1.0), alert_p50: None, alert_p99: None },
        violations: vec![violation(text), violation(text)],
        bundle: text.to_owned(),
        policies: Vec::new(),
        pipeline_ms: 1,
        total_ms: 1,
    }
}

fn desk_report(text: &str) -> DeskReport {
    let own = || text.to_owned();
    let step = Step {
        call: "write",
        tool: "write_file",
        outcome: own(),
        by: own(),
        effect: "unchanged",
        is_expected: false,
        answer: own(),
        approval_id: own(),
    };
    DeskReport {
        server: own(),
        session_id: own(),
        approver: "someone",
        steps: vec![step.clone(), step],
        verdicts: vec![verdict(text, text.to_owned())],
        calls: inline(text).differences.into_iter().map(|differing| differing.call).collect(),
        violations: vec![Violation { alerted: false, ..violation(text) }],
        rules: Vec::new(),
        audit: Some(audit(text)),
        total_ms: 1,
    }
}

fn audit(text: &str) -> Audit {
    let intervals = || vec![Interval { of: text.to_owned(), first: 1, last: 2 }; 3];
    let finding = |kind| Finding {
        kind,
        count: 1,
        first: text.to_owned(),
        places: vec![text.to_owned(); 2],
        more_places: 1,
        by_partition: [(0, 1), (1, 1)].into(),
        intervals: intervals(),
        more_intervals: 1,
    };
    Audit { findings: FindingKind::ALL.into_iter().map(finding).collect(), ..Audit::default() }
}

fn tests(text: &str) -> testing::Report {
    let own = || text.to_owned();
    let case = testing::Case { file: own(), line: 1, name: own(), failures: vec![problem(text)] };
    testing::Report { cases: vec![case], problems: vec![problem(text)], never_violated: vec![own()] }
}

fn problem(text: &str) -> Problem {
    Problem { file: text.to_owned(), line: 1, column: 1, message: text.to_owned() }
}

fn plan(text: &str) -> Plan {
    let own = || text.to_owned();
    let difference = |aspect, action| Difference {
        kind: agentgov_topology::Kind::Topic,
        name: own(),
        aspect,
        expected: own(),
        found: own(),
        action,
    };
    Plan {
        differences: vec![
            difference(Aspect::Whole, Action::Create),
            difference(Aspect::Partitions, Action::Create),
            difference(Aspect::Compatibility, Action::Change),
            difference(Aspect::Version(1), Action::Refuse { to_do: own() }),
        ],
        notes: vec![own()],
        topics: 1,
        subjects: 1,
    }
}

/// Returns the importer's messages for lines that each quote `text`.
fn imported(text: &str) -> String {
    let lines = [
        serde_json::json!({ "task_id": { "x": text }, "trial": text, "messages": text }),
        serde_json::json!({ "task_id": text, "trial": 0, "messages": [{ "role": text, "content": 1 }] }),
    ];
    let bad = lines.map(|line| line.to_string()).join("\n");
    // A run that is imported with notes.
    let good =
        serde_json::json!({ "messages": [{ "role": "user", "content": [{ "type": text }], (text): [1] }] });
    let options = ImportOptions {
        tenant_id: "t".to_owned(),
        environment: "e".to_owned(),
        agent_id: "a".to_owned(),
        agent_version: None,
        start_time: None,
        now: agentgov_schemas::Micros(0),
        label: None,
        skip_bad: false,
    };
    let read = |file: &str| {
        let input = Input::bytes(text, file.as_bytes());
        match super::import::read(input, options.clone()) {
            Ok(import) => Text::join(&super::import::notes(&import), "\n").to_string(),
            Err(error) => failure(&error),
        }
    };
    format!("{}\n{}", read(&bad), read(&good.to_string()))
}

fn status(text: &str) -> Status {
    let own = || text.to_owned();
    let part = |answers| Part { name: own(), address: own(), answers, detail: own(), answer_ms: 1 };
    let lag = || TopicLag { topic: own(), records: 1, oldest_seconds: Some(1.0) };
    let held = HeldBack {
        topic: own(),
        partition: 0,
        offset: 0,
        records: 1,
        since: 0,
        seconds: 6.0,
        description: own(),
    };
    let group = Group {
        state: GroupState::Stable,
        members: 1,
        held: 1,
        partitions: 1,
        lag: vec![lag(), lag()],
        held_back: vec![held],
    };
    let stage = |state| Stage { name: own(), group: own(), state };
    let readiness = StageReadiness {
        stage: own(),
        not_ready: BTreeMap::from([(own(), own())]),
        hangs: Some(own()),
        progress_age_seconds: 1.0,
    };
    let table = |rows| Table { name: own(), rows, newest: Some(0) };
    Status {
        health: Health::Unhealthy,
        at: 0,
        parts: vec![part(true), part(false)],
        topology: Answer::Known(TopologyState { topics: 1, subjects: 1, differences: vec![own()] }),
        stages: vec![stage(Answer::Known(group)), stage(Answer::Unknown(own()))],
        processes: vec![Process { url: own(), away: Some(own()), version: own(), stages: vec![readiness] }],
        decision_points: vec![Process { url: own(), away: Some(own()), version: own(), stages: vec![] }],
        tables: vec![table(Answer::Known(1)), table(Answer::Unknown(own()))],
        rejects_last_hour: Answer::Known(vec![RejectCount { stage: own(), reason: own(), count: 1 }]),
        alerts_last_hour: Answer::Known(vec![AlertCount { severity: own(), opened: 1, violations: 1 }]),
        stops_last_day: Answer::Known(vec![]),
        gaps: Answer::Known(vec![Gap { topic_partition: own(), from: 0, to: 1, accepted_at: 0 }]),
        skipped: Answer::Known(vec![SkippedOffsets {
            topic_partition: own(),
            offsets: 1,
            from: 0,
            to: 1,
            logged_at: 0,
        }]),
        bundles: Answer::Known(vec![ActiveBundle {
            environment: own(),
            name: own(),
            version: own(),
            digest: own(),
            pushed_at: 0,
            pushed_by: own(),
        }]),
        wrong: vec![Fault { what: own(), to_do: own() }],
    }
}

fn hostile() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "\n",
            "\r",
            "\t",
            "\u{1b}[2K",
            "\u{1b}]0;x\u{7}",
            "\u{9b}1A",
            "\u{85}",
            "\u{2028}",
            "\u{202e}",
            "\u{200b}",
            "\u{feff}",
            "\u{7f}",
            "\0",
            "\u{8}",
            "\\",
            "'",
            "\"",
            "$(id)",
            "--",
            "x",
            "ü",
            "\n  verdict allow",
        ])
        .prop_map(str::to_owned),
        any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(piece, 1..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn commands_escape_outside_text(text in hostile()) {
        console::set_colors_enabled(false);
        let lines = |printed: &str| printed.matches('\n').count();
        for ((command, harmless), (_, printed)) in outputs("x").into_iter().zip(outputs(&text)) {
            let separator = |c| c == '\n' || (c == '\t' && command == "demo --violations");
            prop_assert!(!printed.contains(|c| !separator(c) && is_escaped(c)), "{}: {:?}", command, printed);
            prop_assert_eq!(lines(&printed), lines(&harmless), "{}: {}", command, printed);
            let tabs = |printed: &str| printed.matches('\t').count();
            prop_assert_eq!(tabs(&printed), tabs(&harmless), "{}: {}", command, printed);
        }
    }
}

#[test]
fn suggested_command_is_quoted_and_never_an_option() {
    let suggested = |label: &str, id: &str| {
        let mut report = report("x");
        report.violations =
            vec![Violation { session: label.to_owned(), session_id: id.to_owned(), ..violation("x") }];
        let text = report.to_text(true).to_string();
        let line = text.lines().find(|line| line.contains("session show")).unwrap_or_default().to_owned();
        line.trim().strip_prefix("agentgov session show ").unwrap_or_default().to_owned()
    };
    for (label, id, expected) in [
        ("7/2", "id", "7/2 "),
        ("a b; rm -rf ~", "id", "'a b; rm -rf ~' "),
        ("it's $(id)", "id", "\"it's \"'$(id)' "),
        ("a\tb", "0190-id", "0190-id "),
        ("\u{1b}[2K", "\n", "ID "),
        ("--tenant=x", "id", "-- '--tenant=x' "),
        (r"a\u{41}", "id", r#""a\\u{41}" "#),
    ] {
        let found = suggested(label, id);
        assert!(found.starts_with(expected), "{label:?}: expected {expected}, found {found}");
    }
}
