//! Rules about stores.

use std::collections::BTreeMap;

use super::Draft;
use crate::yaml::Problems;

/// A store has one writer: two stages would fence each other forever.
pub(super) fn writers(draft: &Draft, problems: &mut Problems) {
    for (name, store) in draft.stores.valid() {
        let writer = &store.value.writer;
        if !draft.stages.has(&writer.value) {
            problems
                .add(writer.referenced, format!("writer of `{name}`: no stage `{}` in stages", writer.value));
        } else if draft
            .stages
            .get(&writer.value)
            .is_some_and(|stage| stage.stores.iter().all(|s| s.value != name))
        {
            problems.add(
                writer.referenced,
                format!("`{}` writes `{name}`; expected `{name}` in its stores", writer.value),
            );
        }
    }
    for (stage, entry) in draft.stages.valid() {
        for store in &entry.value.stores {
            let writer = draft.stores.get(&store.value).map(|store| &store.writer.value);
            // The check above reports a writer that is not a stage.
            if let Some(writer) = writer.filter(|w| *w != stage && draft.stages.has(w)) {
                problems.add(
                    store.referenced,
                    format!(
                        "`{stage}` lists store `{}`, whose writer is `{writer}`; expected one writer",
                        store.value
                    ),
                );
            }
        }
    }
}

/// The writer has one table for each topic that it reads, and reads the topic of each table.
pub(super) fn feeds(draft: &Draft, problems: &mut Problems) {
    for (name, store) in draft.stores.valid() {
        let writer = &store.value.writer.value;
        let Some(stage) = draft.stages.get(writer) else { continue };
        let mut fed: BTreeMap<&str, &str> = BTreeMap::new();
        for (table, from) in store.value.tables.iter().filter_map(|(n, t)| Some((n, t.value.from.as_ref()?)))
        {
            if stage.reads.iter().all(|topic| topic.value != from.value) {
                problems.add(
                    from.referenced,
                    format!(
                        "table `{table}` is fed from `{}`; expected it in reads of `{writer}`",
                        from.value
                    ),
                );
            }
            if let Some(other) = fed.insert(&from.value, table) {
                problems.add(
                    from.referenced,
                    format!("`{}` also feeds `{other}`; expected one table for each topic", from.value),
                );
            }
        }
        for topic in stage.reads.iter().filter(|topic| !fed.contains_key(topic.value.as_str())) {
            problems.add(
                topic.referenced,
                format!("`{writer}` reads `{}`; expected a table of `{name}` with `from: {0}`", topic.value),
            );
        }
    }
}
