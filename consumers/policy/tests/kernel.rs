//! The kernel: decisions and reasons, which depend only on the events and the tables.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail loudly"
)]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use agentgov_enrichment::{AgentTable, Session};
use agentgov_policy::{
    ApprovalClaim, Bundle, BundleFiles, BundleTable, FoldOutcome, Judgement, Kernel, Problem, RequestCache,
    generated_schema,
};
use agentgov_schemas::event::{ActionEvent, Message, ToolCall, ToolResult};
use agentgov_schemas::governance::{self, AgentEntry, AgentState, BundleFile};
use agentgov_schemas::verdict::{Decision, ErrorCode, Reason, RecordFinding};
use agentgov_schemas::{Digest, Micros, Millis, OpenEnum, catalogue};
use proptest::prelude::*;
use support::{EventContent, Replay, kernel, no_limits, payload, with_event};

const TOOLS: &str = "
default:
  effect: external
  states: [{ fact: thing, key: result.id }]
tools:
  look: { effect: read }
  change:
    effect: write
    refers: { thing: input.id }
    derived:
      n: { type: Long, value: input.n }
      names: { type: Set<String>, value: input.names }
      known: { type: Bool, value: input.id in facts.thing }
";

const GRANT: &str = "@id(\"all\") permit (principal in Role::\"clerk\", action, resource);";

/// Returns the files of a bundle with these policies and the schema of its tools.
fn files(policies: &str) -> BundleFiles {
    let mut files = BTreeMap::from([
        ("bundle.yaml".to_owned(), b"name: b\nversion: '1'\nenvironments: [demo]\n".to_vec()),
        ("tools.yaml".to_owned(), TOOLS.into()),
        ("rules.cedar".to_owned(), policies.into()),
    ]);
    let schema = generated_schema(&BundleFiles(files.clone())).unwrap();
    files.insert("schema.cedarschema".to_owned(), schema.into());
    BundleFiles(files)
}

fn table(policies: &str) -> BundleTable {
    match Bundle::compile(&files(policies)) {
        Ok(bundle) => BundleTable::with_bundle(Arc::new(bundle)),
        Err(problems) => panic!("{problems:#?}"),
    }
}

fn agents(state: Option<&str>) -> AgentTable {
    let mut agents = AgentTable::default();
    if let Some(state) = state {
        agents.fold(&AgentEntry { state: OpenEnum::from_name(state), ..agent("clerk") }, 11);
    }
    agents
}

fn agent(role: &str) -> AgentEntry<'_> {
    AgentEntry {
        owner: "us",
        roles: vec![role],
        ..AgentEntry::new("airline", "airline-service", AgentState::Active)
    }
}

fn call<'a>(name: &'a str, arguments: &'a str) -> EventContent<'a> {
    let tool = ToolCall::new(name, "c", payload(arguments.as_bytes()));
    EventContent { kind: "tool.invoked", tool: Some(tool), ..EventContent::default() }
}

