//! Verdicts about calls with decision tokens, through the evaluator's public interface.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by a panic"
)]

use std::collections::BTreeMap;

use agentgov_evaluator::{Evaluator, Sessions};
use agentgov_policy::{Bundle, BundleFiles, generated_schema};
use agentgov_processor::{Outputs, Processor as _, RestoreValue, TableRecord};
use agentgov_schemas::alert::{Alert, REFUSED_POLICY};
use agentgov_schemas::event::{ActionEvent, Agent, Payload, Source, ToolCall, ToolResult};
use agentgov_schemas::governance::{self, AgentEntry, AgentState, BundleFile, KeyEntry, KeyKind, KeyState};
use agentgov_schemas::subject::{self, Subject};
use agentgov_schemas::topology::{MissingRole, Topology};
use agentgov_schemas::verdict::{Decision, Origin, Verdict};
use agentgov_schemas::wire::{self, SchemaId};
use agentgov_schemas::{Digest, Micros, Millis, Record, RecordEncoder, SessionKey, catalogue};
use agentgov_token::{Claims, KnownThrough, SigningKey};

const ID: SchemaId = SchemaId(1);
/// logged_at of the first call, in milliseconds.
const NOW: i64 = 1_790_000_000_000;
/// A decision whose id ends with a number.
const DECISION: &str = "0192f0c1-7a3b-7c4d-9e5f-0000000000";

struct Fixture {
    topology: Topology,
    evaluator: Evaluator,
    sessions: Sessions,
    outputs: Outputs,
    /// Records that the evaluator emitted: subject's topic, key and value.
    changelog: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    offset: i64,
    bundle: Digest,
}

/// Verdict on a call, as `finding cause outcome decision`, and the policies of its alerts that no verdict requires.
type Found = (String, Vec<String>);

fn files(manifest: &str) -> BundleFiles {
    let rule = "@id(\"no-pay\") @severity(\"high\") forbid (principal, action, resource == Tool::\"pay\");\n\
                @id(\"grant\") permit (principal, action, resource);";
    let manifest = format!("name: b\nversion: '1'\nenvironments: [production]\n{manifest}");
    let mut files = BTreeMap::from([
        ("bundle.yaml".to_owned(), manifest.into_bytes()),
        ("tools.yaml".to_owned(), b"default: { effect: read }\ntools: { pay: { effect: write } }\n".to_vec()),
        ("rules.cedar".to_owned(), rule.as_bytes().to_vec()),
    ]);
    let schema = generated_schema(&BundleFiles(files.clone())).unwrap();
    files.insert("schema.cedarschema".to_owned(), schema.into());
    BundleFiles(files)
}

fn payload(data: &[u8]) -> Payload<'_> {
    Payload { data, sha256: Digest::of(data), media_type: "application/json", redacted: false }
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32])
}

/// Returns the claims of an allowed call of `look` that is decided before any record of the partition.
fn claims(number: u8) -> Claims {
    Claims {
        decision_id: format!("{DECISION}{number:02}"),
        issuer: "pdp".to_owned(),
        issued_at: NOW / 1000,
        expires_at: NOW / 1000 + 60,
        tenant_id: "acme".to_owned(),
        environment: "production".to_owned(),
        session_id: "s".to_owned(),
        agent_id: "a".to_owned(),
        tool: "look".to_owned(),
        call_id: Some("c".to_owned()),
        arguments: Digest::of(b"{}"),
        definition: None,
        outcome: Decision::Allow,
        bundle: Some(files("").digest()),
        through: KnownThrough { partition: 0, offset: 0 },
        agents: Some(1),
        tools: Some(0),
        unavailable: None,
        approval_id: None,
    }
}

fn denied(number: u8) -> Claims {
    Claims { tool: "pay".to_owned(), outcome: Decision::Deny, ..claims(number) }
}

impl Fixture {
    /// Creates an evaluator with an agent, a bundle, and the keys 1 (of a pdp), 2 (of an approver) and 3 (of a pdp, for
    /// another tenant). Key 4 is not published.
    fn new() -> Self {
        Self::with_bundle("")
    }

