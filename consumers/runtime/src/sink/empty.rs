//! Proofs that no record follows a partition's last row, made durable in the store. They serve once retention has deleted the offsets:
//! `position` passes over those that a proof covers.

use std::ops::Range;

use agentgov_service::StageError;

use super::marker::Claims;
use super::run::{Options, Sink};
use super::store::quote;
use super::{RowEncoder, TopicPartition};

impl<E: RowEncoder> Sink<E> {
    /// Records what fresh readers have proven since the last call, and has them read what is quiet now.
    pub(super) fn record_empty_tails(&mut self) -> Result<(), StageError> {
        let writers = &self.writers;
        let proven = self.prover.poll(|| {
            writers.iter().map(|writer| (writer.route.topic.clone(), writer.quiet_positions())).collect()
        });
        let mut rows = Vec::new();
        for tail in proven.empty {
            let Some(writer) = self.writers.iter().position(|writer| writer.route.topic == tail.topic) else {
                continue;
            };
            let proof = self
                .writers
                .get(writer)
                .and_then(|writer| writer.empty_tail_row(tail.partition, &tail.offsets));
            rows.extend(proof.map(|proof| (writer, tail.partition, proof)));
        }
        if rows.is_empty() {
            return Ok(());
        }
        let Err(error) = self
            .store
            .execute(&insert(&self.options.empty_ranges_table, rows.iter().map(|(.., proof)| proof)))
        else {
            for (writer, partition, (name, _, offsets)) in rows {
                tracing::debug!(
                    at = name,
                    from = offsets.start,
                    to = offsets.end,
                    "no record in these offsets"
                );
                if let Some(writer) = self.writers.get_mut(writer) {
                    writer.mark_empty(partition, offsets.end);
                }
            }
            return Ok(());
        };
        if !error.is_fenced() {
            tracing::warn!(%error, table = self.options.empty_ranges_table, "a proof was not recorded; trying again");
            return Ok(());
        }
        // Somebody else has claimed, or the server has restarted.
        let mut writers: Vec<_> = rows.into_iter().map(|(writer, ..)| writer).collect();
        writers.dedup();
        for writer in writers {
            if let Some(writer) = self.writers.get_mut(writer) {
                writer.invalidate();
            }
        }
        self.pause_invalidated()
    }
}

fn insert<'p>(table: &str, proofs: impl Iterator<Item = &'p (String, u64, Range<i64>)> + Clone) -> String {
    let marker = proofs.clone().map(|(name, claim, _)| (name.clone(), *claim)).collect::<Claims>().marker();
    let rows = proofs.map(|(name, claim, offsets)| {
        format!("({}, {}, {}, {claim})", quote(name), offsets.start, offsets.end)
    });
    let rows: Vec<_> = rows.collect();
    format!(
        "{marker} INSERT INTO {table} (topic_partition, from_offset, to_offset, claim) VALUES {}",
        rows.join(", ")
    )
}

/// A record came where none can be.
pub(super) fn contradiction_error(options: &Options, at: &TopicPartition, offset: i64) -> StageError {
    StageError::OtherCluster {
        stage: options.stage.clone(),
        topic: at.topic.to_string(),
        partition: at.partition,
        message: format!(
            "table {} has on record that no record stands at offset {offset}, but the topic has one there: it is another topic of \
             the same name, or rows were changed from outside",
            options.empty_ranges_table
        ),
    }
}
