//! Tests of invalid bundles and topologies: they stop nothing, and the command reports all errors at once.

use std::path::{Path, PathBuf};

use agentgov_policy::{BundleFiles, SCHEMA_FILE};
use agentgov_registry::read_bundle_folder;
use agentgov_schemas::governance::{Bundle, BundleFile};
use agentgov_schemas::{NotReadyReason, SessionKey, catalogue, subject};
use agentgov_sdk::{Content, Event, Recorder, ToolCall};

use crate::actions::Writer;
use crate::checks;
use crate::stack::{AGENT, DEADLINE, ENVIRONMENT, Stack, describe, root, stack};

/// Copy of the airline's bundle under another name, for its own environments.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new(name: &str, environment: &str) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let files = read_bundle_folder(&root().join("examples/airline/bundle")).unwrap().files;
        for (path, content) in files {
            folder.write(&path, &String::from_utf8(content).unwrap());
        }
        folder
            .write("bundle.yaml", &format!("name: {name}\nversion: \"1\"\nenvironments: [{environment}]\n"));
        folder
    }

    /// Returns a bundle with these tools and policies, and the schema that fits them.
    pub fn with_policies(name: &str, environment: &str, tools: &str, policies: &str) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let manifest = format!("name: {name}\nversion: \"1\"\nenvironments: [{environment}]\n");
        for (path, text) in
            [("bundle.yaml", manifest.as_str()), ("tools.yaml", tools), ("policies.cedar", policies)]
        {
            folder.write(path, text);
        }
        stack().run(&["policy", "check", "--write", folder.name()]);
        folder
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn name(&self) -> &str {
        self.path().to_str().unwrap()
    }

    fn file(&self, path: &str) -> PathBuf {
        self.path().join(path)
    }

    pub fn write(&self, path: &str, text: &str) {
        let file = self.file(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }

    fn replace(&self, path: &str, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.file(path)).unwrap();
        assert!(text.contains(from), "{path}: {from}");
        self.write(path, &text.replace(from, to));
    }

    /// Returns the line of `text` in a file of the bundle.
    fn line(&self, path: &str, text: &str) -> usize {
        let lines = std::fs::read_to_string(self.file(path)).unwrap();
        1 + lines.lines().position(|line| line.contains(text)).unwrap()
    }
}

/// Runs a command that must fail with `code`, and returns stdout and stderr.
fn run_failing(stack: &Stack, code: i32, args: &[&str]) -> String {
    let output = stack.command(args).output().unwrap();
    assert_eq!(output.status.code(), Some(code), "agentgov {args:?}: {}", describe(&output));
    describe(&output)
}

/// Records a harmless call, the first of a session.
fn call(recorder: &Recorder, session_id: &str) {
    let agent = agentgov_schemas::event::Agent { id: AGENT, name: None, version: None };
    let arguments = Content { data: b"{}", media_type: "application/json" };
    let tool = ToolCall::new("think", "c", arguments);
    recorder
        .record(&Event { tool: Some(tool), ..Event::new(catalogue::TOOL_INVOKED, session_id, agent) })
        .unwrap();
}

/// Waits for the verdict on a session's call. Returns decision, reason, bundle name and version.
fn verdict(stack: &Stack, tenant_id: &str, session_id: &str) -> Vec<String> {
    let sql = format!(
        "SELECT decision, reason, bundle_name, bundle_version FROM verdicts
         WHERE tenant_id = '{tenant_id}' AND session_id = '{session_id}'"
    );
    let mut found = Vec::new();
    stack.eventually(&format!("a verdict on {session_id} of {tenant_id}"), || {
        found = stack.rows(&sql);
        !found.is_empty()
    });
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

/// Records calls in new sessions until the verdict is `expected`, since a pushed bundle takes effect asynchronously.
/// Returns their number.
pub fn call_until(
    stack: &Stack,
    recorder: &Recorder,
    tenant_id: &str,
    prefix: &str,
    expected: &[&str],
) -> i64 {
    let mut calls = 0;
    stack.eventually(&format!("{expected:?} of {prefix}"), || {
        let session = format!("{prefix}-{calls}");
        calls += 1;
        call(recorder, &session);
        verdict(stack, tenant_id, &session) == expected
    });
    calls
}

/// Returns the evaluator's reason about bundles that do not load.
fn bundle_reason(stack: &Stack) -> Option<String> {
    let (_, health) = stack.health.iter().find(|(stage, _)| stage == "evaluator").unwrap();
    health.snapshot().not_ready.remove(&NotReadyReason::Bundle)
}

/// Pushes a good bundle on drop, since all tests share the evaluator.
struct PushGoodBundleOnDrop<'a>(&'a Stack, &'a Folder);

impl Drop for PushGoodBundleOnDrop<'_> {
    fn drop(&mut self) {
        let _ = self.0.command(&["policy", "push", self.1.name()]).output();
    }
}

