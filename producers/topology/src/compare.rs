//! Compares the topology with the live state. No I/O.

use agentgov_schemas::subject::Subject;
use agentgov_schemas::topology::{Topic, Topology, registry_subject};

use crate::live::{LiveState, LiveSubject, LiveTopic};
use crate::plan::{Action, Aspect, Difference, Kind, Plan};
use crate::settings::{AllowedChange, settings_of};

/// The only level at which readers of every version read records of every version.
pub(crate) const COMPATIBILITY: &str = "FULL_TRANSITIVE";

pub(crate) fn compare(topology: &Topology, live: &LiveState) -> Plan {
    let mut differences = Vec::new();
    for (name, topic) in &topology.topics {
        match live.topics.get(name) {
            None => differences.push(missing_topic(name, &topic.value)),
            Some(live) => compare_topic(name, &topic.value, live, &mut differences),
        }
    }
    let none = LiveSubject::default();
    for (name, topic) in &topology.topics {
        let subject = registry_subject(name);
        let live = live.subjects.get(&subject).unwrap_or(&none);
        compare_subject(&subject, &topic.value, live, &mut differences);
    }
    let notes = match live.unknown_topics.as_slice() {
        [] => Vec::new(),
        names => {
            vec![format!(
                "{} topics are not in the topology and stay unchanged: {}",
                names.len(),
                first_names(names)
            )]
        }
    };
    let topics = topology.topics.len();
    Plan { differences, notes, topics, subjects: topics }
}

fn missing_topic(name: &str, topic: &Topic) -> Difference {
    let settings: Vec<_> = settings_of(topic).iter().map(|s| format!("{}={}", s.name, s.value)).collect();
    Difference {
        kind: Kind::Topic,
        name: name.to_owned(),
        aspect: Aspect::Whole,
        expected: format!("with {} partitions, {}", topic.partitions.value, settings.join(", ")),
        found: "none".to_owned(),
        action: Action::Create,
    }
}

fn compare_topic(name: &str, topic: &Topic, live: &LiveTopic, differences: &mut Vec<Difference>) {
    let mut differs = |aspect: Aspect, expected: String, found: String, action| {
        let name = name.to_owned();
        differences.push(Difference { kind: Kind::Topic, name, aspect, expected, found, action });
    };
    let refuse = |to_do: String| Action::Refuse { to_do };
    if i32::try_from(live.partitions) != Ok(topic.partitions.value) {
        differs(
            Aspect::Partitions,
            topic.partitions.value.to_string(),
            live.partitions.to_string(),
            refuse(format!(
                "with another number, new records of a key would go to another partition than the earlier ones: write \
                 partitions: {} into topology.yaml, or use a new topic",
                live.partitions
            )),
        );
    }
    if let Some(expected) = topic.replication.filter(|n| i32::try_from(live.replication) != Ok(*n)) {
        differs(
            Aspect::Replication,
            expected.to_string(),
            live.replication.to_string(),
            refuse("change the replicas by hand with kafka-reassign-partitions".to_owned()),
        );
    }
    for setting in settings_of(topic) {
        let found = live.settings.get(setting.name).map_or("none", |live| live.value.as_str());
        if found == setting.value {
            continue;
        }
        let allowed = match setting.allowed {
            AllowedChange::Any => true,
            AllowedChange::None => false,
            AllowedChange::Increase => increases(found, &setting.value),
        };
        let action = if allowed { Action::Change } else { refuse(advice(setting.name, found)) };
        differs(Aspect::Setting(setting.name), setting.value, found.to_owned(), action);
    }
}

/// Returns the advice for a setting that must not change from `found`.
fn advice(setting: &str, found: &str) -> String {
    match setting {
        "retention.ms" => {
            format!(
                "a shorter retention deletes records: keep {found} ms in topology.yaml, or lower it on the topic by hand"
            )
        }
        "cleanup.policy" => {
            format!(
                "another cleanup policy deletes other records: keep {found} in topology.yaml, or use a new topic"
            )
        }
        _ => format!(
            "a smaller value could reject records: keep {found} in topology.yaml, or lower it on the topic by hand"
        ),
    }
}