    fn with_bundle(manifest: &str) -> Self {
        let topology = Topology::embedded().unwrap().clone();
        let stage = topology.stage("evaluator").unwrap();
        let evaluator = Evaluator::new(&topology, stage).unwrap();
        let outputs = Outputs::new(&topology, stage, |_, _| Ok::<_, MissingRole>(ID)).unwrap();
        let sessions = evaluator.partition(0);
        let bundle = files(manifest).digest();
        let mut fixture =
            Self { topology, evaluator, sessions, outputs, changelog: vec![], offset: 0, bundle };
        fixture.fold_agent(AgentState::Active, 0);
        fixture.push_bundle(manifest, 0);
        fixture.evaluator.tables_loaded();
        for (offset, kind, tenant_id) in
            [(1, KeyKind::Pdp, None), (2, KeyKind::Approver, None), (3, KeyKind::Pdp, Some("other"))]
        {
            fixture.fold_key(offset, kind, tenant_id, KeyState::Active, NOW - 1000);
        }
        fixture
    }

    fn fold<R: Record>(&mut self, record: &R, offset: i64, logged_at: i64) {
        let schema = R::SUBJECT.schema().unwrap();
        let bytes = RecordEncoder::<R::Static>::new(ID).unwrap().encode(record).unwrap();
        let (id, datum) = wire::split(&bytes).unwrap();
        let (topic, _) = self.topology.topic_of(R::SUBJECT).unwrap();
        let value = Ok(RestoreValue::new(id, schema, datum));
        let record = TableRecord { topic, offset, logged_at: Millis(logged_at), value };
        self.evaluator.update_table(&self.topology, &record);
    }

    fn fold_agent(&mut self, state: AgentState, offset: i64) {
        let agent =
            AgentEntry { name: "a", owner: "o", roles: vec![], ..AgentEntry::new("acme", "a", state) };
        self.fold(&agent, offset, NOW - 1000);
    }

    fn push_bundle(&mut self, manifest: &str, offset: i64) {
        let files = files(manifest);
        let compiled = Bundle::compile(&files).unwrap_or_else(|problems| panic!("{problems:?}"));
        let ids: Vec<String> = compiled.policies().map(|policy| policy.id.clone()).collect();
        let record = governance::Bundle {
            name: "b",
            version: "1",
            digest: files.digest(),
            environments: vec!["production"],
            files: files.0.iter().map(|(path, content)| BundleFile { path, content }).collect(),
            pushed_by: "tests",
            policies: ids.iter().map(String::as_str).collect(),
        };
        self.fold(&record, offset, NOW - 1000);
    }

    fn fold_key(&mut self, seed: u8, kind: KeyKind, tenant_id: Option<&str>, state: KeyState, at: i64) {
        let key = key(seed);
        let public_key = key.public_key().to_jwk().to_string();
        let entry = KeyEntry {
            kid: key.kid(),
            kind: kind.into(),
            name: "k",
            tenant_id,
            public_key: &public_key,
            state: state.into(),
            reason: "",
            pushed_by: "",
        };
        self.fold(&entry, i64::from(seed) + 10 * i64::from(state == KeyState::Revoked), at);
    }

    fn on<T>(&self, subject: Subject, read: impl Fn(SchemaId, &[u8]) -> T) -> Vec<T> {
        let (topic, _) = self.topology.topic_of(subject).unwrap();
        let records = self.outputs.iter().filter(|record| record.topic == topic);
        records
            .map(|record| {
                let (id, datum) = wire::split(record.value.unwrap()).unwrap();
                read(id, datum)
            })
            .collect()
    }

