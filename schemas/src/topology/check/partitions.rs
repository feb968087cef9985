//! Rule about equal numbers of partitions.

use super::Draft;
use crate::topology::KeyKind;
use crate::yaml::Problems;

/// A stage writes to the partition that it read from, and keeps its state in the same partition of the changelog. Therefore
/// the session-keyed topics that it reads, the topics that it emits and its changelog have as many partitions as the first.
pub(super) fn equal(draft: &Draft, problems: &mut Problems) {
    for (name, stage) in draft.stages.valid() {
        let stage = &stage.value;
        let sessions =
            |topic: &str| draft.topics.get(topic).is_some_and(|topic| topic.key == KeyKind::Session);
        let flows =
            stage.reads.iter().filter(|topic| sessions(&topic.value)).chain(&stage.emits).chain(&stage.state);
        let mut first = None;
        for (topic_name, topic) in flows.filter_map(|t| Some((&t.value, draft.topics.get(&t.value)?))) {
            let partitions = &topic.partitions;
            let (leader, expected) = *first.get_or_insert((topic_name, partitions.value));
            if partitions.value != expected && !(stage.emits.is_empty() && stage.state.is_none()) {
                problems.add(
                    partitions.referenced,
                    format!(
                        "`{topic_name}` has {} partitions; expected {expected} as `{leader}`, since `{name}` keeps each \
                         session in its partition",
                        partitions.value
                    ),
                );
            }
        }
    }
}