#[test]
fn push_replaces_a_bundle_of_another_name_only_on_request_and_names_it() {
    let stack = stack();
    let (first, second) = (Folder::new("first", "replacing"), Folder::new("second", "replacing"));
    stack.run(&["policy", "push", first.name()]);
    let refused = stack.command(&["policy", "push", second.name()]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1), "{}", describe(&refused));
    assert!(describe(&refused).contains("found first 1 in replacing"), "{}", describe(&refused));
    let push = ["policy", "push", second.name(), "--replace", "--json"];
    let pushed: serde_json::Value = serde_json::from_str(&stack.run(&push)).unwrap();
    let replaced = serde_json::json!([{ "environment": "replacing", "name": "first", "version": "1" }]);
    assert_eq!((&pushed["outcome"], &pushed["replaced"]), (&"pushed".into(), &replaced));
}

#[test]
fn broken_bundle_on_the_topic_stops_neither_logging_nor_judging() {
    const TENANT: &str = "broken-bundle";
    let stack = stack();
    stack.register(&[TENANT]);
    let folder = Folder::new("mendable", "mending");
    stack.run(&["policy", "push", folder.name()]);
    let recorder = stack.recorder(TENANT, "mending");
    let good = ["allow", "granted", "mendable", "1"];
    let mut calls = call_until(stack, &recorder, TENANT, "before", &good);

    // Pushes as an older build might, without the checks of the command.
    let mut files = BundleFiles(read_bundle_folder(folder.path()).unwrap().files);
    files.0.insert("extra.cedar".into(), b"@id(\"extra\")\nforbid (principal, action,".to_vec());
    let mended = PushGoodBundleOnDrop(stack, &folder);
    let mut writer = Writer::<Bundle<'static>>::new(stack);
    let value = writer.encode(&Bundle {
        name: "mendable",
        version: "2",
        digest: files.digest(),
        environments: vec!["mending"],
        files: files.0.iter().map(|(path, content)| BundleFile { path, content }).collect(),
        pushed_by: "tests",
        policies: vec![],
    });
    let broken = writer.write(b"mendable", Some(&value));
    stack.eventually("the evaluator to say so", || bundle_reason(stack).is_some());
    let why = bundle_reason(stack).unwrap();
    assert!(why.contains("mendable 2") && why.contains("extra.cedar:2"), "{why}");

    for number in 0..5 {
        call(&recorder, &format!("meanwhile-{number}"));
        assert_eq!(verdict(stack, TENANT, &format!("meanwhile-{number}")), good);
        calls += 1;
    }
    let alerts = format!(
        "SELECT alert_id, revision, severity, environment, agent_id, position(message, 'extra.cedar:2') > 0 FROM alerts
         WHERE tenant_id = 'agentgov' AND policy = 'agentgov:bundle-refused' AND origin_offset = {}",
        broken.offset
    );
    stack.eventually("the alert", || !stack.rows(&alerts).is_empty());

    drop(mended);
    stack.eventually("the evaluator to be ready again", || bundle_reason(stack).is_none());
    calls += call_until(stack, &recorder, TENANT, "after", &good);
    recorder.close(DEADLINE).unwrap();
    checks::assert_complete(stack, TENANT, calls + 1);
    let alerts = stack.rows(&alerts);
    assert_eq!(alerts.len(), 1, "alerted once: {alerts:?}");
    assert_eq!(alerts[0][1..], ["0", "critical", "mending", "tests", "1"]);
    let key = SessionKey { tenant_id: "agentgov", session_id: "bundle/mendable" }.to_string();
    assert_eq!(stack.number(&format!("SELECT count() FROM alerts WHERE key = '{key}'")), 1);
}