    /// Steps an event as a batch of its own.
    fn step(&mut self, event: &ActionEvent<'_>, logged_at: i64) -> Found {
        let partition = self.sessions.partition;
        self.outputs.clear();
        let offset = self.offset;
        self.offset += 1;
        let origin = Origin { topic: "actions", partition, offset, logged_at: Millis(logged_at) };
        self.evaluator.step(&mut self.sessions, &origin, event, &mut self.outputs).unwrap();
        self.evaluator.finish(&mut self.sessions, offset + 1, &mut self.outputs).unwrap();
        let (changelog, _) = self.topology.topic_of(subject::SESSION_STATE).unwrap();
        let entries = self.outputs.iter().filter(|record| record.topic == changelog);
        self.changelog.extend(entries.map(|record| (record.key.to_vec(), record.value.map(<[u8]>::to_vec))));
        let verdict = self.on(subject::VERDICT, |id, datum| {
            let verdict: Verdict<'_> = subject::VERDICT.schema().unwrap().decode(id, datum).unwrap();
            let Some(prior) = verdict.prior_decision else { return format!("- {}", verdict.decision) };
            let tables = if prior.finding.as_str() == "undecided" { 3 } else { 4 };
            assert_eq!(
                verdict.tables.len(),
                tables,
                "a verdict about a token names the position of the keys"
            );
            let cause = prior.cause.map_or("-", |cause| cause.as_str());
            let outcome = prior.outcome.map_or("-", |outcome| outcome.as_str());
            let required = if prior.required { " required" } else { "" };
            let unavailable = prior.unavailable.unwrap_or_default();
            format!("{} {cause} {outcome} {}{required}{unavailable}", prior.finding, verdict.decision)
        });
        let alerts = self.on(subject::ALERT, |id, datum| {
            let alert: Alert<'_> = subject::ALERT.schema().unwrap().decode(id, datum).unwrap();
            assert_eq!((alert.policy, alert.origin), (REFUSED_POLICY, origin));
            format!("{} {:?} {}", alert.decision, alert.call_index, alert.tool.unwrap())
        });
        (verdict.concat(), alerts)
    }

    /// Steps a call as `claims` names it, with `token`.
    fn call(&mut self, claims: &Claims, token: Option<&str>, logged_at: i64) -> String {
        let sequence = self.offset;
        let event = call(claims, token, sequence);
        self.step(&event, logged_at).0
    }

    /// Steps the call that `claims` names, with its token, signed by key 1.
    fn decided(&mut self, claims: &Claims) -> String {
        let token = key(1).sign(claims).unwrap();
        self.call(claims, Some(&token), NOW)
    }

    fn answer(&mut self, call_id: &str) -> Found {
        let claims = claims(0);
        let event = ActionEvent {
            r#type: catalogue::TOOL_RESPONSE_RECEIVED,
            tool: None,
            result: Some(result(call_id)),
            ..call(&claims, None, self.offset)
        };
        self.step(&event, NOW)
    }

    /// Replaces the state by what a compacted changelog restores.
    fn restart(&mut self) {
        let mut sessions = self.evaluator.partition(0);
        let last: BTreeMap<&[u8], usize> =
            self.changelog.iter().enumerate().map(|(i, (key, _))| (key.as_slice(), i)).collect();
        let schema = subject::SESSION_STATE.schema().unwrap();
        for (i, (key, value)) in self.changelog.iter().enumerate() {
            if last[key.as_slice()] == i {
                let value = value.as_deref().map(|bytes| {
                    let (id, datum) = wire::split(bytes).unwrap();
                    RestoreValue::new(id, schema, datum)
                });
                self.evaluator.restore(&mut sessions, key, value).unwrap();
            }
        }
        // The index of the numbers is built on the first lookup.
        let shown = |sessions: &Sessions| {
            format!("{:?}", sessions.get("acme", "s")).replace("lookup: Unknown", "lookup: Ascending")
        };
        assert_eq!(shown(&sessions), shown(&self.sessions));
        self.sessions = sessions;
    }
}

fn result(call_id: &str) -> ToolResult<'_> {
    ToolResult { call_id, name: None, is_error: None, content: payload(b"{}") }
}

fn call<'a>(claims: &'a Claims, token: Option<&'a str>, sequence: i64) -> ActionEvent<'a> {
    let call_id = claims.call_id.as_deref().unwrap_or("c");
    ActionEvent {
        environment: &claims.environment,
        occurred_at: Micros(NOW * 1000),
        tool: Some(ToolCall {
            decision_token: token,
            ..ToolCall::new(&claims.tool, call_id, payload(b"{}"))
        }),
        ..ActionEvent::new(
            "e",
            catalogue::TOOL_INVOKED,
            SessionKey { tenant_id: &claims.tenant_id, session_id: &claims.session_id },
            Source { id: "p", sequence },
            Agent::new(&claims.agent_id),
        )
    }
}

#[test]
fn call_as_decided_matches() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.decided(&claims(1)), "matched - allow allow");
    assert_eq!(fixture.decided(&denied(2)), "matched - deny deny");
    let any_id = Claims { call_id: None, ..claims(3) };
    assert_eq!(fixture.decided(&any_id), "matched - allow allow", "a token without call_id is of any id");
}