/// Returns true if `expected` is a larger number than `found`. -1 means unlimited and is the largest.
fn increases(found: &str, expected: &str) -> bool {
    let value = |text: &str| match text.parse::<i64>() {
        Ok(-1) => Some(i64::MAX),
        Ok(number) => Some(number),
        Err(_) => None,
    };
    matches!((value(found), value(expected)), (Some(found), Some(expected)) if expected > found)
}

fn compare_subject(subject: &str, topic: &Topic, live: &LiveSubject, differences: &mut Vec<Difference>) {
    let mut differs = |aspect: Aspect, expected: String, found: String, action| {
        let name = subject.to_owned();
        differences.push(Difference { kind: Kind::Subject, name, aspect, expected, found, action });
    };
    // Before the versions, since the schema registry checks a version at the level in force.
    if live.compatibility.as_deref() != Some(COMPATIBILITY) {
        let (found, action) = match &live.compatibility {
            None => ("the default".to_owned(), Action::Create),
            // FULL_TRANSITIVE is the highest level, so this never lowers one.
            Some(level) => (level.clone(), Action::Change),
        };
        differs(Aspect::Compatibility, COMPATIBILITY.to_owned(), found, action);
    }
    let family = &topic.schema.value;
    let version_count = Subject::by_name(family).map_or(0, |family| family.versions.len());
    for version in live.missing.iter().filter(|version| **version <= version_count) {
        differs(
            Aspect::Version(*version),
            format!("of schema {family}"),
            "not registered".to_owned(),
            Action::Create,
        );
    }
}

