//! Calls that a person approves: what the log has of the request and the decision, and what the verdict on the call says.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by a panic"
)]

use std::collections::BTreeMap;
use std::sync::Arc;

use agentgov_evaluator::{Action, Evaluator, Replica, Sessions};
use agentgov_policy::{ApprovalClaim, Bundle, BundleFiles, generated_schema};
use agentgov_processor::{Outputs, Processor as _, RestoreValue, TableRecord};
use agentgov_schemas::event::{self, ActionEvent, Actor, Agent, Payload, Source, ToolCall};
use agentgov_schemas::governance::{self, AgentEntry, AgentState, BundleFile, KeyEntry, KeyKind, KeyState};
use agentgov_schemas::subject;
use agentgov_schemas::topology::{MissingRole, Topology};
use agentgov_schemas::verdict::{Decision, Origin, Verdict};
use agentgov_schemas::wire::{self, Schema, SchemaId};
use agentgov_schemas::{Digest, Micros, Millis, Record, RecordEncoder, SessionKey, catalogue};
use agentgov_token::{ApprovalClaims, Claims, KnownThrough, SigningKey};

const ID: SchemaId = SchemaId(1);
/// Append time of the first record, in milliseconds.
const NOW: i64 = 1_790_000_000_000;
/// End of each approval.
const END: i64 = NOW + 900_000;
const ASKS: &str = "@id(\"grant\") permit (principal, action, resource);\n\
                    @id(\"ask\") @severity(\"low\") @effect(\"ask\") forbid (principal, action, resource == Tool::\"pay\");";
const DENIES: &str = "@id(\"grant\") permit (principal, action, resource);\n\
                      @id(\"no\") @severity(\"high\") forbid (principal, action, resource == Tool::\"pay\");";
const ALLOWS: &str = "@id(\"grant\") permit (principal, action, resource);";
/// Seeds of keys.
const PDP: u8 = 1;
const GRACE: u8 = 2;
/// Owner of the agent.
const ADA: u8 = 3;
/// Person for whom the agent acts.
const EVE: u8 = 4;
/// Another approver.
const HEIDI: u8 = 5;
/// Approver of another tenant.
const OTHER: u8 = 6;
/// A key that is not published.
const MALLORY: u8 = 7;
/// Sponsor of the agent.
const SAM: u8 = 8;

struct Fixture {
    topology: Topology,
    evaluator: Evaluator,
    sessions: Sessions,
    outputs: Outputs,
    changelog: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// Follows the topic of actions only, so that each of its sessions is stepped ahead.
    replica: Replica,
    offset: i64,
    now: i64,
    bundles: i64,
    keys: i64,
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32])
}

fn name(seed: u8) -> &'static str {
    ["", "pdp", "grace", "Ada", "eve", "heidi", "olga", "grace", "sam"][usize::from(seed)]
}

fn approval_id(number: u8) -> String {
    format!("0192f0c1-7a3b-7c4d-9e5f-0000000000{number:02}")
}

fn payload(data: &[u8]) -> Payload<'_> {
    Payload { data, sha256: Digest::of(b"a claim"), media_type: "application/json", redacted: false }
}

fn event<'a>(r#type: &'a str, sequence: i64) -> ActionEvent<'a> {
    ActionEvent {
        environment: "production",
        occurred_at: Micros(1),
        ..ActionEvent::new(
            "e",
            r#type,
            SessionKey { tenant_id: "acme", session_id: "s" },
            Source { id: "p", sequence },
            Agent::new("bot"),
        )
    }
}

fn approval_claims(number: u8, seed: u8) -> ApprovalClaims {
    ApprovalClaims {
        approval_id: approval_id(number),
        approver: name(seed).to_owned(),
        issued_at: NOW / 1000,
        expires_at: END / 1000,
        tenant_id: "acme".to_owned(),
        environment: "production".to_owned(),
        session_id: "s".to_owned(),
        agent_id: "bot".to_owned(),
        tool: "pay".to_owned(),
        arguments: Digest::of(b"{}"),
        outcome: Decision::Allow,
    }
}

