//! Where an alert's time went: from the event to its verdict, to the alert, to who reads it.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::BenchError;
use crate::latency::{Percentiles, Seen};
use crate::store::Store;

/// Where an action stands in its topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    pub partition: i32,
    pub offset: i64,
}

/// The table of a run's verdicts.
pub(crate) struct Judged {
    pub store: Store,
    pub table: String,
}

/// The way of alerts, hop by hop. What a stage produces bears the time at which its step was over; so each hop but the last holds
/// the end of the transaction before, the fetch, the wait for the batch before, and the step.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Hops {
    /// From publishing until the evaluator has judged.
    pub to_verdict: Hop,
    /// From there until the alerter has stepped it.
    pub to_alert: Hop,
    /// From there until its transaction has ended and the reader has it.
    pub to_reader: Hop,
}

/// One hop.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Hop {
    /// Of all alerts.
    #[serde(flatten)]
    pub all: Percentiles,
    /// What the slowest hundredth of alerts, by the whole way, took for it: the mean, in milliseconds.
    pub slowest_ms: f64,
}

impl Hop {
    /// Of microseconds, those of the slowest alerts last.
    fn of(micros: Vec<i64>) -> Self {
        let slowest = micros.get(micros.len() - micros.len().div_ceil(100)..).unwrap_or_default();
        let slowest_ms = slowest.iter().sum::<i64>() as f64 / slowest.len() as f64 / 1e3;
        Self { all: Percentiles::of(micros), slowest_ms }
    }
}

impl Judged {
    /// The hops of these alerts.
    pub(crate) fn hops(&self, alerts: &[Seen]) -> Result<Hops, BenchError> {
        let first = alerts.iter().map(|alert| alert.published).min().unwrap_or_default() / 1_000;
        let rows = self.store.lines(format!(
            "SELECT origin_partition, origin_offset, toUnixTimestamp64Milli(logged_at) FROM {} \
             WHERE logged_at >= fromUnixTimestamp64Milli({first})",
            self.table
        ))?;
        let judged: HashMap<Origin, i64> = rows
            .into_iter()
            .filter_map(|row| {
                let [partition, offset, at] = <[String; 3]>::try_from(row).ok()?;
                let origin = Origin { partition: partition.parse().ok()?, offset: offset.parse().ok()? };
                Some((origin, at.parse::<i64>().ok()? * 1_000))
            })
            .collect();
        Ok(hops(alerts, &judged))
    }
}

fn hops(alerts: &[Seen], judged: &HashMap<Origin, i64>) -> Hops {
    let mut ways: Vec<[i64; 4]> = alerts
        .iter()
        .filter_map(|alert| {
            let judged = *judged.get(&alert.origin?)?;
            Some([alert.published, judged, alert.produced, alert.seen])
        })
        .collect();
    ways.sort_by_key(|[published, .., seen]| seen - published);
    let hop = |to: fn(&[i64; 4]) -> i64| Hop::of(ways.iter().map(to).collect());
    Hops {
        to_verdict: hop(|[published, judged, ..]| judged - published),
        to_alert: hop(|[_, judged, alerted, _]| alerted - judged),
        to_reader: hop(|[.., alerted, seen]| seen - alerted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_are_those_of_the_whole_way() {
        let origin = |offset| Origin { partition: 0, offset };
        let alert = |offset, seen| Seen { published: 0, produced: 4_000, seen, origin: Some(origin(offset)) };
        let alerts = [alert(1, 10_000), alert(2, 90_000), alert(3, 10_000)];
        let judged = HashMap::from([(origin(1), 3_000), (origin(2), 1_000), (origin(3), 3_000)]);
        let hops = hops(&alerts, &judged);
        let ms = |hop: Hop| (hop.all.p50_ms, hop.slowest_ms);
        assert_eq!(ms(hops.to_verdict), (3.0, 1.0));
        assert_eq!(ms(hops.to_alert), (1.0, 3.0));
        assert_eq!(ms(hops.to_reader), (6.0, 86.0));
    }
}