#[test]
fn broken_push_is_rejected_with_every_error_and_position() {
    let stack = stack();
    let folder = Folder::new("never-pushed", "nowhere");
    folder.write("bundle.yaml", "name: never-pushed\nversion: \"1\"\nenvironments: []\nextra: 1\n");
    folder.replace("conduct.cedar", "@severity(\"low\")", "@severity(\"lowest\")");
    folder.replace("payment.cedar", "forbid", "forbidden");
    folder.replace("tools.yaml", "type: Long", "type: Longer");
    let bundles = "SELECT count() FROM bundles WHERE name = 'never-pushed'";
    for command in ["check", "push"] {
        let message = run_failing(stack, 78, &["policy", command, folder.name()]);
        // Positions of annotations are those of their policies.
        for place in [
            format!("{}/bundle.yaml:{}:", folder.name(), folder.line("bundle.yaml", "extra")),
            format!(
                "{}/conduct.cedar:{}:",
                folder.name(),
                folder.line("conduct.cedar", "one-thing-at-a-time")
            ),
            format!("{}/payment.cedar:{}:", folder.name(), folder.line("payment.cedar", "forbidden")),
            format!("{}/tools.yaml:{}:", folder.name(), folder.line("tools.yaml", "Longer")),
        ] {
            assert!(message.contains(&place), "{place} is missing in:\n{message}");
        }
    }
    assert_eq!(stack.number(bundles), 0);
}

#[test]
fn bundle_with_a_failing_test_is_not_pushed() {
    let stack = stack();
    let folder = Folder::new("untested", "nowhere");
    let wrong = "agent: { roles: [airline-agent] }\ntests:\n  - name: thinking is forbidden\n    steps:\n      - { call: think, decision: deny }\n";
    folder.write("tests/wrong.yaml", wrong);
    for command in ["test", "push"] {
        let message = run_failing(stack, 3, &["policy", command, folder.name()]);
        for part in ["FAILED tests/wrong.yaml:3 thinking is forbidden", "tests/wrong.yaml:5:", "1 failed"] {
            assert!(message.contains(part), "{part} is missing in:\n{message}");
        }
    }
    let offsets = "SELECT count() FROM bundles WHERE name = 'untested'";
    assert_eq!(stack.number(offsets), 0);
    assert!(folder.file(SCHEMA_FILE).exists());
}

#[test]
fn topology_with_errors_is_rejected_with_all_of_them() {
    let stack = stack();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("topology.yaml");
    let map = std::fs::read_to_string(root().join("topology.yaml")).unwrap();
    let wrong = map
        .replace("what: Every verdict.", "what: Every verdict., colour: red")
        .replacen("partitions: 12", "partitions: none", 1)
        .replace("reads: [agent.verdicts]", "reads: [agent.judgements]")
        .replace("heartbeat: 3s", "heartbeat: 3 sheep");
    std::fs::write(&file, &wrong).unwrap();
    let path = file.to_str().unwrap();
    let message = run_failing(stack, 78, &["topology", "check", path]);
    for text in ["partitions: none", "agent.judgements", "3 sheep"] {
        let line = 1 + wrong.lines().position(|line| line.contains(text)).unwrap();
        assert!(
            message.contains(&format!("{path}:{line}:")),
            "line {line}, `{text}`, is missing in:\n{message}"
        );
    }
    assert!(stack.run(&["topology", "check"]).starts_with("ok: "));
}

#[test]
fn plan_is_empty_after_apply_and_names_differences() {
    let stack = stack();
    stack.run(&["topology", "plan"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("topology.yaml");
    let map = std::fs::read_to_string(root().join("topology.yaml")).unwrap();
    std::fs::write(&file, map.replacen("retention: 30d", "retention: 31d", 1)).unwrap();
    let other = ["--topology", file.to_str().unwrap(), "topology", "plan"];
    let message = run_failing(stack, 3, &other);
    let (actions, _) = stack.topology.topic_of(subject::ACTION_EVENT).unwrap();
    assert!(message.contains(actions) && message.contains("retention.ms"), "{message}");
    run_failing(stack, 3, &other);
}

#[test]
fn unregistered_agent_has_no_grant_until_it_is_registered() {
    const TENANT: &str = "newcomer";
    let stack = stack();
    let recorder = stack.recorder(TENANT, ENVIRONMENT);
    call(&recorder, "stranger");
    assert_eq!(verdict(stack, TENANT, "stranger")[..2], ["deny", "no_grant"]);
    let alert = format!(
        "SELECT policy, decision, severity FROM alerts WHERE tenant_id = '{TENANT}' AND session_id = 'stranger'"
    );
    stack.eventually("an alert", || stack.rows(&alert) == [["agentgov:no-grant", "deny", "high"]]);

    stack.register(&[TENANT]);
    let calls = call_until(stack, &recorder, TENANT, "known", &["allow", "granted", "airline", "1"]);
    recorder.close(DEADLINE).unwrap();
    checks::assert_complete(stack, TENANT, calls + 2);
}