fn first_names(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let shown: Vec<_> = names.iter().take(SHOWN).map(String::as_str).collect();
    let more = if names.len() > SHOWN { ", …" } else { "" };
    format!("{}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use agentgov_schemas::subject::SUBJECTS;
    use agentgov_schemas::topology::EMBEDDED;

    use super::*;
    use crate::live::LiveSetting;

    fn topology() -> Topology {
        Topology::embedded().unwrap()
    }

    /// Returns a live state that matches the topology.
    fn matching_state(topology: &Topology) -> LiveState {
        let mut live = LiveState::default();
        for (name, topic) in &topology.topics {
            let live_setting =
                |s: &crate::settings::Setting| LiveSetting { value: s.value.clone(), is_override: true };
            let topic = LiveTopic {
                partitions: usize::try_from(topic.value.partitions.value).unwrap(),
                replication: 1,
                has_leaders: true,
                settings: settings_of(&topic.value)
                    .iter()
                    .map(|s| (s.name.to_owned(), live_setting(s)))
                    .collect(),
            };
            live.topics.insert(name.clone(), topic);
            let subject = LiveSubject { compatibility: Some(COMPATIBILITY.to_owned()), missing: Vec::new() };
            live.subjects.insert(registry_subject(name), subject);
        }
        live
    }

    fn lines(plan: &Plan) -> Vec<String> {
        plan.differences.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn matching_state_has_no_difference() {
        let plan = compare(&topology(), &matching_state(&topology()));
        assert!(plan.is_empty() && plan.notes.is_empty(), "{plan}");
        assert_eq!(plan.to_string(), "the cluster matches the topology: 12 topics, 12 subjects");
    }

    #[test]
    fn empty_state_lacks_every_topic_level_and_version() {
        let mut live = LiveState::default();
        for (name, topic) in &topology().topics {
            let versions = Subject::by_name(&topic.value.schema.value).unwrap().versions.len();
            let subject = LiveSubject { compatibility: None, missing: (1..=versions).collect() };
            live.subjects.insert(registry_subject(name), subject);
        }
        let plan = compare(&topology(), &live);
        let versions: usize = SUBJECTS.iter().map(|subject| subject.versions.len()).sum();
        assert_eq!(plan.differences.len(), 2 * SUBJECTS.len() + versions);
        assert!(plan.differences.iter().all(|difference| difference.action == Action::Create), "{plan}");
        assert_eq!(
            plan.differences[0].to_string(),
            "+ create  topic agent.actions with 12 partitions, cleanup.policy=delete, max.message.bytes=1048576, \
             message.timestamp.type=LogAppendTime, retention.ms=2592000000"
        );
    }

    /// Setting of agent.actions, its live value, and the start of the plan's line.
    #[test]
    fn settings_change_only_if_no_record_is_lost() {
        for (setting, found, line) in [
            ("retention.ms", "1000", "~ change  topic agent.actions: retention.ms 1000 -> 2592000000"),
            (
                "retention.ms",
                "-1",
                "! refuse  topic agent.actions: retention.ms: expected 2592000000, found -1; a shorter",
            ),
            (
                "retention.ms",
                "9999999999",
                "! refuse  topic agent.actions: retention.ms: expected 2592000000, found 9",
            ),
            ("retention.ms", "soon", "! refuse "),
            ("max.message.bytes", "1000", "~ change "),
            ("max.message.bytes", "9000000", "! refuse "),
            ("message.timestamp.type", "CreateTime", "~ change "),
            ("cleanup.policy", "compact", "! refuse "),
            ("cleanup.policy", "compact,delete", "! refuse "),
        ] {
            let mut live = matching_state(&topology());
            let topic = live.topics.get_mut("agent.actions").unwrap();
            topic
                .settings
                .insert(setting.to_owned(), LiveSetting { value: found.to_owned(), is_override: false });
            let found = lines(&compare(&topology(), &live));
            assert!(
                found.len() == 1 && found[0].starts_with(line),
                "{setting}: expected {line}, found {found:?}"
            );
        }
    }

    #[test]
    fn unlimited_retention_replaces_any_retention() {
        let mut live = matching_state(&topology());
        let topic = live.topics.get_mut("governance.agents").unwrap();
        topic
            .settings
            .insert("retention.ms".to_owned(), LiveSetting { value: "604800000".into(), is_override: false });
        let found = lines(&compare(&topology(), &live));
        assert_eq!(found, ["~ change  topic governance.agents: retention.ms 604800000 -> -1"]);
    }

    #[test]
    fn partitions_and_replicas_are_never_changed() {
        for partitions in [6, 24] {
            let mut live = matching_state(&topology());
            live.topics.get_mut("agent.actions").unwrap().partitions = partitions;
            let plan = compare(&topology(), &live);
            assert_eq!(plan.refused().count(), 1);
            let line = plan.differences[0].to_string();
            assert!(line.contains(&format!("expected 12, found {partitions}")), "{line}");
            assert!(line.contains(&format!("write partitions: {partitions} into topology.yaml")), "{line}");
        }
        let text = EMBEDDED.replacen("partitions: 12", "partitions: 12\n    replication: 3", 1);
        let topology = Topology::parse("t", &text).unwrap();
        let found = lines(&compare(&topology, &matching_state(&topology)));
        assert!(found.len() == 1 && found[0].contains("replication: expected 3, found 1"), "{found:?}");
    }

    #[test]
    fn compatibility_only_rises() {
        let mut live = matching_state(&topology());
        let subject = live.subjects.get_mut("agent.actions-value").unwrap();
        subject.compatibility = Some("BACKWARD".to_owned());
        subject.missing = vec![1];
        assert_eq!(
            lines(&compare(&topology(), &live)),
            [
                "~ change  subject agent.actions-value: compatibility BACKWARD -> FULL_TRANSITIVE",
                "+ create  subject agent.actions-value: version 1 of schema action-event (found not registered)",
            ]
        );
    }

    #[test]
    fn unknown_topics_are_a_note() {
        let mut live = matching_state(&topology());
        live.unknown_topics = vec!["orders".to_owned()];
        let plan = compare(&topology(), &live);
        assert!(plan.is_empty());
        assert_eq!(plan.notes, ["1 topics are not in the topology and stay unchanged: orders"]);
    }

    #[test]
    fn json_has_the_action() {
        let mut live = matching_state(&topology());
        live.topics.get_mut("agent.actions").unwrap().partitions = 6;
        let json = serde_json::to_value(compare(&topology(), &live)).unwrap();
        let difference = &json["differences"][0];
        assert_eq!(
            [&difference["kind"], &difference["aspect"], &difference["action"], &difference["found"]],
            ["topic", "partitions", "refuse", "6"]
        );
        assert!(difference["to_do"].is_string());
    }

    #[test]
    fn replication_sets_min_insync_replicas() {
        let text = EMBEDDED.replacen("partitions: 12", "partitions: 12\n    replication: 3", 1);
        let topology = Topology::parse("t", &text).unwrap();
        let settings: BTreeMap<_, _> = settings_of(&topology.topics["agent.actions"].value)
            .into_iter()
            .map(|s| (s.name, s.value))
            .collect();
        assert_eq!(settings["min.insync.replicas"], "2");
    }
}
