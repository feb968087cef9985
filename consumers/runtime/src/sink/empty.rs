//! Stores proofs that no record follows a partition's last row. They matter once retention has deleted the offsets:
//! `position` skips deleted offsets that a proof covers.

use std::ops::Range;

use agentgov_service::StageError;

use super::marker::Claims;
use super::run::{Options, Sink};
use super::store::quote;
use super::{RowEncoder, TopicPartition};

impl<E: RowEncoder> Sink<E> {
    /// Stores the empty tails that fresh readers have proven since the last call, and lets them read the partitions
    /// that are quiet now.
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
                    "stored a proof that these offsets hold no record"
                );
                if let Some(writer) = self.writers.get_mut(writer) {
                    writer.mark_empty(partition, offsets.end);
                }
            }
            return Ok(());
        };
        if !error.is_fenced() {
            tracing::warn!(%error, table = self.options.empty_ranges_table, "could not store a proof of empty offsets; retrying");
            return Ok(());
        }
        // Another process has claimed the partition, or the server has restarted.
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

/// Returns the error for a record at an offset that is proven to be empty.
pub(super) fn contradiction_error(options: &Options, at: &TopicPartition, offset: i64) -> StageError {
    StageError::OtherCluster {
        stage: options.stage.clone(),
        topic: at.topic.to_string(),
        partition: at.partition,
        message: format!(
            "expected no record at offset {offset}, as proven in table {}, but found one: this is another topic of the same \
             name, or rows were changed from outside",
            options.empty_ranges_table
        ),
    }
}
