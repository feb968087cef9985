//! Latency of alerts by stage: from event to verdict, from verdict to alert, from alert to reader.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::BenchError;
use crate::latency::{ObservedRecord, Percentiles};
use crate::store::Store;

/// Topic position of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    pub partition: i32,
    pub offset: i64,
}

/// Table of the verdicts of a run.
pub(crate) struct VerdictTable {
    pub store: Store,
    pub table: String,
}

/// Latency of alerts by stage. A stage's output carries the time at which its step finished. Each latency except the last
/// therefore includes the commit of the previous transaction, the fetch, the wait for the previous batch, and the step.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct StageLatencies {
    /// From publication to the evaluator's verdict.
    pub to_verdict: StageLatency,
    /// From the verdict to the alerter's alert.
    pub to_alert: StageLatency,
    /// From the alert to its reader, after the transaction has committed.
    pub to_reader: StageLatency,
}

/// Latency of one stage.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct StageLatency {
    /// Percentiles of all alerts.
    #[serde(flatten)]
    pub all: Percentiles,
    /// Mean in milliseconds of the slowest 1 % of alerts by total latency.
    pub slowest_ms: f64,
}

impl StageLatency {
    /// Summarises latencies in microseconds, sorted by the alerts' total latency.
    fn of(micros: Vec<i64>) -> Self {
        let slowest = micros.get(micros.len() - micros.len().div_ceil(100)..).unwrap_or_default();
        let slowest_ms = slowest.iter().sum::<i64>() as f64 / slowest.len() as f64 / 1e3;
        Self { all: Percentiles::of(micros), slowest_ms }
    }
}

impl VerdictTable {
    /// Computes the latencies of alerts by stage.
    pub(crate) fn stage_latencies(&self, alerts: &[ObservedRecord]) -> Result<StageLatencies, BenchError> {
        let first = alerts.iter().map(|alert| alert.published).min().unwrap_or_default() / 1_000;
        let rows = self.store.lines(format!(
            "SELECT origin_partition, origin_offset, toUnixTimestamp64Milli(logged_at) FROM {} \
             WHERE logged_at >= fromUnixTimestamp64Milli({first})",
            self.table
        ))?;
        let verdicts: HashMap<Origin, i64> = rows
            .into_iter()
            .filter_map(|row| {
                let [partition, offset, at] = <[String; 3]>::try_from(row).ok()?;
                let origin = Origin { partition: partition.parse().ok()?, offset: offset.parse().ok()? };
                Some((origin, at.parse::<i64>().ok()? * 1_000))
            })
            .collect();
        Ok(stage_latencies(alerts, &verdicts))
    }
}

fn stage_latencies(alerts: &[ObservedRecord], verdicts: &HashMap<Origin, i64>) -> StageLatencies {
    let mut times: Vec<[i64; 4]> = alerts
        .iter()
        .filter_map(|alert| {
            let verdict = *verdicts.get(&alert.origin?)?;
            Some([alert.published, verdict, alert.produced, alert.seen])
        })
        .collect();
    times.sort_by_key(|[published, .., seen]| seen - published);
    let stage = |to: fn(&[i64; 4]) -> i64| StageLatency::of(times.iter().map(to).collect());
    StageLatencies {
        to_verdict: stage(|[published, verdict, ..]| verdict - published),
        to_alert: stage(|[_, verdict, alerted, _]| alerted - verdict),
        to_reader: stage(|[.., alerted, seen]| seen - alerted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slowest_alerts_are_chosen_by_total_latency() {
        let origin = |offset| Origin { partition: 0, offset };
        let alert = |offset, seen| ObservedRecord {
            published: 0,
            produced: 4_000,
            seen,
            origin: Some(origin(offset)),
        };
        let alerts = [alert(1, 10_000), alert(2, 90_000), alert(3, 10_000)];
        let verdicts = HashMap::from([(origin(1), 3_000), (origin(2), 1_000), (origin(3), 3_000)]);
        let stage_latencies = stage_latencies(&alerts, &verdicts);
        let ms = |stage: StageLatency| (stage.all.p50_ms, stage.slowest_ms);
        assert_eq!(ms(stage_latencies.to_verdict), (3.0, 1.0));
        assert_eq!(ms(stage_latencies.to_alert), (1.0, 3.0));
        assert_eq!(ms(stage_latencies.to_reader), (6.0, 86.0));
    }
}