fn judge(policies: &str, state: Option<&str>, content: EventContent<'_>) -> Judgement<'static> {
    // Leaked once per verdict, which is acceptable in a test.
    let (agents, bundles) = (Box::leak(Box::new(agents(state))), Box::leak(Box::new(table(policies))));
    Replay::new(kernel(agents, bundles)).apply(content).unwrap()
}

fn ids(policies: &[Arc<agentgov_policy::Policy>]) -> Vec<&str> {
    policies.iter().map(|policy| policy.id.as_str()).collect()
}

fn rule(id: &str, more: &str, when: &str) -> String {
    format!(
        "@id(\"{id}\") @severity(\"high\") {more} forbid (principal, action, resource) when {{ {when} }};\n"
    )
}

#[test]
fn policies_and_agent_state_give_decision_and_reason() {
    use Decision::{Allow, Ask, Deny, Indeterminate};
    use Reason::{Error, Granted, NoGrant, Policy, Suspended};
    let deny = rule("a-deny", "", "context has n && context.n > 1");
    let ask = rule("b-ask", "@effect(\"ask\")", "context has n && context.n > 0");
    let watch = rule("c-watch", "@mode(\"observe\")", "context has n");
    let overflow = rule("d-error", "", "context has n && context.n + 9223372036854775807 > 0");
    let watched_error =
        rule("e-error", "@mode(\"observe\")", "context has n && context.n + 9223372036854775807 > 0");
    let all = format!("{GRANT}{deny}{ask}{watch}");
    let broken = format!("{GRANT}{deny}{ask}{watch}{overflow}");
    let watched = format!("{GRANT}{watched_error}");
    let ungranted = format!("{deny}{ask}{watch}");
    for (policies, state, n, decision, reason, violations, determining, errors) in [
        (&all, Some("active"), "{}", Allow, Granted, vec![], vec!["all"], vec![]),
        (&all, Some("active"), r#"{"n":0}"#, Allow, Granted, vec!["c-watch"], vec!["all"], vec![]),
        (&all, Some("active"), r#"{"n":1}"#, Ask, Policy, vec!["b-ask", "c-watch"], vec!["b-ask"], vec![]),
        (
            &all,
            Some("active"),
            r#"{"n":2}"#,
            Deny,
            Policy,
            vec!["a-deny", "b-ask", "c-watch"],
            vec!["a-deny", "b-ask"],
            vec![],
        ),
        // Without a grant nothing is allowed.
        // A suspended agent is denied whatever the policies decide, and its violations and errors are still listed.
        (&all, Some("suspended"), "{}", Deny, Suspended, vec![], vec![], vec![]),
        (&all, Some("suspended"), r#"{"n":0}"#, Deny, Suspended, vec!["c-watch"], vec![], vec![]),
        (
            &all,
            Some("suspended"),
            r#"{"n":2}"#,
            Deny,
            Suspended,
            vec!["a-deny", "b-ask", "c-watch"],
            vec!["a-deny", "b-ask"],
            vec![],
        ),
        (
            &broken,
            Some("suspended"),
            r#"{"n":1}"#,
            Deny,
            Suspended,
            vec!["b-ask", "c-watch"],
            vec!["b-ask"],
            vec!["d-error"],
        ),
        (&all, Some("retired"), r#"{"n":0}"#, Deny, NoGrant, vec!["c-watch"], vec![], vec![]),
        (&all, None, "{}", Deny, NoGrant, vec![], vec![], vec![]),
        (
            &all,
            None,
            r#"{"n":2}"#,
            Deny,
            Policy,
            vec!["a-deny", "b-ask", "c-watch"],
            vec!["a-deny", "b-ask"],
            vec![],
        ),
        (
            &ungranted,
            Some("active"),
            r#"{"n":1}"#,
            Deny,
            NoGrant,
            vec!["b-ask", "c-watch"],
            vec!["b-ask"],
            vec![],
        ),
        // A rule that fails never allows a call, and does not hide other rules.
        (&broken, Some("active"), "{}", Allow, Granted, vec![], vec!["all"], vec![]),
        (
            &broken,
            Some("active"),
            r#"{"n":0}"#,
            Deny,
            Policy,
            vec!["c-watch", "d-error"],
            vec!["d-error"],
            vec![],
        ),
        (
            &broken,
            Some("active"),
            r#"{"n":1}"#,
            Indeterminate,
            Error,
            vec!["b-ask", "c-watch"],
            vec!["b-ask"],
            vec!["d-error"],
        ),
        (
            &broken,
            Some("active"),
            r#"{"n":2}"#,
            Deny,
            Policy,
            vec!["a-deny", "b-ask", "c-watch"],
            vec!["a-deny", "b-ask"],
            vec!["d-error"],
        ),
        // An observed rule decides nothing.
        (&watched, Some("active"), r#"{"n":1}"#, Allow, Granted, vec![], vec!["all"], vec!["e-error"]),
    ] {
        let judged = judge(policies, state, call("change", n));
        assert_eq!((judged.decision, judged.reason), (decision, reason), "{state:?} {n}");
        assert_eq!(ids(&judged.violations), violations, "{state:?} {n}");
        assert_eq!(ids(&judged.determining), determining, "{state:?} {n}");
        let found: Vec<&str> = judged
            .errors
            .iter()
            .filter(|e| e.code == ErrorCode::PolicyError)
            .map(|e| e.subject.as_str())
            .collect();
        assert_eq!(found, errors, "{state:?} {n}");
    }
}

/// Policies that read an erred value do not decide; other policies decide as usual.
#[test]
fn rule_mentioning_an_erred_value_is_indeterminate() {
    use Decision::{Allow, Ask, Deny, Indeterminate};
    use Reason::{Error, Granted, NoGrant, Policy};
    let big = |more| rule("big", more, "context has n && context.n > 100");
    let small =
        "@id(\"small\") permit (principal, action, resource) when { context has n && context.n < 9 };";
    let unless =
        "@id(\"unless\") permit (principal, action, resource) unless { context has n && context.n > 100 };";
    let look = rule("look", "", "resource == Tool::\"look\" && context has n && context.n > 100");
    let either = rule("either", "", "resource == Tool::\"change\" || (context has n && context.n > 100)");
    let named = rule("named", "@effect(\"ask\")", "context has names && context.names.contains(\"x\")");
    for (policies, input, decision, reason) in [
        (format!("{GRANT}{}", big("")), r#"{"n":"x"}"#, Indeterminate, Error),
        (format!("{GRANT}{}", big("")), r#"{"n":1.5}"#, Indeterminate, Error),
        (format!("{GRANT}{}", big("")), r#"{"n":1e400}"#, Indeterminate, Error),
        (format!("{GRANT}{}", big("")), r#"{"n":"#, Indeterminate, Error),
        (format!("{GRANT}{}", big("@effect(\"ask\")")), r#"{"n":"x"}"#, Indeterminate, Error),
        // A missing value is not an error.
        (format!("{GRANT}{}", big("")), "{}", Allow, Granted),
        // A policy that does not read the value decides: a deny, or no_grant. A request for approval does not decide.
        (format!("{GRANT}{}{}", big(""), rule("every", "", "true")), r#"{"n":"x"}"#, Deny, Policy),
        (format!("{GRANT}{either}"), r#"{"n":"x"}"#, Deny, Policy),
        (big(""), r#"{"n":"x"}"#, Deny, NoGrant),
        (format!("{GRANT}{}{named}", big("")), r#"{"n":"x","names":["x"]}"#, Indeterminate, Error),
        (format!("{GRANT}{named}"), r#"{"n":"x","names":["x"]}"#, Ask, Policy),
        (format!("{GRANT}{look}"), r#"{"n":"x"}"#, Allow, Granted),
        (
            format!("{GRANT}{}", rule("other", "", "context has known && context.known")),
            r#"{"n":"x"}"#,
            Allow,
            Granted,
        ),
        // Observed rules and rules that opt out.
        (format!("{GRANT}{}", big("@mode(\"observe\")")), r#"{"n":"x"}"#, Allow, Granted),
        (format!("{GRANT}{}", big("@on_error(\"ignore\")")), r#"{"n":"x"}"#, Allow, Granted),
        (format!("{GRANT}{}", big("@on_error(\"indeterminate\")")), r#"{"n":"x"}"#, Indeterminate, Error),
        (
            format!(
                "{GRANT}{}",
                rule("over", "@on_error(\"ignore\")", "context has n && context.n + 9223372036854775807 > 0")
            ),
            r#"{"n":1}"#,
            Allow,
            Granted,
        ),
        // A grant that reads the value grants nothing; another grant does.
        (small.to_owned(), r#"{"n":"x"}"#, Deny, NoGrant),
        (unless.to_owned(), r#"{"n":"x"}"#, Indeterminate, Error),
        (unless.to_owned(), r#"{"n":1}"#, Allow, Granted),
        (format!("{GRANT}{unless}"), r#"{"n":"x"}"#, Allow, Granted),
    ] {
        let judged = judge(&policies, Some("active"), call("change", input));
        assert_eq!(
            (judged.decision, judged.reason),
            (decision, reason),
            "{policies} {input} {:?}",
            judged.errors
        );
        assert_eq!(
            judged.known.contains("erred"),
            input != "{}" && input != r#"{"n":1}"#,
            "{}",
            judged.known
        );
    }
}

/// A time outside of the calendar is an error for policies that read it.
#[test]
fn occurred_at_beyond_the_calendar_errs() {
    let late = rule("late", "", "context has time && context.time > datetime(\"2024-01-01\")");
    for (policies, decision, errors) in [
        (format!("{GRANT}{late}"), Decision::Indeterminate, vec!["derived_error time"]),
        (GRANT.to_owned(), Decision::Allow, vec![]),
    ] {
        let content = EventContent { second: 1 << 40, ..call("look", "{}") };
        let judged = judge(&policies, Some("active"), content);
        assert_eq!(judged.decision, decision);
        let found: Vec<String> = judged.errors.iter().map(|e| format!("{} {}", e.code, e.subject)).collect();
        assert_eq!(found, errors);
    }
}

/// An unreadable result may replace any older fact of its kind.
#[test]
fn unreadable_result_makes_older_facts_uncertain() {
    let (agents, bundles) = (
        agents(Some("active")),
        table(&format!("{GRANT}{}", rule("unknown", "", "!(context has known && context.known)"))),
    );
    let mut replay = Replay::new(kernel(&agents, &bundles));
    let mut result = |content: &str| {
        let result =
            ToolResult { call_id: "", name: None, is_error: None, content: payload(content.as_bytes()) };
        replay.apply(EventContent {
            kind: "tool.response_received",
            result: Some(result),
            ..EventContent::default()
        });
        let asked = ["A1", "A2"].map(|id| {
            let arguments = format!(r#"{{"id":"{id}"}}"#);
            let judged = replay.apply(call("change", &arguments)).unwrap();
            (judged.decision, judged.errors.iter().any(|e| e.message.contains("offset")))
        });
        (asked[0], asked[1])
    };
    use Decision::{Allow, Deny};
    let (known, unknown, doubted) = ((Allow, false), (Deny, false), (Deny, true));
    for (content, expected) in [
        (r#"{"id":"A1"}"#, (known, unknown)),
        ("Error: no such thing", (known, unknown)),
        ("Error: {n} of [x] (y)", (known, unknown)),
        ("[1] see above", (known, unknown)),
        ("", (known, unknown)),
        (r#""A2""#, (known, unknown)),
        ("null", (known, unknown)),
        ("[]", (known, unknown)),
        (r#"{"id":null}"#, (known, unknown)),
        (r#"{"name":NaN}"#, (known, unknown)),
    ] {
        assert_eq!(result(content), expected, "{content}");
    }
    // The unreadable result may be about any order.
    assert_eq!(result(r#"{"id":"A2","cut o"#), (known, doubted));
    assert_eq!(result(r#"{"id":"A2"}"#), (known, known));
}

/// A fact that was dropped at the end of a session differs from a fact that never existed.
#[test]
fn missing_fact_after_the_end_is_an_error() {
    let (agents, bundles) = (
        agents(Some("active")),
        table(&format!("{GRANT}{}", rule("known", "", "context has known && context.known"))),
    );
    let mut replay = Replay::new(kernel(&agents, &bundles));
    let mut decided = |content: Option<&str>| {
        if let Some(content) = content {
            let content = payload(content.as_bytes());
            let result = ToolResult { call_id: "", name: None, is_error: None, content };
            replay.apply(EventContent {
                kind: "tool.response_received",
                result: Some(result),
                ..EventContent::default()
            });
        } else {
            replay.apply(EventContent { kind: "session.ended", ..EventContent::default() });
        }
        replay.apply(call("change", r#"{"id":"A1"}"#)).unwrap().decision
    };
    assert_eq!(decided(Some("nothing")), Decision::Allow);
    assert_eq!(decided(Some(r#"{"id":"A1"}"#)), Decision::Deny);
    assert_eq!(decided(None), Decision::Indeterminate);
    assert_eq!(decided(Some(r#"{"id":"A2"}"#)), Decision::Indeterminate);
    assert_eq!(decided(Some(r#"{"id":"A1"}"#)), Decision::Deny);
}

/// `decide` and `step` deny each call of a suspended agent: with every kind of policy, without a bundle, without a tool, and with
/// unreadable arguments. No other state has this reason.
#[test]
fn every_call_of_a_suspended_agent_is_denied_as_suspended() {
    let denied = (Decision::Deny, Reason::Suspended);
    let without_tool = EventContent { kind: "tool.invoked", ..EventContent::default() };
    let calls = [call("change", r#"{"n":1}"#), call("change", "{"), call("no-such-tool", "{}"), without_tool];
    let active = [
        BundleTable::default(),
        table(GRANT),
        table(&rule("r", "", "true")),
        table(&format!("{GRANT}{}", rule("ask", "@effect(\"ask\")", "true"))),
    ];
    for bundles in &active {
        for content in calls {
            for state in [Some("suspended"), Some("active"), Some("retired"), Some("on leave"), None] {
                let agents = agents(state);
                let kernel = kernel(&agents, bundles);
                let stepped = Replay::new(kernel).apply(content).unwrap();
                let decided = with_event(content, 0, |event, _| {
                    kernel.decide(&Session::new(), event, ApprovalClaim::Ignored).unwrap()
                });
                for judged in [&stepped, &decided] {
                    let found = (judged.decision, judged.reason);
                    assert_eq!(found == denied, state == Some("suspended"), "{state:?}: {found:?}");
                }
                assert_eq!(stepped.known, decided.known);
            }
        }
    }
}

#[test]
fn repeat_of_a_suspended_agents_call_is_a_duplicate() {
    let (agents, bundles) = (agents(Some("suspended")), table(GRANT));
    let (kernel, mut session) = (kernel(&agents, &bundles), Session::new());
    let mut step = || {
        with_event(call("look", "{}"), 0, |event, origin| {
            kernel.step(&mut session, event, origin).unwrap().verdict.unwrap().reason
        })
    };
    assert_eq!([step(), step()], [Reason::Suspended, Reason::Duplicate]);
}

#[test]
fn call_without_bundle_or_tool_is_indeterminate() {
    let (agents, bundles) = (agents(Some("active")), BundleTable::default());
    let judged = Replay::new(kernel(&agents, &bundles)).apply(call("look", "{}")).unwrap();
    assert_eq!((judged.decision, judged.reason), (Decision::Indeterminate, Reason::NoBundle));
    assert_eq!(judged.call_index, Some(0));

    let judged =
        judge(GRANT, Some("active"), EventContent { kind: "tool.invoked", ..EventContent::default() });
    assert_eq!(judged.decision, Decision::Indeterminate);
    assert_eq!(judged.errors[0].code, ErrorCode::ToolMissing);

    // No policy reads the unreadable arguments.
    let judged = judge(GRANT, Some("active"), call("change", "{"));
    assert_eq!(judged.decision, Decision::Allow);
    assert_eq!(judged.errors[0].code, ErrorCode::ArgumentsNotJson);

    let (agents, bundles) = (agents, table(GRANT));
    let mut replay = Replay::new(kernel(&agents, &bundles));
    for kind in ["session.started", "user.input", "made.up", "tool.response_received"] {
        assert!(replay.apply(EventContent { kind, ..EventContent::default() }).is_none(), "{kind}");
    }
}

#[test]
fn repeated_event_changes_nothing() {
    let (agents, bundles) = (agents(Some("active")), table(GRANT));
    let kernel = kernel(&agents, &bundles);
    let mut session = Session::new();
    let mut content = Vec::new();
    for sequence in [0, 1, 2, 1, 2, 5, 4, 4, 6, 0] {
        support::with_event(call("look", "{}"), sequence, |event, origin| {
            // A repeat may have another `occurred_at`.
            let event = ActionEvent { occurred_at: Micros(session.events()), ..event.clone() };
            let before = session.header().events;
            let step = kernel.step(&mut session, &event, origin).unwrap();
            let judged = step.verdict.unwrap();
            let verdict = judged.verdict(&event, origin);
            let duplicate =
                verdict.duplicate_of.map(|d| (d.source_id.to_owned(), d.sequence, d.last_sequence));
            assert_eq!(step.changes.is_empty(), duplicate.is_some());
            assert_eq!(session.header().events - before, i64::from(duplicate.is_none()));
            if duplicate.is_some() {
                assert_eq!(verdict.decision, Decision::Duplicate);
                assert_eq!(verdict.reason, Reason::Duplicate);
                assert!(verdict.violations.is_empty() && verdict.call_index.is_none());
            }
            content.push((duplicate.map(|(_, sequence, last)| (sequence, last)), judged.findings.clone()));
        });
    }
    let new = || (None, vec![]);
    let late = || (None, vec![RecordFinding::OutOfOrder]);
    let again = |sequence, last| (Some((sequence, last)), vec![]);
    let expected =
        [new(), new(), new(), again(1, 2), again(2, 2), new(), late(), again(4, 5), new(), again(0, 6)];
    assert_eq!(content, expected);
    assert_eq!(session.tool_calls(), 6);
}

/// A republished spool repeats the last numbers of a dead source and then continues. An import that runs twice repeats all numbers
/// with another time.
#[test]
fn republished_spool_and_repeated_import_count_once() {
    const EVENTS: i64 = 5_000;
    let (agents, bundles) = (agents(Some("active")), table(GRANT));
    let kernel = kernel(&agents, &bundles);
    let mut session = Session::new();
    let mut decisions = |numbers: std::ops::Range<i64>, second| {
        let mut duplicates = 0;
        for sequence in numbers {
            let arguments = format!("{{\"id\":\"{sequence}\"}}");
            let content = EventContent { second, ..call("look", &arguments) };
            support::with_event(content, sequence, |event, origin| {
                let judged = kernel.step(&mut session, event, origin).unwrap().verdict.unwrap();
                assert_eq!(judged.findings, []);
                duplicates += i64::from(judged.decision == Decision::Duplicate);
            });
        }
        (duplicates, session.events())
    };
    assert_eq!(decisions(0..1_000, 0), (0, 1_000));
    assert_eq!(decisions(700..1_200, 0), (300, 1_200), "a spool");
    assert_eq!(decisions(0..EVENTS, 1), (1_200, EVENTS), "an import that is completed");
    assert_eq!(decisions(0..EVENTS, 2), (EVENTS, EVENTS), "and run once more");
}

/// Each call is judged like the first call of a session, whichever number its source assigns.
#[test]
fn call_with_any_number_is_judged() {
    let (agents, bundles) = (agents(Some("active")), table(GRANT));
    let kernel = kernel(&agents, &bundles);
    let mut session = Session::new();
    let late = RecordFinding::OutOfOrder;
    let steps: [(i64, &str, &[RecordFinding]); 7] = [
        (i64::MAX, "first", &[]),
        (0, "a", &[late]),
        (1, "b", &[late]),
        (1, "c", &[RecordFinding::SequenceReused]),
        (i64::MAX, "d", &[RecordFinding::SequenceReused]),
        (-7, "e", &[RecordFinding::NegativeSequence, late]),
        (i64::MIN, "f", &[RecordFinding::NegativeSequence, late]),
    ];
    for (index, (sequence, id, findings)) in (0..).zip(steps) {
        let arguments = format!("{{\"id\":\"{id}\"}}");
        support::with_event(call("look", &arguments), sequence, |event, origin| {
            let judged = kernel.step(&mut session, event, origin).unwrap().verdict.unwrap();
            assert_eq!((judged.decision, judged.call_index), (Decision::Allow, Some(index)), "{sequence}");
            assert_eq!(judged.findings, findings, "{sequence}");
            let again = kernel.step(&mut session, event, origin).unwrap().verdict.unwrap();
            assert_eq!(again.decision, Decision::Duplicate, "{sequence}");
        });
    }
}

#[test]
fn call_in_an_event_of_any_type_is_judged() {
    let first = "@id(\"first\") @severity(\"high\") forbid (principal, action == Action::\"tool.invoked\", resource);";
    let (agents, bundles) = (agents(Some("active")), table(&format!("{GRANT}\n{first}")));
    let mut replay = Replay::new(kernel(&agents, &bundles));
    let types: Vec<_> = catalogue::CATALOGUE.iter().map(|known| known.name).collect();
    let unknown = ["", "tool.invokd", "Tool.Invoked", "tool.invoked ", "tool_invoked"];
    let mut calls = 0;
    for kind in types.iter().copied().chain(unknown) {
        let Some(judged) = replay.apply(EventContent { kind, ..call("look", "{}") }) else {
            panic!("{kind}")
        };
        let retried = kind == catalogue::TOOL_RETRIED;
        assert_eq!(judged.decision, if retried { Decision::Allow } else { Decision::Deny }, "{kind}");
        calls += i32::from(!retried);
        assert_eq!(judged.call_index, Some(calls - 1), "{kind}");
        let expected: &[RecordFinding] = match kind {
            catalogue::TOOL_INVOKED | catalogue::TOOL_RETRIED => &[],
            known if types.contains(&known) => &[RecordFinding::UnexpectedCall],
            _ => &[RecordFinding::UnknownType],
        };
        assert_eq!(judged.findings, expected, "{kind}");
    }
}

#[test]
fn verdict_carries_its_inputs_and_no_payload() {
    let (agents, bundles) = (agents(Some("active")), table(GRANT));
    let mut replay = Replay::new(kernel(&agents, &bundles));
    replay.apply(EventContent { kind: "session.started", ..EventContent::default() });
    for id in ["A1", "A2"] {
        let content = format!(r#"{{"id":"{id}","text":"secret"}}"#);
        let result =
            ToolResult { call_id: "", name: None, is_error: None, content: payload(content.as_bytes()) };
        replay.apply(EventContent {
            kind: "tool.response_received",
            result: Some(result),
            ..EventContent::default()
        });
    }
    let judged =
        replay.apply(call("change", r#"{"id":"A2","n":7,"names":["b","a","b"],"more":"secret"}"#)).unwrap();
    assert_eq!(
        judged.known,
        r#"{"agent":{"owner":"us","roles":["clerk"],"state":"active"},"derived":{"known":true,"n":7,"names":["a","b"]},"facts":[{"key":"A2","kind":"thing","offset":2}],"session":{"events":3,"started_at":1715785200000000,"tool_calls":0}}"#
    );
    assert_eq!(judged.tables, [("agents", 12), ("tools", 0), ("bundles", 0)]);
    support::with_event(call("change", "{}"), 9, |event, origin| {
        assert_eq!(judged.verdict(event, origin).known_digest, Digest::of(judged.known.as_bytes()));
    });
}

#[test]
fn verdict_of_a_session_at_its_limit_says_so() {
    let (agents, bundles) = (agents(Some("active")), table(GRANT));
    let limits = agentgov_schemas::topology::SessionLimits { max_facts: 1, ..no_limits() };
    let mut replay = Replay::new(Kernel { limits, ..kernel(&agents, &bundles) });
    assert!(!replay.apply(call("look", "{}")).unwrap().state_limit);
    let result = ToolResult { call_id: "c", name: None, is_error: None, content: payload(br#"{"id":"A1"}"#) };
    replay.apply(EventContent {
        kind: "tool.response_received",
        result: Some(result),
        ..EventContent::default()
    });
    let judged = replay.apply(call("look", "{}")).unwrap();
    assert!(judged.state_limit);
    assert_eq!(judged.decision, Decision::Allow);

    // A missing fact may have been dropped, which is an error.
    let bundles = table(&format!("{GRANT}{}", rule("known", "", "context has known && context.known")));
    for (max_facts, decision) in [(3, Decision::Deny), (1, Decision::Indeterminate)] {
        let limits = agentgov_schemas::topology::SessionLimits { max_facts, ..no_limits() };
        let mut replay = Replay::new(Kernel { limits, ..kernel(&agents, &bundles) });
        replay.apply(call("look", "{}"));
        replay.apply(EventContent {
            kind: "tool.response_received",
            result: Some(result),
            ..EventContent::default()
        });
        assert_eq!(replay.apply(call("change", r#"{"id":"A1"}"#)).unwrap().decision, decision, "{max_facts}");
    }
}

#[test]
fn request_cache_changes_no_decision() {
    use Decision::{Allow, Deny};
    let bundles = table(
        "@id(\"clerks\") permit (principal in Role::\"clerk\", action, resource) when { resource == Tool::\"look\" };
        @id(\"bosses\") permit (principal in Role::\"boss\", action, resource)
        when { resource != Tool::\"look\" && context has n && context.n > 1 };",
    );
    let mut agents = AgentTable::default();
    let kept = RequestCache::default();
    for (offset, role, answers) in
        [(11, "clerk", [Allow, Deny, Deny, Deny]), (12, "boss", [Deny, Allow, Deny, Deny])]
    {
        agents.fold(&agent(role), offset);
        let mut replay = Replay::new(Kernel { requests: &kept, ..kernel(&agents, &bundles) });
        // The second round uses cached requests.
        for round in 0..2 {
            let asked =
                [("look", "{}"), ("change", r#"{"n":2}"#), ("change", r#"{"n":1}"#), ("other", r#"{"n":2}"#)];
            let decided = asked.map(|(tool, input)| replay.apply(call(tool, input)).unwrap().decision);
            assert_eq!(decided, answers, "{role}, round {round}");
        }
    }
}

#[test]
fn context_has_every_attribute_of_the_schema() {
    // One rule that applies only if every attribute of the context has its value.
    let when = "context.environment == \"demo\" && context.tenant == \"airline\" && context has message
        && context.message.has_text && context.message.tool_calls == 3 && context.session.events == 0
        && context.session.tool_calls == 0 && context has time && context.time == datetime(\"2024-05-15T15:00:01Z\")
        && !(context has actor) && principal.state == \"active\" && principal has owner && principal.owner == \"us\"
        && principal == Agent::\"airline/airline-service\" && resource in Effect::\"write\" && resource.effect == \"write\"
        && action == Action::\"tool.invoked\" && context has names && context.names.containsAll([\"x\"])";
    let message = Message { id: "m", role: "assistant", has_text: true, tool_calls: 3, content: None };
    let content = EventContent { message: Some(message), second: 1, ..call("change", r#"{"names":["x"]}"#) };
    let judged = judge(&format!("{GRANT}{}", rule("all-of-it", "", when)), Some("active"), content);
    assert_eq!(ids(&judged.violations), ["all-of-it"], "{:?}", judged.errors);
}

fn warnings(policies: &str) -> Vec<String> {
    match Bundle::compile(&files(policies)) {
        Ok(bundle) => bundle.warnings().iter().map(Problem::to_string).collect(),
        Err(problems) => panic!("{problems:#?}"),
    }
}

/// Confusable letters and a bundle without a grant are warnings; the bundle judges.
#[test]
fn bundle_with_warnings_compiles() {
    assert_eq!(warnings(GRANT), Vec::<String>::new());
    for tool in ["ツール_search", "pаypal", "say_\u{202e}yas"] {
        let grant =
            format!("// A tool.\n@id(\"a\") permit (principal, action, resource == Tool::\"{tool}\");");
        let found = warnings(&grant);
        assert!(
            !found.is_empty() && found.iter().all(|w| w.starts_with("rules.cedar:2:")),
            "{tool}: {found:?}"
        );
        assert_eq!(judge(&grant, Some("active"), call(tool, "{}")).decision, Decision::Allow, "{tool}");
        assert_eq!(judge(&grant, Some("active"), call("search", "{}")).decision, Decision::Deny, "{tool}");
    }
    let text = warnings(&format!("{GRANT}{}", rule("mixed", "", "context.tenant like \"аb*\"")));
    assert!(text.iter().all(|w| w.starts_with("rules.cedar:1:")) && !text.is_empty(), "{text:?}");
    let found = warnings(&rule("r", "", "true"));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("rules.cedar:1:1: no policy of the bundle is a `permit`"), "{found:?}");
}

#[test]
fn refused_annotation_shows_the_value_found() {
    let long = "x".repeat(129);
    for (id, shown) in [
        ("@id(\"a b\")", "found `a b`"),
        ("@id(\"\")", "found an empty one"),
        ("", "found none"),
        ("@id(\"regel-ä\")", "found `regel-ä`"),
        ("@id(\"a\\u{1b}[2J\")", "found `a\\u{1b}[2J`"),
        (&format!("@id(\"{long}\")"), "found one of 129 bytes"),
    ] {
        let policies = format!("{id} permit (principal, action, resource);");
        let found = problems(|files| drop(files.insert("rules.cedar".to_owned(), policies.into())));
        assert!(
            found.iter().any(|problem| problem.contains("expected `@id(") && problem.ends_with(shown)),
            "{found:?}"
        );
    }
    let policies = rule("r", "@on_error(\"allow\")", "true")
        + "@id(\"g\") @on_error(\"ignore\") permit (principal, action, resource);";
    let found = problems(|files| drop(files.insert("rules.cedar".to_owned(), policies.into())));
    assert!(found[0].ends_with("`@on_error`: expected indeterminate or ignore, found `allow`"), "{found:?}");
    assert!(found[1].contains("`@on_error` is for forbid policies"), "{found:?}");
}

fn problems(change: impl FnOnce(&mut BTreeMap<String, Vec<u8>>)) -> Vec<String> {
    let mut files = files(GRANT);
    change(&mut files.0);
    Bundle::compile(&files).err().unwrap_or_default().iter().map(Problem::to_string).collect()
}

#[test]
fn mistakes_of_a_bundle_are_reported_in_one_run_with_their_places() {
    let policies = "\
// Fine.
@id(\"one\") @severity(\"high\")
forbid (principal, action, resource) when { context has n && context.n > 1 };
@id(\"one\") @severity(\"high\") forbid (principal, action, resource);
@id(\"two\") @severty(\"high\") @mode(\"watch\")
forbid (principal, action, resource);
@id(\"three\") @severity(\"low\")
forbid (principal, action, resource)
when { context.n > 1 };
@id(\"four\") @severity(\"low\") permit (principal, action, resource);
@id(\"five\") @severity(\"low\") forbid (principal, action, resource) when { context has m && context.m };
permit (principal, action, resource);
@id(\"six\") permit (principal, action == Action::\"drink\", resource);
@id(\"seven\") @severity(\"low\") forbid (principal, action, resource) when { context has n && context.n == \"1\" };
@id(\"eight\") permit (principal, action, resource
";
    let found = problems(|files| {
        files.insert("rules.cedar".to_owned(), policies.into());
        files.insert("bundle.yaml".to_owned(), b"name: b\nversion: 1\n".to_vec());
        files.insert("schema.cedarschema".to_owned(), b"entity Role;\n".to_vec());
        files.insert("notes.txt".to_owned(), Vec::new());
        files.insert("tests/x.json".to_owned(), Vec::new());
    });
    let all = found.join("\n");
    for expected in [
        "rules.cedar:4:1: `@id(\"one\")` is already used in rules.cedar:1",
        "rules.cedar:5:1: unknown annotation `@severty`",
        "rules.cedar:5:1: expected `@severity` of low, medium, high or critical",
        "rules.cedar:5:1: `@mode`: expected enforce or observe, found `watch`",
        "rules.cedar:9:8: ",
        "rules.cedar:10:1: `@severity` is for forbid policies",
        "rules.cedar:11:",
        "rules.cedar:12:1: expected `@id(",
        "rules.cedar:13:",
        "rules.cedar:14:",
        "rules.cedar:15:",
        "bundle.yaml:2:10: expected text, found the number 1",
        "schema.cedarschema:1:1: differs from the schema of tools.yaml",
        "notes.txt:1:1: not part of a bundle",
        "tests/x.json:1:1: not part of a bundle",
    ] {
        assert!(found.iter().any(|problem| problem.starts_with(expected)), "{expected}\n{all}");
    }
    assert!(
        problems(|files| drop(files.remove("tools.yaml")))[0]
            .starts_with("tools.yaml:1:1: expected this file")
    );
    assert!(problems(|files| drop(files.remove("rules.cedar")))[0].contains("at least one policy"));
    let bad = problems(|files| drop(files.insert("rules.cedar".to_owned(), vec![0xff])));
    assert!(bad[0].starts_with("rules.cedar:1:1: expected UTF-8"), "{bad:?}");
}

fn record(files: &BundleFiles) -> governance::Bundle<'_> {
    governance::Bundle {
        name: "b",
        version: "1",
        digest: files.digest(),
        environments: vec!["demo"],
        files: files.0.iter().map(|(path, content)| BundleFile { path, content }).collect(),
        pushed_by: "me",
        policies: vec![],
    }
}

#[test]
fn last_bundle_that_loads_is_active() {
    let (good, other) = (files(GRANT), files(&format!("{GRANT}{}", rule("r", "", "true"))));
    let mut broken = files(GRANT);
    broken.0.remove("tools.yaml");
    let mut table = BundleTable::default();
    assert!(matches!(table.fold(&record(&good), 0, Millis(0)), FoldOutcome::Active(_)));
    assert_eq!(table.active("demo").unwrap().digest(), good.digest());
    assert!(table.active("production").is_none());
    let FoldOutcome::Refused(refused) = table.fold(&record(&broken), 4, Millis(4)) else {
        panic!("a broken bundle was taken")
    };
    assert_eq!((refused.offset, refused.environments.as_slice()), (4, ["demo".to_owned()].as_slice()));
    assert_eq!(table.active("demo").unwrap().digest(), good.digest(), "the last good one stays");
    assert_eq!(table.refused_by_environment().keys().collect::<Vec<_>>(), ["demo"]);
    assert!(matches!(table.fold(&record(&other), 6, Millis(6)), FoldOutcome::Active(_)));
    assert_eq!(table.active("demo").unwrap().digest(), other.digest());
    assert!(table.refused_by_environment().is_empty());
    assert_eq!((table.refused_bundles().len(), table.next_offset()), (1, 7));
    for wrong in [
        governance::Bundle { digest: Digest::of(b""), ..record(&good) },
        governance::Bundle { name: "c", ..record(&good) },
        governance::Bundle { environments: vec!["demo", "production"], ..record(&good) },
        governance::Bundle { policies: vec!["none"], ..record(&good) },
    ] {
        assert!(matches!(table.fold(&wrong, 8, Millis(8)), FoldOutcome::Refused(_)), "{wrong:?}");
    }
    let right = governance::Bundle { policies: vec!["all"], ..record(&good) };
    assert!(matches!(table.fold(&right, 9, Millis(9)), FoldOutcome::Active(_)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    /// Compiling deferred bundles leads to the same table as folding each bundle, and compiles only the bundles that are needed.
    #[test]
    fn deferred_bundles_lead_to_the_same_table(pushed in prop::collection::vec((0..4_usize, prop::bool::ANY), 0..8)) {
        let of = |(environments, loads): (usize, bool)| {
            let mut files = files(GRANT);
            let named = ["[a]", "[b]", "[a, b]", "[b, c]"][environments];
            let manifest = format!("name: b\nversion: '1'\nenvironments: {named}\n");
            files.0.insert("bundle.yaml".to_owned(), manifest.into());
            if !loads {
                files.0.insert("x.cedar".to_owned(), b"forbid (".to_vec());
            }
            files
        };
        let environments = |n: usize| [&["a"][..], &["b"], &["a", "b"], &["b", "c"]][n].to_vec();
        let (mut folded, mut started) = (BundleTable::default(), BundleTable::default());
        let mut offsets = 0..;
        for (n, loads) in &pushed {
            let files = of((*n, *loads));
            let record = governance::Bundle { environments: environments(*n), ..record(&files) };
            let offset = offsets.next().unwrap();
            folded.fold(&record, offset, Millis(offset));
            started.defer(&record, offset, Millis(offset));
        }
        let settled = started.compile_deferred();
        prop_assert_eq!(folded.next_offset(), started.next_offset());
        prop_assert_eq!(folded.refused_by_environment(), started.refused_by_environment());
        for name in ["a", "b", "c"] {
            let digest = |table: &BundleTable| table.active(name).map(|bundle| bundle.digest());
            prop_assert_eq!(digest(&folded), digest(&started));
        }
        // A bundle that a later valid one replaces in all environments is neither compiled nor announced.
        let replaced = |at: usize| {
            environments(pushed[at].0).iter().all(|name| {
                pushed[at + 1..].iter().any(|(n, loads)| *loads && environments(*n).contains(name))
            })
        };
        let needed: Vec<usize> = (0..pushed.len()).filter(|at| !replaced(*at)).collect();
        prop_assert_eq!(settled.compiled, needed.len());
        let refused: Vec<i64> = settled.refused.iter().map(|refused| refused.offset).collect();
        let expected: Vec<i64> = needed.iter().filter(|at| !pushed[**at].1).map(|at| *at as i64).collect();
        prop_assert_eq!(refused, expected);
        prop_assert_eq!(started.compile_deferred().compiled, 0);
    }
}

#[test]
fn failures_of_bundle_tests_are_at_the_differing_step() {
    let mut files = files(&format!("{GRANT}{}", rule("big", "", "context has n && context.n > 1")));
    let tests = "\
agent: { roles: [clerk] }
tests:
  - name: right
    steps:
      - { call: change, input: { n: 2 }, expect: [big] }
  - name: wrong
    steps:
      - { call: change, input: { n: 2 } }
      - call: change
        input: { n: 1 }
        expect: [big]
      - { call: change, input: { n: x }, decision: ask }
      - { of: nobody }
";
    files.0.insert("tests/a.yaml".to_owned(), tests.into());
    files.0.insert("tests/b.yaml".to_owned(), b"tests: [{ nam: x }]\n".to_vec());
    let report = agentgov_policy::testing::run(&Arc::new(Bundle::compile(&files).unwrap()), &files);
    assert!(!report.passed());
    let shown = report.to_string();
    let expected = "\
ok     tests/a.yaml:3 right
FAILED tests/a.yaml:6 wrong
       tests/a.yaml:8:17: change: expected violations none, found big
       tests/a.yaml:8:17: change: expected decision allow, found deny
       tests/a.yaml:11:17: change: expected violations big, found none
       tests/a.yaml:11:17: change: expected decision deny, found allow
       tests/a.yaml:12:52: change: expected decision ask, found indeterminate
       tests/a.yaml:12:17: change: expected errors none, found derived_type n
       tests/a.yaml:13:9: expected a step with `call`, `result` or `end: true`
";
    assert!(shown.starts_with(expected), "{shown}");
    assert!(shown.contains("FAILED tests/b.yaml:1:"), "{shown}");
    assert_eq!(report.never_violated, Vec::<String>::new());
}

#[test]
fn grant_is_of_its_agent_and_tool_whatever_conditions_and_rules_say() {
    let has_grant = |policies: &str, state: Option<&str>, tool: &str| {
        let (agents, bundles) = (agents(state), table(policies));
        with_event(call(tool, "{}"), 0, |event, _| kernel(&agents, &bundles).has_grant(event).unwrap())
    };
    let grant = |principal: &str, resource: &str, when: &str| {
        format!("@id(\"g\") permit (principal{principal}, action, resource{resource}) {when};\n")
    };
    let any = grant("", "", "");
    for (principal, matches) in [
        ("", true),
        (" is Agent", true),
        (" in Role::\"clerk\"", true),
        (" is Agent in Role::\"clerk\"", true),
        (" == Agent::\"airline/airline-service\"", true),
        (" in Role::\"boss\"", false),
        (" == Agent::\"airline/other\"", false),
    ] {
        assert_eq!(has_grant(&grant(principal, "", ""), Some("active"), "look"), matches, "{principal}");
    }
    assert!(has_grant(&grant("", " == Tool::\"change\"", ""), Some("active"), "change"));
    assert!(!has_grant(&grant("", " == Tool::\"change\"", ""), Some("active"), "look"));
    let named = "when { [Tool::\"look\"].contains(resource) && context has n && context.n > 5 }";
    assert!(has_grant(&grant("", "", named), Some("active"), "look"));
    assert!(!has_grant(&grant("", "", named), Some("active"), "change"));
    assert!(has_grant(&[any.as_str(), &rule("r", "", "true")].concat(), Some("active"), "change"));
    for state in [Some("suspended"), Some("retired"), None] {
        assert!(!has_grant(&any, state, "look"), "{state:?}");
    }
}