#[test]
fn call_without_a_token_is_undecided_and_required_as_the_bundle_says() {
    assert_eq!(Fixture::new().call(&claims(1), None, NOW), "undecided - - allow");
    for (manifest, expected) in [
        ("decisions: required\n", "undecided - - allow required"),
        ("decisions: optional\n", "undecided - - allow"),
    ] {
        assert_eq!(Fixture::with_bundle(manifest).call(&claims(1), None, NOW), expected);
    }
}

#[test]
fn repeat_of_a_decided_call_has_no_prior_decision_and_uses_no_token() {
    let mut fixture = Fixture::new();
    let claims = claims(1);
    let token = key(1).sign(&claims).unwrap();
    let event = call(&claims, Some(&token), 0);
    assert_eq!(fixture.step(&event, NOW).0, "matched - allow allow");
    assert_eq!(fixture.step(&event, NOW).0, "- duplicate");
}

#[test]
fn token_that_expired_is_forged() {
    let mut fixture = Fixture::new();
    let token = key(1).sign(&claims(1)).unwrap();
    let expiry = claims(1).expires_at * 1000;
    assert_eq!(fixture.call(&claims(1), Some(&token), expiry), "forged expired allow allow");
    assert_eq!(fixture.call(&claims(1), Some(&token), expiry - 1), "matched - allow allow");
}

#[test]
fn expired_token_keeps_the_decision_on_its_own_call_only() {
    let expiry = claims(1).expires_at * 1000;
    let unseen = Claims { unavailable: Some("stale".to_owned()), agents: None, ..claims(1) };
    let other = Claims { agent_id: "b".to_owned(), ..claims(1) };
    let elsewhere = Claims { through: KnownThrough { partition: 1, offset: -1 }, ..claims(1) };
    for (token, expected) in [
        (unseen, "forged expired allow allowstale"),
        (other, "forged expired - allow"),
        (elsewhere, "forged expired - allow"),
    ] {
        let token = key(1).sign(&token).unwrap();
        assert_eq!(Fixture::new().call(&claims(1), Some(&token), expiry), expected);
    }
    let mut fixture = Fixture::new();
    let token = key(1).sign(&denied(2)).unwrap();
    assert_eq!(fixture.call(&denied(2), Some(&token), expiry), "forged expired deny deny");
    assert_eq!(fixture.answer("c").1, [""; 0], "an expired token proves no refusal");
}

#[test]
fn token_that_was_used_is_reused_also_after_a_restart() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.decided(&claims(1)), "matched - allow allow");
    assert_eq!(fixture.decided(&claims(1)), "reused - allow allow");
    fixture.restart();
    assert_eq!(fixture.decided(&claims(1)), "reused - allow allow");
    assert_eq!(fixture.decided(&claims(2)), "matched - allow allow");
}

#[test]
fn token_that_outlives_its_session_is_reused() {
    let mut fixture = Fixture::new();
    let week = 7 * 24 * 3600;
    let (last, longer) = (NOW / 1000 + week - 60, NOW / 1000 + week - 59);
    for (number, expires_at, expected) in [
        (1, last, "matched - allow allow"),
        (2, longer, "reused limit allow allow"),
        (3, i64::MAX, "reused limit allow allow"),
    ] {
        assert_eq!(fixture.decided(&Claims { expires_at, ..claims(number) }), expected);
    }
}

#[test]
fn used_token_is_removed_after_its_expiry() {
    let mut fixture = Fixture::new();
    fixture.decided(&claims(1));
    let later = claims(1).expires_at * 1000 + 60_000;
    let next = Claims { expires_at: later / 1000 + 60, ..claims(2) };
    let token = key(1).sign(&next).unwrap();
    fixture.call(&next, Some(&token), later);
    let tombstones = fixture.changelog.iter().filter(|(_, value)| value.is_none());
    assert_eq!(tombstones.count(), 1);
    fixture.restart();
    let again = key(1).sign(&claims(1)).unwrap();
    assert_eq!(fixture.call(&claims(1), Some(&again), later), "forged expired allow allow");
}

