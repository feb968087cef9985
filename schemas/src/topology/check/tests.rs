//! Tests that break a valid topology, one rule at a time, and expect exactly the problems of that rule.

use super::RULES;
use crate::topology::Topology;
use crate::yaml::Problems;

const GOOD: &str = include_str!("tests.yaml");

/// Replacement: in the first line of `GOOD` that starts with `.0` after its indentation, `.1` becomes `.2`.
struct Edit(&'static str, &'static str, &'static str);

fn edited(edits: &[Edit]) -> String {
    let mut lines: Vec<String> = GOOD.lines().map(str::to_owned).collect();
    for Edit(start, from, to) in edits {
        let line = lines.iter_mut().find(|line| line.trim_start().starts_with(start)).expect(start);
        assert!(line.contains(from), "{from:?} is not in {line:?}");
        *line = line.replacen(from, to, 1);
    }
    lines.join("\n")
}

fn problems(text: &str) -> Vec<String> {
    match Topology::parse("t", text) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn valid_topology_and_embedded_topology_keep_every_rule() {
    assert_eq!(problems(GOOD), Vec::<String>::new());
    if let Err(problems) = Topology::embedded() {
        panic!("{problems:#?}");
    }
}

macro_rules! cases {
    ($($rule:literal: [$(($line:literal, $from:literal, $to:literal)),+] => [$($expected:literal),+ $(,)?];)*) => {
        &[$(($rule, &[$(Edit($line, $from, $to)),+], &[$($expected),+])),*]
    };
}

/// Rule, edits that break it, and every resulting problem.
const CASES: &[(&str, &[Edit], &[&str])] = cases! {
    "version": [("version", "1", "2")] => [
        "t:2:10: expected version 1, found 2",
    ];
    "every schema has its topic": [("verdicts:", "schema: verdict", "schema: verdikt")] => [
        "t:3:1: expected a topic with schema `verdict`",
        "t:5:32: unknown schema `verdikt`; expected action-event, verdict, alert, reject, session-state, alert-state, agent, tool, bundle, control, key or evaluation-basis",
    ];
    "every schema has its topic": [("tools:", "schema: tool", "schema: agent")] => [
        "t:3:1: expected a topic with schema `tool`",
        "t:11:29: schema `agent` is also carried by `agents`; expected one topic for each schema",
    ];
    "timing": [("timing", "heartbeat: 3s", "heartbeat: 5s")] => [
        "t:49:44: expected a heartbeat below half of session_timeout",
    ];
    "timing": [("timing", "insert_timeout: 30s", "insert_timeout: 0s")] => [
        "t:49:90: insert_timeout: expected more than 0",
    ];
    "timing": [("timing", "transaction_timeout: 10s", "transaction_timeout: 16m")] => [
        "t:49:69: expected at most 15m, the default maximum of brokers",
    ];
    "topic names": [("windows:", "windows:", "win$dows:"), ("state: windows", "windows", "win$dows")] => [
        "t:9:3: topic `win$dows`: expected a name of 1 to 249 of the characters a-z A-Z 0-9 . _ -, other than . and ..",
    ];
    "topic names": [("windows:", "windows:", "\".\":"), ("state: windows", "windows", "\".\"")] => [
        "t:9:3: topic `.`: expected a name of 1 to 249 of the characters a-z A-Z 0-9 . _ -, other than . and ..",
    ];
    "topic names": [("windows:", "windows:", "a.b:"), ("state: windows", "windows", "a.b"), ("sessions:", "sessions:", "a_b:"), ("state: sessions", "sessions", "a_b")] => [
        "t:8:3: topic `a_b` differs from `a.b` only in . and _, which Kafka's metrics confuse",
    ];
    "other names": [("ring:", "ring:", "Ring:")] => [
        "t:26:3: stage `Ring`: expected a name of a-z 0-9 -, a letter first",
    ];
    "other names": [("log:", "log:", "9log:"), ("stores: [log]", "log", "9log")] => [
        "t:39:3: store `9log`: expected a name of a-z 0-9 -, a letter first",
    ];
    "other names": [("group: g.ring", "g.ring", "g/ring")] => [
        "t:28:12: group of `ring`: expected 1 to 249 of the characters a-z A-Z 0-9 . _ -",
    ];
    "other names": [("al:", "al:", "a-l:")] => [
        "t:45:7: table `a-l`: expected a name of a-z 0-9 _, a letter first",
    ];
    "descriptions and owners": [("tools:", "owner: o", "owner: ''")] => [
        "t:11:42: owner of `tools`: expected a text, found none",
    ];
    "descriptions and owners": [("tools:", "what: w", "what: ' '")] => [
        "t:11:18: content of `tools`: expected a text, found none",
    ];
    "descriptions and owners": [("what: w", "what: w", "what: ''")] => [
        "t:18:11: purpose of `judge`: expected a text, found none",
    ];
    "descriptions and owners": [("t:", "what: w", "what: ''")] => [
        "t:47:31: content of a row of `t`: expected a text, found none",
    ];
    "descriptions and owners": [("what: the log", "the log", "''")] => ["t:40:11: purpose of `log`: expected a text, found none"];
    "topic numbers": [("tools:", "partitions: 1", "partitions: 0")] => [
        "t:11:91: expected 1 to 10000 partitions, found 0",
    ];
    "topic numbers": [("tools:", "partitions: 1", "replication: 0, partitions: 1")] => [
        "t:11:92: expected 1 to 99 replicas, found 0",
    ];
    "topic numbers": [("alerts:", "retention: 7d", "retention: 0d")] => [
        "t:6:112: expected a retention above 0",
    ];
    "topic numbers": [("alerts:", "max_message_bytes: 1048576", "max_message_bytes: 1000")] => [
        "t:6:135: expected between 65536 and 67108864 bytes, found 1000",
    ];
    "topic numbers": [("alerts:", "max_message_bytes: 1048576", "max_message_bytes: 100000000")] => [
        "t:6:135: expected between 65536 and 67108864 bytes, found 100000000",
    ];
    "compaction": [("sessions:", "retention: forever", "retention: 7d")] => [
        "t:8:138: `sessions` is compacted; expected retention: forever, since retention would delete valid state",
    ];
    "compaction": [("sessions:", "key: entry", "key: session")] => [
        "t:8:62: `sessions` is compacted; expected key: entry, since compaction keeps one record of each key",
    ];
    "compaction": [("alerts:", "key: session", "cleanup: compact, key: session")] => [
        "t:6:56: `alerts` is no stage's state; expected cleanup: delete, since compaction loses records",
        "t:6:70: `alerts` is compacted; expected key: entry, since compaction keeps one record of each key",
        "t:6:130: `alerts` is compacted; expected retention: forever, since retention would delete valid state",
    ];
    "actions": [("actions:", "producer: idempotent", "producer: transactional")] => [
        "t:4:79: `actions` carries actions; expected producer: idempotent, since an open transaction holds back other producers' events",
    ];
    "actions": [("actions:", "key: session", "key: entry")] => [
        "t:4:60: `actions` carries actions; expected key: session, so that the actions of a session are in order",
    ];
    "use of topics": [("global_tables: [agents", "agents, bundles", "agents")] => [
        "t:12:3: no stage reads `bundles`; expected a stage that reads it, or no such topic",
    ];
    "use of topics": [("emits: [verdicts", "verdicts, rejects", "rejects")] => [
        "t:5:3: no stage writes `verdicts`; expected a stage that emits it, or no such topic",
    ];
    "use of topics": [("alerts:", "producer: transactional", "producer: idempotent")] => [
        "t:6:71: producer of `alerts`: expected transactional: a stage writes it in one transaction with its offsets",
    ];
    "use of topics": [("tools:", "producer: idempotent", "producer: transactional")] => [
        "t:11:67: producer of `tools`: expected idempotent: clients other than stages write it",
    ];
    "references": [("reads: [actions]", "actions", "action")] => [
        "t:20:13: reads of `judge`: no topic `action` in topics",
    ];
    "references": [("stores: [log]", "log", "log, lag")] => [
        "t:37:19: stores of `sink`: no store `lag` in stores",
    ];
    "references": [("state: windows", "windows", "nowhere")] => [
        "t:9:3: no stage reads `windows`; expected a stage that reads it, or no such topic",
        "t:9:3: no stage writes `windows`; expected a stage that emits it, or no such topic",
        "t:9:115: `windows` is no stage's state; expected cleanup: delete, since compaction loses records",
        "t:30:12: state of `ring`: no topic `nowhere` in topics",
    ];
    "lists": [("emits: [alerts]", "alerts", "alerts, verdicts")] => [
        "t:31:21: `verdicts` is in both emits and reads of `ring`; expected one of them",
    ];
    "lists": [("stores: [log]", "log", "log, log")] => [
        "t:37:19: store `log` occurs twice in `sink`",
    ];
    "groups": [("group: g.ring", "g.ring", "g.judge")] => [
        "t:28:12: group `g.judge` of `ring` is the group of `judge`; expected one of its own",
    ];
    "global tables": [("agents:", "partitions: 1", "partitions: 2")] => [
        "t:10:93: `agents` is folded into a global table; expected partitions: 1, which gives its entries one order",
    ];
    "global tables": [("agents:", "retention: forever", "retention: 7d")] => [
        "t:10:107: `agents` is folded into a global table; expected retention: forever",
    ];
    "global tables": [("agents:", "key: entry", "cleanup: compact, key: entry")] => [
        "t:10:56: `agents` is folded into a global table; expected cleanup: delete, which keeps its history",
        "t:10:56: `agents` is no stage's state; expected cleanup: delete, since compaction loses records",
    ];
    "global tables": [("agents:", "key: entry", "key: session")] => [
        "t:10:52: `agents` is folded into a global table; expected key: entry",
    ];
    "state": [("windows:", "cleanup: compact, ", "")] => [
        "t:9:3: `windows` is the state of `ring`; expected cleanup: compact",
    ];
    "state": [("windows:", "cleanup: compact", "cleanup: delete")] => [
        "t:9:115: `windows` is the state of `ring`; expected cleanup: compact",
    ];
    "state": [("state: windows", "windows", "sessions")] => [
        "t:9:3: no stage reads `windows`; expected a stage that reads it, or no such topic",
        "t:9:3: no stage writes `windows`; expected a stage that emits it, or no such topic",
        "t:9:115: `windows` is no stage's state; expected cleanup: delete, since compaction loses records",
        "t:30:12: `sessions` is the state of `judge`; expected a changelog of its own",
    ];
    "state": [("emits: [alerts]", "alerts", "alerts, sessions")] => [
        "t:31:21: emits of `ring`: `sessions` is the state of `judge`, which no other stage may write",
    ];
    "emits": [("emits: [verdicts", "verdicts, rejects", "verdicts"), ("emits: [alerts]", "alerts", "alerts, rejects")] => [
        "t:24:5: `judge` has a reject_share; expected `rejects` in its emits",
        "t:26:3: `ring` emits `rejects`; expected a reject_share above which the stage stops",
    ];
    "jobs": [("stores: [log]", "[log]", "[log]\n    emits: [alerts]")] => [
        "t:33:3: `sink` has stores and emits or state; expected one of the two, since no commit covers both",
        "t:38:13: `alerts` is in both emits and reads of `sink`; expected one of them",
    ];
    "jobs": [("stores: [log]", "[log]", "[]")] => [
        "t:33:3: `sink` writes nothing; expected emits, state or stores",
        "t:41:13: `sink` writes `log`; expected `log` in its stores",
    ];
    "jobs": [("reads: [verdicts]", "[verdicts]", "[]")] => [
        "t:26:3: `ring` reads nothing; expected a topic in its reads",
    ];
    "limits": [("reject_share", "above: 0.1", "above: 0")] => [
        "t:24:28: expected a share above 0 and at most 1, found 0",
    ];
    "limits": [("reject_share", "above: 0.1", "above: 1.1")] => [
        "t:24:28: expected a share above 0 and at most 1, found 1.1",
    ];
    "limits": [("reject_share", "window: 10", "window: 0")] => [
        "t:24:41: expected a window of at least 1 record, found 0",
    ];
    "limits": [("session:", "ttl: 1d", "ttl: 0d")] => [
        "t:25:21: ttl: expected more than 0",
    ];
    "limits": [("session:", "max_facts: 10, max_bytes: 1000", "max_facts: 0, max_bytes: 0")] => [
        "t:25:36: max_facts: expected more than 0",
        "t:25:50: max_bytes: expected more than 0",
    ];
    "limits": [("alert_window", "1h", "0h")] => [
        "t:32:19: expected an alert_window above 0",
    ];
    "limits": [("group: g.sink", "group", "session: { ttl: 1d, max_facts: 1, max_bytes: 1 }\n    group")] => [
        "t:35:5: `sink` limits its sessions; expected a state that keeps them",
    ];
    "partitions": [("verdicts:", "partitions: 4", "partitions: 6")] => [
        "t:5:102: `verdicts` has 6 partitions; expected 4 as `actions`, since `judge` keeps each session in its partition",
        "t:6:98: `alerts` has 4 partitions; expected 6 as `verdicts`, since `ring` keeps each session in its partition",
        "t:9:103: `windows` has 4 partitions; expected 6 as `verdicts`, since `ring` keeps each session in its partition",
    ];
    "partitions": [("sessions:", "partitions: 4", "partitions: 6")] => [
        "t:8:106: `sessions` has 6 partitions; expected 4 as `actions`, since `judge` keeps each session in its partition",
    ];
    "principals": [("service:", "what: w", "principal: judge, what: w")] => [
        "t:51:25: `service` logs in as `judge`, as `judge` does; expected a principal of its own",
    ];
    "principals": [("group: g.ring", "g.ring", "g.ring\n    principal: '*'")] => [
        "t:29:16: principal of `ring`: expected 1 to 249 printable ASCII characters, none of them a quote, a backslash or *, which Kafka reads as every principal",
    ];
    "principals": [("auditor:", "auditor: { what: w, principal: \"CN=auditor,O=bank\"", "sink: { what: w")] => [
        "t:52:3: `sink` logs in as `sink`, as `sink` does; expected a principal of its own",
    ];
    "other names": [("service:", "service:", "Service:")] => [
        "t:51:3: principal `Service`: expected a name of a-z 0-9 -, a letter first",
    ];
    "tasks": [("service:", "[record]", "[]")] => [
        "t:51:23: `service` has no tasks; expected record, govern, operate, audit, deploy, decide, enforce or approve",
    ];
    "tasks": [("service:", "what: w, may: [record]", "what: ' ', may: [record, record]")] => [
        "t:51:20: description of `service`: expected a text, found none",
        "t:51:39: occurs twice in the tasks of `service`",
    ];
    "transactional ids": [("group: g.ring", "g.ring", "g.judge-2")] => [
        "t:28:12: group of `ring`: starts with the group of `judge` and a hyphen, so `judge` could fence its transactions; expected another name",
    ];
    "writers": [("writer", "sink", "drain")] => [
        "t:41:13: writer of `log`: no stage `drain` in stages",
    ];
    "writers": [("writer", "sink", "ring")] => [
        "t:37:14: `sink` lists store `log`, whose writer is `ring`; expected one writer",
        "t:41:13: `ring` writes `log`; expected `log` in its stores",
        "t:43:18: table `a` is fed from `actions`; expected it in reads of `ring`",
        "t:45:19: table `al` is fed from `alerts`; expected it in reads of `ring`",
        "t:46:18: table `r` is fed from `rejects`; expected it in reads of `ring`",
        "t:47:18: table `t` is fed from `tools`; expected it in reads of `ring`",
        "t:48:18: table `b` is fed from `bases`; expected it in reads of `ring`",
    ];
    "writers": [("emits: [alerts]", "[alerts]", "[alerts]\n    stores: [log]")] => [
        "t:26:3: `ring` has stores and emits or state; expected one of the two, since no commit covers both",
        "t:32:14: `ring` lists store `log`, whose writer is `sink`; expected one writer",
    ];
    "feeds": [("reads: [actions, verdicts", ", tools", "")] => [
        "t:11:3: no stage reads `tools`; expected a stage that reads it, or no such topic",
        "t:47:18: table `t` is fed from `tools`; expected it in reads of `sink`",
    ];
    "feeds": [("t:", "from: tools", "from: rejects")] => [
        "t:36:49: `sink` reads `tools`; expected a table of `log` with `from: tools`",
        "t:47:18: `rejects` also feeds `r`; expected one table for each topic",
    ];
};

#[test]
fn broken_rule_reports_exactly_its_problems() {
    let mut wrong = String::new();
    for (rule, edits, expected) in CASES {
        let found = problems(&edited(edits));
        if found != *expected {
            wrong.push_str(&format!(
                "\n{rule}: {:?}\n  expected {expected:#?}\n  found {found:#?}",
                edits[0].0
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn malformed_values_and_broken_rules_are_reported_together() {
    let broken = edited(&[
        Edit("verdicts:", "retention: 7d", "retention: 7w"),
        Edit("verdicts:", "partitions: 4", "partitions: many"),
        Edit("tools:", "owner: o, ", ""),
        Edit("bundles:", "bundles:", "agents:"),
        Edit("group: g.ring", "group: g.ring", "groop: g.ring"),
        Edit("writer", "sink", "7"),
        Edit("timing", "heartbeat: 3s, ", ""),
        Edit("actions:", "key: session", "key: sessions"),
        Edit("alerts:", "partitions: 4", "partitions: 0"),
    ]);
    assert_eq!(
        problems(&broken),
        [
            "t:4:60: expected session or entry, found `sessions`",
            "t:5:102: expected a whole number, found `many`",
            "t:5:119: expected `forever`, or a length of time such as 7d, found `7w`",
            "t:6:98: expected 1 to 10000 partitions, found 0",
            "t:11:10: a topic must have `owner`",
            "t:12:3: `agents` occurs twice; expected each key once",
            "t:21:29: global_tables of `judge`: no topic `bundles` in topics",
            "t:27:5: a stage must have `group`",
            "t:28:5: unknown key `groop` of a stage; expected what, group, principal, reads, global_tables, state, emits, stores, reject_share, session or alert_window",
            "t:41:13: expected text, found the number 7; put it in quotes if it is meant as text",
            "t:49:9: timing must have `heartbeat`",
        ]
    );
}

#[test]
fn text_without_a_topology_has_one_problem() {
    for (text, expected) in [
        ("", "t:1:1: expected the topology (a mapping), found nothing"),
        ("- a", "t:1:1: expected the topology (a mapping), found a list"),
        ("a: [", "t:1:4: not YAML: unclosed bracket '['"),
        ("version: 1\n\ttopics: {}", "t:1:10: not YAML: while scanning a plain scalar, found a tab"),
    ] {
        assert_eq!(problems(text), [expected], "{text:?}");
    }
}

/// Together with the exact problems of `CASES`, this finds a rule that is removed.
#[test]
fn every_rule_is_broken_by_a_case_of_its_name() {
    for (name, rule) in RULES {
        let broken = CASES.iter().filter(|(case, ..)| case == name).any(|(_, edits, _)| {
            let draft = crate::topology::read::Draft::from_text(&edited(edits));
            let mut problems = Problems::new("t");
            rule(&draft, &mut problems);
            !problems.is_empty()
        });
        assert!(broken, "rule `{name}` has no case that it alone finds");
    }
}
