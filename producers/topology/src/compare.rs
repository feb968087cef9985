//! The pure middle of `plan`: the topology on one side, what was seen on the other.

use agentgov_schemas::subject::Subject;
use agentgov_schemas::topology::{Topic, Topology, registry_subject};

use crate::look::{Live, LiveSubject, LiveTopic};
use crate::plan::{Action, Aspect, Difference, Kind, Plan};
use crate::settings::{Moves, settings_of};

/// The only level under which old readers read new records and new readers old ones, over all versions.
pub(crate) const COMPATIBILITY: &str = "FULL_TRANSITIVE";
pub(crate) fn compare(topology: &Topology, live: &Live) -> Plan {
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
    let notes = match live.strangers.as_slice() {
        [] => Vec::new(),
        names => {
            vec![format!(
                "{} topics are not in the topology and are left alone: {}",
                names.len(),
                some_of(names)
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
                "its records are keyed, and other partitions would part keys from their history: write partitions: {} \
                 into topology.yaml, or move to a topic of a new name",
                live.partitions
            )),
        );
    }
    if let Some(expected) = topic.replication.filter(|n| i32::try_from(live.replication) != Ok(*n)) {
        differs(
            Aspect::Replication,
            expected.to_string(),
            live.replication.to_string(),
            refuse("moving replicas is an operator's work: use kafka-reassign-partitions".to_owned()),
        );
    }
    for setting in settings_of(topic) {
        let found = live.settings.get(setting.name).map_or("nothing", |live| live.value.as_str());
        if found == setting.value {
            continue;
        }
        let allowed = match setting.moves {
            Moves::Freely => true,
            Moves::Never => false,
            Moves::Up => grows(found, &setting.value),
        };
        let action = if allowed { Action::Change } else { refuse(refusal(setting.name, found)) };
        differs(Aspect::Setting(setting.name), setting.value, found.to_owned(), action);
    }
}

/// What to do instead of moving `setting` away from `found`.
fn refusal(setting: &str, found: &str) -> String {
    match setting {
        "retention.ms" => {
            format!(
                "shrinking it deletes records: keep {found} ms in topology.yaml, or lower it on the topic by hand"
            )
        }
        "cleanup.policy" => {
            format!(
                "it decides which records stay: keep {found} in topology.yaml, or move to a topic of a new name"
            )
        }
        _ => format!("it only grows: keep {found} in topology.yaml, or lower it on the topic by hand"),
    }
}

/// True if `expected` is above `found`, both in Kafka's words: numbers, of which -1 is above all.
fn grows(found: &str, expected: &str) -> bool {
    let height = |text: &str| match text.parse::<i64>() {
        Ok(-1) => Some(i64::MAX),
        Ok(number) => Some(number),
        Err(_) => None,
    };
    matches!((height(found), height(expected)), (Some(found), Some(expected)) if expected > found)
}

fn compare_subject(subject: &str, topic: &Topic, live: &LiveSubject, differences: &mut Vec<Difference>) {
    let mut differs = |aspect: Aspect, expected: String, found: String, action| {
        let name = subject.to_owned();
        differences.push(Difference { kind: Kind::Subject, name, aspect, expected, found, action });
    };
    // Before the versions: they must be registered under it.
    if live.compatibility.as_deref() != Some(COMPATIBILITY) {
        let (found, action) = match &live.compatibility {
            None => ("none of its own".to_owned(), Action::Create),
            // No level is above FULL_TRANSITIVE, so this never lowers one.
            Some(level) => (level.clone(), Action::Change),
        };
        differs(Aspect::Compatibility, COMPATIBILITY.to_owned(), found, action);
    }
    let family = &topic.schema.value;
    let known = Subject::by_name(family).map_or(0, |family| family.versions.len());
    for version in live.missing.iter().filter(|version| **version <= known) {
        differs(
            Aspect::Version(*version),
            format!("of schema {family}"),
            "not registered".to_owned(),
            Action::Create,
        );
    }
}