#[test]
fn token_of_other_arguments_is_altered() {
    let mut fixture = Fixture::new();
    let (called, other) = (claims(1), Claims { arguments: Digest::of(b"{ }"), ..claims(1) });
    let token = key(1).sign(&other).unwrap();
    assert_eq!(fixture.call(&claims(1), Some(&token), NOW), "altered args allow allow");
    let call = call(&called, Some(&token), 1);
    let claimed = ActionEvent {
        tool: call.tool.map(|tool| ToolCall {
            arguments: Payload { sha256: Digest::of(b"{ }"), ..tool.arguments },
            ..tool
        }),
        ..call
    };
    let found = fixture.step(&claimed, NOW).0;
    assert_eq!(found, "altered args allow allow", "the event's own digest is a claim");
    assert_eq!(fixture.decided(&called), "matched - allow allow", "an altered call uses no token");
}

#[test]
fn token_of_another_call_is_altered() {
    let text = str::to_owned;
    for (token, claim) in [
        (Claims { environment: text("test"), ..claims(1) }, "environment"),
        (Claims { session_id: text("other"), ..claims(1) }, "session"),
        (Claims { agent_id: text("b"), ..claims(1) }, "agent"),
        (Claims { tool: text("pay"), ..claims(1) }, "tool"),
        (Claims { call_id: Some(text("d")), ..claims(1) }, "call_id"),
        (Claims { tenant_id: text("other"), ..claims(1) }, "tenant"),
        (Claims { definition: Some(Digest::of(b"seen")), ..claims(1) }, "definition"),
    ] {
        let token = key(1).sign(&token).unwrap();
        let found = Fixture::new().call(&claims(1), Some(&token), NOW);
        assert_eq!(found, format!("altered {claim} allow allow"));
    }
}

#[test]
fn token_is_valid_in_one_partition() {
    let mut fixture = Fixture::new();
    let (claims, token) = (claims(1), key(1).sign(&claims(1)).unwrap());
    let event = call(&claims, Some(&token), 0);
    assert_eq!(fixture.step(&event, NOW).0, "matched - allow allow");
    for partition in [1, 2] {
        fixture.sessions = fixture.evaluator.partition(partition);
        assert_eq!(fixture.step(&event, NOW).0, "altered partition allow allow");
    }
    let elsewhere = Claims { through: KnownThrough { partition: 2, offset: -1 }, ..claims };
    assert_eq!(fixture.decided(&elsewhere), "matched - allow allow", "the altered call used no token");
}

#[test]
fn token_of_another_key_is_forged() {
    for (seed, cause) in [(4, "unknown_key"), (2, "wrong_kind"), (3, "wrong_tenant")] {
        let token = key(seed).sign(&claims(1)).unwrap();
        let found = Fixture::new().call(&claims(1), Some(&token), NOW);
        assert_eq!(found, format!("forged {cause} - allow"));
    }
    let (mine, other) = (key(1).sign(&claims(1)).unwrap(), key(4).sign(&claims(1)).unwrap());
    let header = mine.split('.').next().unwrap();
    let rest = other.split_once('.').unwrap().1;
    let found = Fixture::new().call(&claims(1), Some(&format!("{header}.{rest}")), NOW);
    assert_eq!(found, "forged bad_signature - allow");
}

#[test]
fn token_without_an_algorithm_is_forged() {
    // {"alg":"none","typ":"agentgov-decision+jwt"}
    let header = "eyJhbGciOiJub25lIiwidHlwIjoiYWdlbnRnb3YtZGVjaXNpb24rand0In0";
    let token = key(1).sign(&claims(1)).unwrap();
    let claims_of_token = token.split('.').nth(1).unwrap();
    for token in [format!("{header}.{claims_of_token}."), String::new(), "a.b.c".to_owned()] {
        assert_eq!(Fixture::new().call(&claims(1), Some(&token), NOW), "forged malformed - allow");
    }
}

#[test]
fn token_of_a_key_revoked_between_decision_and_call_is_forged() {
    let mut fixture = Fixture::new();
    fixture.fold_key(1, KeyKind::Pdp, None, KeyState::Revoked, NOW);
    let token = key(1).sign(&claims(1)).unwrap();
    assert_eq!(fixture.call(&claims(1), Some(&token), NOW - 1), "matched - allow allow");
    let token = key(1).sign(&claims(2)).unwrap();
    assert_eq!(fixture.call(&claims(2), Some(&token), NOW), "forged revoked_key - allow");
}

