//! The pure middle of `plan`: the map on one side, what was seen on the other.

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
            vec![format!("{} topics are not in the map and left alone: {}", names.len(), some_of(names))]
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