fn some_of(names: &[String]) -> String {
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
    use crate::look::LiveSetting;

    fn map() -> Topology {
        Topology::embedded().unwrap()
    }

    /// A world that is as the topology says.
    fn world(map: &Topology) -> Live {
        let mut live = Live::default();
        for (name, topic) in &map.topics {
            let own = |s: &crate::settings::Setting| LiveSetting { value: s.value.clone(), own: true };
            let topic = LiveTopic {
                partitions: usize::try_from(topic.value.partitions.value).unwrap(),
                replication: 1,
                led: true,
                settings: settings_of(&topic.value).iter().map(|s| (s.name.to_owned(), own(s))).collect(),
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
    fn nothing_differs_in_a_world_as_the_map_says() {
        let plan = compare(&map(), &world(&map()));
        assert!(plan.is_empty() && plan.notes.is_empty(), "{plan}");
        assert_eq!(plan.to_string(), "the cluster matches the topology: 11 topics, 11 subjects");
    }

    #[test]
    fn an_empty_world_lacks_every_topic_level_and_version() {
        let mut live = Live::default();
        for (name, topic) in &map().topics {
            let versions = Subject::by_name(&topic.value.schema.value).unwrap().versions.len();
            let subject = LiveSubject { compatibility: None, missing: (1..=versions).collect() };
            live.subjects.insert(registry_subject(name), subject);
        }
        let plan = compare(&map(), &live);
        let versions: usize = SUBJECTS.iter().map(|subject| subject.versions.len()).sum();
        assert_eq!(plan.differences.len(), 2 * SUBJECTS.len() + versions);
        assert!(plan.differences.iter().all(|difference| difference.action == Action::Create), "{plan}");
        assert_eq!(
            plan.differences[0].to_string(),
            "+ create  topic agent.actions with 12 partitions, cleanup.policy=delete, max.message.bytes=1048576, \
             message.timestamp.type=LogAppendTime, retention.ms=2592000000"
        );
    }

    /// Setting of agent.actions, what is found, how the line begins.
    #[test]
    fn settings_move_only_where_nothing_is_lost() {
        for (setting, found, line) in [
            ("retention.ms", "1000", "~ change  topic agent.actions: retention.ms 1000 -> 2592000000"),
            (
                "retention.ms",
                "-1",
                "! refuse  topic agent.actions: retention.ms: expected 2592000000, found -1; shrinking",
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
            let mut live = world(&map());
            let topic = live.topics.get_mut("agent.actions").unwrap();
            topic.settings.insert(setting.to_owned(), LiveSetting { value: found.to_owned(), own: false });
            let found = lines(&compare(&map(), &live));
            assert!(
                found.len() == 1 && found[0].starts_with(line),
                "{setting}: expected {line}, found {found:?}"
            );
        }
    }

    #[test]
    fn a_forever_topic_grows_from_any_retention() {
        let mut live = world(&map());
        let topic = live.topics.get_mut("governance.agents").unwrap();
        topic
            .settings
            .insert("retention.ms".to_owned(), LiveSetting { value: "604800000".into(), own: false });
        let found = lines(&compare(&map(), &live));
        assert_eq!(found, ["~ change  topic governance.agents: retention.ms 604800000 -> -1"]);
    }

    #[test]
    fn partitions_and_replicas_are_never_touched() {
        for partitions in [6, 24] {
            let mut live = world(&map());
            live.topics.get_mut("agent.actions").unwrap().partitions = partitions;
            let plan = compare(&map(), &live);
            assert_eq!(plan.refused().count(), 1);
            let line = plan.differences[0].to_string();
            assert!(line.contains(&format!("expected 12, found {partitions}")), "{line}");
            assert!(line.contains(&format!("write partitions: {partitions} into topology.yaml")), "{line}");
        }
        let text = EMBEDDED.replacen("partitions: 12", "partitions: 12\n    replication: 3", 1);
        let map = Topology::parse("t", &text).unwrap();
        let found = lines(&compare(&map, &world(&map)));
        assert!(found.len() == 1 && found[0].contains("replication: expected 3, found 1"), "{found:?}");
    }

    #[test]
    fn compatibility_only_rises() {
        let mut live = world(&map());
        let subject = live.subjects.get_mut("agent.actions-value").unwrap();
        subject.compatibility = Some("BACKWARD".to_owned());
        subject.missing = vec![1];
        assert_eq!(
            lines(&compare(&map(), &live)),
            [
                "~ change  subject agent.actions-value: compatibility BACKWARD -> FULL_TRANSITIVE",
                "+ create  subject agent.actions-value: version 1 of schema action-event (found not registered)",
            ]
        );
    }

    #[test]
    fn topics_that_the_map_does_not_know_are_a_note() {
        let mut live = world(&map());
        live.strangers = vec!["orders".to_owned()];
        let plan = compare(&map(), &live);
        assert!(plan.is_empty());
        assert_eq!(plan.notes, ["1 topics are not in the topology and are left alone: orders"]);
    }

    #[test]
    fn a_program_reads_the_action() {
        let mut live = world(&map());
        live.topics.get_mut("agent.actions").unwrap().partitions = 6;
        let json = serde_json::to_value(compare(&map(), &live)).unwrap();
        let difference = &json["differences"][0];
        assert_eq!(
            [&difference["kind"], &difference["aspect"], &difference["action"], &difference["found"]],
            ["topic", "partitions", "refuse", "6"]
        );
        assert!(difference["to_do"].is_string());
    }

    #[test]
    fn replicas_decide_how_many_must_be_in_sync() {
        let text = EMBEDDED.replacen("partitions: 12", "partitions: 12\n    replication: 3", 1);
        let map = Topology::parse("t", &text).unwrap();
        let settings: BTreeMap<_, _> =
            settings_of(&map.topics["agent.actions"].value).into_iter().map(|s| (s.name, s.value)).collect();
        assert_eq!(settings["min.insync.replicas"], "2");
    }
}