#[test]
fn token_of_a_key_published_after_the_call_is_forged() {
    let token = key(1).sign(&claims(1)).unwrap();
    let found = Fixture::new().call(&claims(1), Some(&token), NOW - 2000);
    assert_eq!(found, "forged not_yet_valid - allow");
}

#[test]
fn verdict_that_differs_names_the_input() {
    let wrong = || Claims { outcome: Decision::Deny, ..claims(1) };
    for (claims, cause) in [
        (Claims { unavailable: Some("stale".to_owned()), agents: None, ..wrong() }, "unavailable"),
        (Claims { bundle: None, ..wrong() }, "bundle"),
        (Claims { bundle: Some(Digest::of(b"")), agents: Some(0), ..wrong() }, "bundle"),
        (Claims { agents: Some(0), ..wrong() }, "agents"),
        (Claims { tools: Some(7), ..wrong() }, "tools"),
        (Claims { through: KnownThrough { partition: 0, offset: -1 }, ..wrong() }, "records"),
        (wrong(), "event"),
    ] {
        let mut fixture = Fixture::new();
        assert_eq!(fixture.call(&claims, None, NOW), "undecided - - allow");
        let unavailable = claims.unavailable.as_deref().unwrap_or_default();
        assert_eq!(fixture.decided(&claims), format!("differs {cause} deny allow{unavailable}"));
    }
    let mut fixture = Fixture::new();
    fixture.fold_agent(AgentState::Suspended, 1);
    assert_eq!(fixture.decided(&claims(1)), "differs agents allow deny");
    let mut fixture = Fixture::new();
    fixture.push_bundle("decisions: required\n", 1);
    assert_ne!(fixture.bundle, files("decisions: required\n").digest());
    assert_eq!(fixture.decided(&claims(1)), "matched - allow allow required", "only outcomes are compared");
}

#[test]
fn first_result_of_a_refused_call_is_alerted_once_also_after_a_restart() {
    let mut fixture = Fixture::new();
    fixture.decided(&denied(1));
    fixture.restart();
    assert_eq!(fixture.answer("c"), (String::new(), vec!["deny Some(0) pay".to_owned()]));
    assert_eq!(fixture.answer("c").1, [""; 0], "one alert for each call");
    fixture.restart();
    assert_eq!(fixture.answer("c").1, [""; 0]);
}

#[test]
fn result_of_a_call_that_was_not_refused_is_not_alerted() {
    let mut fixture = Fixture::new();
    for (claims, token) in [
        (claims(1), Some(key(1).sign(&claims(1)).unwrap())),
        (denied(2), None),
        (denied(3), Some(key(4).sign(&denied(3)).unwrap())),
    ] {
        fixture.call(&claims, token.as_deref(), NOW);
        assert_eq!(fixture.answer("c").1, [""; 0], "{}", claims.decision_id);
    }
    fixture.decided(&denied(4));
    fixture.decided(&claims(5));
    assert_eq!(fixture.answer("c").1, [""; 0], "a result belongs to the latest call of its id");
}

#[test]
fn refused_call_with_its_result_in_one_event_is_alerted() {
    let mut fixture = Fixture::new();
    let claims = denied(1);
    let token = key(1).sign(&claims).unwrap();
    let event = ActionEvent { result: Some(result("c")), ..call(&claims, Some(&token), 0) };
    let expected = ("matched - deny deny".to_owned(), vec!["deny Some(0) pay".to_owned()]);
    assert_eq!(fixture.step(&event, NOW), expected);
}

#[test]
fn expired_session_leaves_no_used_token() {
    let mut fixture = Fixture::new();
    fixture.decided(&claims(1));
    let week = 8 * 24 * 3_600_000;
    let other = Claims { session_id: "later".to_owned(), ..claims(2) };
    fixture.call(&other, None, NOW + week);
    let tokens =
        fixture.changelog.iter().filter(|(key, _)| String::from_utf8_lossy(key).contains("\"token\""));
    let values: Vec<bool> = tokens.map(|(_, value)| value.is_some()).collect();
    assert_eq!(values, [true, false]);
}