impl Fixture {
    fn new() -> Self {
        let topology = Topology::embedded().unwrap().clone();
        let stage = topology.stage("evaluator").unwrap();
        let evaluator = Evaluator::new(&topology, stage).unwrap();
        let outputs = Outputs::new(&topology, stage, |_, _| Ok::<_, MissingRole>(ID)).unwrap();
        let sessions = evaluator.partition(0);
        let mut fixture = Self {
            topology,
            evaluator,
            sessions,
            outputs,
            changelog: vec![],
            replica: Replica::new("actions", 0),
            offset: 0,
            now: NOW,
            bundles: 0,
            keys: 0,
        };
        let agent =
            AgentEntry { owner: "ada", sponsor: "Sam", ..AgentEntry::new("acme", "bot", AgentState::Active) };
        fixture.fold(&agent, 0, NOW - 1000);
        fixture.push(ASKS);
        fixture.evaluator.tables_loaded();
        fixture.publish(PDP, KeyKind::Pdp, None, KeyState::Active);
        for seed in [GRACE, ADA, EVE, HEIDI, SAM] {
            fixture.publish(seed, KeyKind::Approver, None, KeyState::Active);
        }
        fixture.publish(OTHER, KeyKind::Approver, Some("other"), KeyState::Active);
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

    fn push(&mut self, rules: &str) {
        let manifest = "name: b\nversion: '1'\nenvironments: [production]\n";
        let mut files = BTreeMap::from([
            ("bundle.yaml".to_owned(), manifest.as_bytes().to_vec()),
            (
                "tools.yaml".to_owned(),
                b"default: { effect: read }\ntools: { pay: { effect: write } }\n".to_vec(),
            ),
            ("rules.cedar".to_owned(), rules.as_bytes().to_vec()),
        ]);
        let schema = generated_schema(&BundleFiles(files.clone())).unwrap();
        files.insert("schema.cedarschema".to_owned(), schema.into());
        let files = BundleFiles(files);
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
        let offset = self.bundles;
        self.bundles += 1;
        self.fold(&record, offset, NOW - 1000);
    }

    fn publish(&mut self, seed: u8, kind: KeyKind, tenant_id: Option<&str>, state: KeyState) {
        let key = key(seed);
        let public_key = key.public_key().to_jwk().to_string();
        let entry = KeyEntry {
            kid: key.kid(),
            kind: kind.into(),
            name: name(seed),
            tenant_id,
            public_key: &public_key,
            state: state.into(),
            reason: "",
            pushed_by: "",
        };
        let (offset, now) = (self.keys, self.now);
        self.keys += 1;
        self.fold(&entry, offset, if state == KeyState::Active { NOW - 1000 } else { now });
    }

    /// Steps an event as a batch of its own. Returns the verdict as `decision reason approval cause approver`.
    fn step(&mut self, event: &ActionEvent<'_>) -> String {
        let offset = self.offset;
        self.offset += 1;
        let origin = Origin { topic: "actions", partition: 0, offset, logged_at: Millis(self.now) };
        self.outputs.clear();
        self.evaluator.step(&mut self.sessions, &origin, event, &mut self.outputs).unwrap();
        self.evaluator.finish(&mut self.sessions, offset + 1, &mut self.outputs).unwrap();
        let (changelog, _) = self.topology.topic_of(subject::SESSION_STATE).unwrap();
        let entries = self.outputs.iter().filter(|record| record.topic == changelog);
        self.changelog.extend(entries.map(|record| (record.key.to_vec(), record.value.map(<[u8]>::to_vec))));
        self.follow(event, offset);
        let (verdicts, _) = self.topology.topic_of(subject::VERDICT).unwrap();
        let verdict = self.outputs.iter().find(|record| record.topic == verdicts);
        verdict.map_or_else(String::new, |record| {
            let (id, datum) = wire::split(record.value.unwrap()).unwrap();
            let verdict: Verdict<'_> = subject::VERDICT.schema().unwrap().decode(id, datum).unwrap();
            let known = if verdict.known.contains("\"approval\"") { " known" } else { "" };
            let approval = verdict.approval.map_or_else(String::new, |approval| {
                assert_eq!(
                    verdict.tables.len(),
                    4,
                    "a verdict about an approval names the position of the keys"
                );
                let cause = approval.cause.map_or_else(String::new, |cause| format!(" {cause}"));
                let approver =
                    approval.approver.map_or_else(String::new, |approver| format!(" by {approver}"));
                format!(" {}{cause}{approver}", approval.finding)
            });
            format!("{} {}{approval}{known}", verdict.decision, verdict.reason)
        })
    }

    /// Gives the event to the replica, and compares its session with the evaluator's.
    fn follow(&mut self, event: &ActionEvent<'_>, offset: i64) {
        let schema = Arc::new(Schema::parse(subject::ACTION_EVENT.latest()).unwrap());
        let bytes = RecordEncoder::<ActionEvent<'static>>::new(ID).unwrap().encode(event).unwrap();
        let (schema_id, datum) = wire::split(&bytes).unwrap();
        let logged_at = Millis(self.now);
        self.replica.push(&Action { offset, logged_at, schema_id, schema: &schema, datum }).unwrap();
        let kernel = self.evaluator.kernel();
        let session = self.replica.session(&kernel, event.tenant_id, event.session_id).unwrap();
        let approvals = |session: &agentgov_enrichment::Session| {
            session.approvals().map(|(id, approval)| format!("{id} {approval:?}")).collect::<Vec<_>>()
        };
        let stepped = self.sessions.get(event.tenant_id, event.session_id).map(approvals);
        assert_eq!(approvals(&session), stepped.unwrap_or_default());
    }

    fn asked(&mut self, number: u8) -> String {
        self.asked_about("s", number, b"{}")
    }

    fn asked_about(&mut self, session_id: &str, number: u8, arguments: &[u8]) -> String {
        let id = approval_id(number);
        let approval = event::Approval {
            tool: Some("pay"),
            arguments: Some(payload(arguments)),
            expires_at: Some(Millis(END)),
            ..event::Approval::new(&id)
        };
        let event = ActionEvent {
            session_id,
            actor: Some(Actor { id: "eve", r#type: "human" }),
            approval: Some(approval),
            ..event(catalogue::APPROVAL_ASKED, 0)
        };
        self.step(&event)
    }

    /// Records a decision with these claims, signed by a key.
    fn decided(&mut self, number: u8, seed: u8, change: impl FnOnce(&mut ApprovalClaims)) {
        let mut claims = approval_claims(number, seed);
        change(&mut claims);
        let token = key(seed).sign_approval(&claims).unwrap();
        self.decided_with("s", number, Some(&token));
    }

    fn decided_with(&mut self, session_id: &str, number: u8, token: Option<&str>) {
        let id = approval_id(number);
        let approval = event::Approval { granted: Some(true), token, ..event::Approval::new(&id) };
        let event =
            ActionEvent { session_id, approval: Some(approval), ..event(catalogue::APPROVAL_DECIDED, 0) };
        assert_eq!(self.step(&event), "");
    }

    fn granted(&mut self, number: u8) {
        self.asked(number);
        self.decided(number, GRACE, |_| ());
    }

    /// Records a call whose token relies on an approval.
    fn call(&mut self, number: u8) -> String {
        self.call_with(number, b"{}", |_| ())
    }

    fn call_with(&mut self, number: u8, arguments: &[u8], change: impl FnOnce(&mut Claims)) -> String {
        let mut claims = Claims {
            decision_id: format!("0192f0c1-7a3b-7c4d-9e5f-{:012}", self.offset),
            issuer: "pdp".to_owned(),
            issued_at: self.now / 1000,
            expires_at: self.now / 1000 + 60,
            tenant_id: "acme".to_owned(),
            environment: "production".to_owned(),
            session_id: "s".to_owned(),
            agent_id: "bot".to_owned(),
            tool: "pay".to_owned(),
            call_id: None,
            arguments: Digest::of(arguments),
            outcome: Decision::Allow,
            bundle: None,
            through: KnownThrough { partition: 0, offset: 0 },
            agents: Some(1),
            tools: Some(0),
            unavailable: None,
            definition: None,
            approval_id: Some(approval_id(number)),
        };
        change(&mut claims);
        let token = key(PDP).sign(&claims).unwrap();
        self.recorded("s", arguments, Some(&token), "")
    }

    fn plain_call(&mut self) -> String {
        self.recorded("s", b"{}", None, "")
    }

    fn recorded(
        &mut self,
        session_id: &str,
        arguments: &[u8],
        decision_token: Option<&str>,
        actor: &str,
    ) -> String {
        let tool = ToolCall { decision_token, ..ToolCall::new("pay", "c", payload(arguments)) };
        let actor = (!actor.is_empty()).then_some(Actor { id: actor, r#type: "human" });
        let sequence = self.offset;
        self.step(&ActionEvent {
            session_id,
            actor,
            tool: Some(tool),
            ..event(catalogue::TOOL_INVOKED, sequence)
        })
    }

    /// Returns the decision before a call, as `decision finding`.
    fn decide(&self) -> String {
        let kernel = self.evaluator.kernel();
        let tool = ToolCall::new("pay", "c", payload(b"{}"));
        let event = ActionEvent { tool: Some(tool), ..event(catalogue::TOOL_INVOKED, 99) };
        let session = self.replica.session(&kernel, "acme", "s").unwrap();
        let claim = ApprovalClaim::Before { now: Millis(self.now), excluded: &[] };
        let judged = kernel.decide(&session, &event, claim).unwrap();
        let finding = judged.approval.map_or("-", |approval| approval.finding.as_str());
        format!("{} {finding}", judged.decision.as_str())
    }

    /// Replaces the state by what a compacted changelog restores.
    fn restart(&mut self) {
        let before = self.sessions.get("acme", "s").map(|session| format!("{session:?}"));
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
        let approvals = |session: &agentgov_enrichment::Session| {
            session.approvals().map(|(id, approval)| format!("{id} {approval:?}")).collect::<Vec<_>>()
        };
        assert_eq!(
            sessions.get("acme", "s").map(approvals),
            self.sessions.get("acme", "s").map(approvals),
            "{before:?}"
        );
        self.sessions = sessions;
    }
}

#[test]
fn approved_call_is_allowed_once() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.decide(), "ask -");
    assert_eq!(fixture.plain_call(), "ask policy");
    assert_eq!(fixture.asked(1), "", "no verdict");
    assert_eq!((fixture.decide().as_str(), fixture.plain_call().as_str()), ("ask open", "ask policy open"));
    fixture.decided(1, GRACE, |_| ());
    assert_eq!(fixture.decide(), "allow granted");
    assert_eq!(fixture.plain_call(), "ask policy unclaimed by grace", "its token must name the approval");
    assert_eq!(fixture.call(1), "allow approved granted by grace known");
    assert_eq!(fixture.decide(), "ask reused");
    assert_eq!(fixture.call(1), "ask policy reused by grace");
    assert_eq!(fixture.plain_call(), "ask policy reused by grace");
    // Another request for the same call begins anew.
    fixture.granted(2);
    assert_eq!(fixture.decide(), "allow granted");
    assert_eq!(fixture.call(2), "allow approved granted by grace known");
}

#[test]
fn approval_survives_a_restart_at_each_step() {
    let mut fixture = Fixture::new();
    fixture.asked(1);
    fixture.restart();
    assert_eq!(fixture.plain_call(), "ask policy open", "the session began with a request");
    fixture.decided(1, MALLORY, |_| ());
    fixture.restart();
    assert_eq!(fixture.plain_call(), "ask policy forged unknown_key");
    fixture.decided(1, GRACE, |_| ());
    fixture.restart();
    assert_eq!(fixture.call(1), "allow approved granted by grace known");
    fixture.restart();
    assert_eq!(fixture.call(1), "ask policy reused by grace");
}

#[test]
fn refused_call_is_asked_about_with_the_refusal() {
    let mut fixture = Fixture::new();
    fixture.asked(1);
    fixture.decided(1, GRACE, |claims| claims.outcome = Decision::Deny);
    assert_eq!(fixture.decide(), "ask refused");
    assert_eq!(fixture.call(1), "ask policy refused by grace");
}

#[test]
fn first_decision_of_two_approvers_counts() {
    for (first, second, expected) in [
        (Decision::Deny, Decision::Allow, "ask policy refused by grace"),
        (Decision::Allow, Decision::Deny, "allow approved granted by grace known"),
    ] {
        let mut fixture = Fixture::new();
        fixture.asked(1);
        fixture.decided(1, GRACE, |claims| claims.outcome = first);
        fixture.decided(1, HEIDI, |claims| claims.outcome = second);
        assert_eq!(fixture.call(1), expected);
    }
}

#[test]
fn decision_that_is_not_valid_does_not_count_and_the_next_one_does() {
    type Change = fn(&mut ApprovalClaims);
    let cases: &[(&str, u8, Change, &str)] = &[
        ("signed by a stranger", MALLORY, |_| (), "forged unknown_key"),
        ("signed by a decision point", PDP, |_| (), "forged wrong_kind"),
        ("signed by an approver of another tenant", OTHER, |_| (), "forged wrong_tenant"),
        ("in the name of another", HEIDI, |claims| claims.approver = "grace".into(), "forged malformed"),
        ("by the person for whom it is", EVE, |_| (), "own"),
        ("by the owner of the agent", ADA, |_| (), "own"),
        ("by the sponsor of the agent", SAM, |_| (), "own"),
        ("of another tenant", GRACE, |claims| claims.tenant_id = "other".into(), "altered tenant"),
        ("of another session", GRACE, |claims| claims.session_id = "t".into(), "altered session"),
        ("of another approval", GRACE, |claims| claims.approval_id = approval_id(9), "altered approval"),
        ("of another environment", GRACE, |claims| claims.environment = "test".into(), "altered environment"),
        ("of another agent", GRACE, |claims| claims.agent_id = "other".into(), "altered agent"),
        ("of another tool", GRACE, |claims| claims.tool = "look".into(), "altered tool"),
        ("of other bytes", GRACE, |claims| claims.arguments = Digest::of(b"{ }"), "altered args"),
        (
            "expired by the approver",
            GRACE,
            |claims| {
                claims.issued_at -= 10;
                claims.expires_at = NOW / 1000;
            },
            "expired",
        ),
    ];
    for (case, seed, change, finding) in cases {
        let mut fixture = Fixture::new();
        fixture.asked(1);
        fixture.decided(1, *seed, change);
        assert_eq!(fixture.decide(), format!("ask {}", finding.split(' ').next().unwrap()), "{case}");
        assert_eq!(fixture.call(1), format!("ask policy {finding}"), "{case}");
        fixture.restart();
        // The call above used the approval up, so the next one needs a request of its own.
        fixture.asked(2);
        fixture.decided(2, *seed, |claims| {
            change(claims);
            claims.approval_id = if *case == "of another approval" { approval_id(9) } else { approval_id(2) };
        });
        fixture.decided(2, HEIDI, |_| ());
        assert_eq!(fixture.call(2), "allow approved granted by heidi known", "{case}");
    }
}

#[test]
fn changed_or_missing_signature_is_forged() {
    let signed = key(GRACE).sign_approval(&approval_claims(1, GRACE)).unwrap();
    let mut changed = signed.clone().into_bytes();
    let dot = signed.rfind('.').unwrap();
    changed[dot + 1] ^= 1;
    let decision = {
        let mut fixture = Fixture::new();
        let mut token = String::new();
        fixture.call_with(1, b"{}", |claims| token = key(PDP).sign(claims).unwrap());
        token
    };
    for (token, cause) in [
        (None, "malformed"),
        (Some("not a token"), "malformed"),
        (Some(decision.as_str()), "malformed"),
        (Some(std::str::from_utf8(&changed).unwrap()), "bad_signature"),
    ] {
        let mut fixture = Fixture::new();
        fixture.asked(1);
        fixture.decided_with("s", 1, token);
        assert_eq!(fixture.call(1), format!("ask policy forged {cause}"), "{token:?}");
    }
}

#[test]
fn approval_with_a_revoked_key_is_forged() {
    // Revoked before the decision, and after it.
    for is_before in [true, false] {
        let mut fixture = Fixture::new();
        fixture.asked(1);
        fixture.now += 1;
        if is_before {
            fixture.publish(GRACE, KeyKind::Approver, None, KeyState::Revoked);
        }
        fixture.decided(1, GRACE, |_| ());
        fixture.now += 1;
        if !is_before {
            assert_eq!(fixture.decide(), "allow granted");
            fixture.publish(GRACE, KeyKind::Approver, None, KeyState::Revoked);
        }
        assert_eq!(fixture.decide(), "ask forged");
        let by = if is_before { "" } else { " by grace" };
        assert_eq!(fixture.call(1), format!("ask policy forged revoked_key{by}"));
    }
}

#[test]
fn approval_is_for_these_bytes_in_this_session_only() {
    let mut fixture = Fixture::new();
    fixture.granted(1);
    assert_eq!(fixture.call_with(1, b"{ }", |_| ()), "ask policy altered args by grace");
    assert_eq!(fixture.recorded("s", b"{ }", None, ""), "ask policy", "no approval of these bytes");

    let mut fixture = Fixture::new();
    fixture.granted(1);
    fixture.asked_about("t", 1, b"{}");
    let token = key(GRACE).sign_approval(&approval_claims(1, GRACE)).unwrap();
    fixture.decided_with("t", 1, Some(&token));
    assert_eq!(fixture.recorded("t", b"{}", None, ""), "ask policy altered session", "copied into a session");
    assert_eq!(fixture.recorded("u", b"{}", None, ""), "ask policy");
    assert_eq!(fixture.call(1), "allow approved granted by grace known");
}

#[test]
fn approval_expires_by_the_brokers_clock() {
    for (at, expected) in
        [(END - 1, "allow approved granted by grace known"), (END, "ask policy expired by grace")]
    {
        let mut fixture = Fixture::new();
        fixture.granted(1);
        fixture.now = at;
        assert_eq!(fixture.call(1), expected);
    }
    let mut fixture = Fixture::new();
    fixture.asked(1);
    fixture.now = END;
    fixture.decided(1, GRACE, |_| ());
    assert_eq!(fixture.call(1), "ask policy expired", "decided too late");
    fixture.now = END + 60_000;
    assert_eq!(fixture.asked(2), "", "expired when it was logged");
    assert_eq!(fixture.call(2), "ask policy unknown");
}

#[test]
fn request_with_a_late_end_lasts_a_day() {
    let mut fixture = Fixture::new();
    let id = approval_id(1);
    let approval = event::Approval {
        tool: Some("pay"),
        arguments: Some(payload(b"{}")),
        expires_at: Some(Millis(i64::MAX)),
        ..event::Approval::new(&id)
    };
    fixture.step(&ActionEvent { approval: Some(approval), ..event(catalogue::APPROVAL_ASKED, 0) });
    let expires_at = fixture.sessions.get("acme", "s").unwrap().approval(&id).unwrap().expires_at;
    assert_eq!(expires_at, Millis(NOW + 24 * 3_600_000));
}

#[test]
fn call_for_the_approver_is_not_approved() {
    let mut fixture = Fixture::new();
    fixture.granted(1);
    let token = {
        let mut token = String::new();
        Fixture::new().call_with(1, b"{}", |claims| token = key(PDP).sign(claims).unwrap());
        token
    };
    assert_eq!(fixture.recorded("s", b"{}", Some(&token), " Grace"), "ask policy own by grace");
}

#[test]
fn approval_does_not_count_against_a_policy_that_denies() {
    let mut fixture = Fixture::new();
    fixture.granted(1);
    fixture.push(DENIES);
    assert_eq!((fixture.decide().as_str(), fixture.call(1).as_str()), ("deny -", "deny policy not_asked"));

    let mut fixture = Fixture::new();
    fixture.granted(1);
    fixture.push(ALLOWS);
    assert_eq!(fixture.call(1), "allow granted not_asked");
}

#[test]
fn call_logged_late_with_an_expired_token_uses_the_approval() {
    let mut fixture = Fixture::new();
    fixture.granted(1);
    let late = fixture.call_with(1, b"{}", |claims| {
        claims.issued_at -= 120;
        claims.expires_at -= 120;
    });
    assert_eq!(late, "allow approved granted by grace known");
    assert_eq!(fixture.call(1), "ask policy reused by grace");
}

#[test]
fn token_of_another_outcome_uses_no_approval() {
    let mut fixture = Fixture::new();
    fixture.granted(1);
    assert_eq!(
        fixture.call_with(1, b"{}", |claims| claims.outcome = Decision::Ask),
        "ask policy unclaimed by grace"
    );
    assert_eq!(fixture.call(1), "allow approved granted by grace known");
}

#[test]
fn token_of_another_call_of_the_session_uses_the_approval_and_lets_nothing_through() {
    type Alter = fn(&mut Claims);
    let cases: [(&str, Alter); 6] = [
        ("call_id", |claims| claims.call_id = Some("another".to_owned())),
        ("definition", |claims| claims.definition = Some(Digest::of(b"another"))),
        ("partition", |claims| claims.through.partition = 1),
        ("tool", |claims| claims.tool = "look".to_owned()),
        ("args", |claims| claims.arguments = Digest::of(b"{ }")),
        ("environment", |claims| claims.environment = "test".to_owned()),
    ];
    for (cause, change) in cases {
        for late in [0, 120] {
            let mut fixture = Fixture::new();
            fixture.granted(1);
            let found = fixture.call_with(1, b"{}", |claims| {
                change(claims);
                claims.issued_at -= late;
                claims.expires_at -= late;
            });
            assert_eq!(found, format!("ask policy altered {cause} by grace"));
            assert_eq!(fixture.call(1), "ask policy reused by grace", "{cause}");
        }
    }
}

#[test]
fn approvals_begin_no_session_and_change_no_counter() {
    let mut fixture = Fixture::new();
    fixture.granted(1);
    let header = fixture.sessions.get("acme", "s").unwrap().header();
    assert_eq!((header.events, header.tool_calls, header.sources.len()), (0, 0, 0));
    assert_eq!(fixture.sessions.get("acme", "s").unwrap().started_at(), None);
    fixture.plain_call();
    fixture.asked(2);
    let session = fixture.sessions.get("acme", "s").unwrap();
    assert_eq!((session.events(), session.tool_calls(), session.applied_through()), (1, 1, Some(2)));
}

#[test]
fn unreadable_request_or_unknown_decision_leaves_nothing() {
    let id = approval_id(1);
    let whole = event::Approval {
        tool: Some("pay"),
        arguments: Some(payload(b"{}")),
        expires_at: Some(Millis(END)),
        ..event::Approval::new(&id)
    };
    for approval in [
        None,
        Some(event::Approval { id: "", ..whole }),
        Some(event::Approval { tool: None, ..whole }),
        Some(event::Approval { tool: Some(""), ..whole }),
        Some(event::Approval { arguments: None, ..whole }),
        Some(event::Approval { expires_at: None, ..whole }),
    ] {
        let mut fixture = Fixture::new();
        fixture.step(&ActionEvent { approval, ..event(catalogue::APPROVAL_ASKED, 0) });
        fixture.decided(1, GRACE, |_| ());
        assert_eq!((fixture.sessions.len(), fixture.changelog.len()), (0, 2), "{approval:?}: only progress");
    }
}
