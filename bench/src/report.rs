//! Reports: medians and spreads over rounds, and ratios to the baseline within the same rounds.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::latency::Latency;
use crate::process::Usage;
use crate::run::Run;

/// Rounds of one contender.
#[derive(Clone, Debug, Serialize)]
pub struct Contender {
    /// Name of the contender.
    pub name: String,
    /// Runs in order.
    pub rounds: Vec<Run>,
}

/// Median, minimum and maximum.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// Minimum.
    pub least: f64,
    /// Maximum.
    pub most: f64,
}

impl Spread {
    /// Computes the spread of values; NaN without any.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            at(middle)
        } else {
            f64::midpoint(at(middle.wrapping_sub(1)), at(middle))
        };
        Self { median, least: at(0), most: at(values.len().wrapping_sub(1)) }
    }
}

/// Report of `pipeline`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Events of a round.
    pub events: u64,
    /// Processes of each stage.
    pub processes: usize,
    /// Concurrently open sessions.
    pub open_sessions: usize,
    /// Seed of the sessions.
    pub seed: u64,
    /// Cores available to this process.
    pub cores: usize,
    /// Policies of the bundle.
    pub policies: usize,
    /// Runs at full speed.
    pub contenders: Vec<Contender>,
    /// Runs at a fixed rate.
    pub latency: Vec<Contender>,
}

impl Report {
    /// Returns the contender of this name.
    pub fn contender(&self, name: &str) -> Option<&Contender> {
        self.contenders.iter().find(|contender| contender.name == name)
    }

    /// Returns the pipeline's throughput as a share of another contender's, round by round, so that common disturbances
    /// cancel out.
    pub fn rate_share_of(&self, name: &str) -> Option<Spread> {
        let (ours, theirs) = (self.contender(PIPELINE)?, self.contender(name)?);
        Some(Spread::of(ours.rounds.iter().zip(&theirs.rounds).map(|(our, their)| our.rate() / their.rate())))
    }

    /// Returns another contender's CPU per event as a share of the pipeline's, round by round.
    pub fn cpu_share_of(&self, name: &str) -> Option<Spread> {
        let (ours, theirs) = (self.contender(PIPELINE)?, self.contender(name)?);
        let shares = ours
            .rounds
            .iter()
            .zip(&theirs.rounds)
            .map(|(our, their)| their.cpu_per_million() / our.cpu_per_million());
        Some(Spread::of(shares))
    }

    /// Returns the ratio of the pipeline's p99 alert latency to another contender's, of medians.
    pub fn p99_ratio_to(&self, name: &str) -> Option<f64> {
        let p99 = |name: &str| {
            let contender = self.latency.iter().find(|contender| contender.name == name)?;
            let alerts = contender.rounds.iter().filter_map(|run| match run.latency? {
                Latency::Alert(alerts) => Some(alerts.latencies.p99_ms),
                Latency::Row(_) => None,
            });
            Some(Spread::of(alerts).median)
        };
        Some(p99(PIPELINE)? / p99(name)?)
    }
}

/// Report of `sink`.
#[derive(Clone, Debug, Serialize)]
pub struct SinkReport {
    /// Rows of a round.
    pub rows: u64,
    /// Seed of the sessions.
    pub seed: u64,
    /// Cores available to this process.
    pub cores: usize,
    /// Contenders, the log-sink first.
    pub sinks: Vec<SinkContender>,
}

/// Contender for the log-sink's work.
#[derive(Clone, Debug, Serialize)]
pub struct SinkContender {
    /// Runs. The process that does the work has the contender's name.
    #[serde(flatten)]
    pub contender: Contender,
    /// Guarantees, one line.
    pub guarantees: String,
}

impl SinkContender {
    /// Returns the rows per CPU-second of the contender's own process, round by round.
    fn rows_per_cpu_second_by_round(&self) -> impl Iterator<Item = f64> {
        let name = &self.contender.name;
        self.contender.rounds.iter().map(move |run| {
            let own = run.usage.get(name).map_or(f64::NAN, |usage| usage.cpu_s);
            run.events as f64 / own
        })
    }

    /// Returns the rows per CPU-second of the contender's own process.
    pub fn rows_per_cpu_second(&self) -> Spread {
        Spread::of(self.rows_per_cpu_second_by_round())
    }

    /// Returns the ratio of rows per CPU-second to another contender's, round by round.
    pub fn ratio_to(&self, other: &Self) -> Spread {
        Spread::of(
            self.rows_per_cpu_second_by_round()
                .zip(other.rows_per_cpu_second_by_round())
                .map(|(ours, theirs)| ours / theirs),
        )
    }
}

/// Name of the product's contender.
pub const PIPELINE: &str = "pipeline";

impl Contender {
    /// Returns the events per second.
    pub fn rate(&self) -> Spread {
        Spread::of(self.rounds.iter().map(Run::rate))
    }

    /// Returns the CPU-seconds per million events of all processes together.
    pub fn cpu(&self) -> Spread {
        Spread::of(self.rounds.iter().map(Run::cpu_per_million))
    }

    /// Returns by process: median CPU-seconds per million events, and maximum resident bytes.
    pub fn by_process(&self) -> BTreeMap<String, Usage> {
        let mut all: BTreeMap<&String, Vec<(f64, u64)>> = BTreeMap::new();
        for run in &self.rounds {
            for (name, usage) in &run.usage {
                all.entry(name).or_default().push((usage.cpu_s / run.events as f64 * 1e6, usage.rss_bytes));
            }
        }
        all.into_iter()
            .map(|(name, values)| {
                let cpu_s = Spread::of(values.iter().map(|(cpu, _)| *cpu)).median;
                let rss_bytes = values.iter().map(|(_, rss)| *rss).max().unwrap_or_default();
                (name.clone(), Usage { cpu_s, rss_bytes })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_has_median_minimum_and_maximum() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Spread { median: 2.0, least: 1.0, most: 3.0 });
        assert_eq!(Spread::of([4.0, 1.0]), Spread { median: 2.5, least: 1.0, most: 4.0 });
        assert!(Spread::of([]).median.is_nan());
    }

    #[test]
    fn rows_per_cpu_second_counts_only_the_own_process() {
        let sink = |name: &str, cpus: [f64; 2]| {
            let run = |cpu_s| Run {
                events: 100,
                seconds: 1.0,
                usage: BTreeMap::from([
                    (name.to_owned(), Usage { cpu_s, rss_bytes: 0 }),
                    ("clickhouse".to_owned(), Usage { cpu_s: 50.0, rss_bytes: 0 }),
                ]),
                latency: None,
            };
            let contender = Contender { name: name.to_owned(), rounds: cpus.map(run).to_vec() };
            SinkContender { contender, guarantees: String::new() }
        };
        let (ours, theirs) = (sink("ours", [1.0, 2.0]), sink("theirs", [4.0, 2.0]));
        assert_eq!(ours.rows_per_cpu_second(), Spread { median: 75.0, least: 50.0, most: 100.0 });
        assert_eq!(ours.ratio_to(&theirs), Spread { median: 2.5, least: 1.0, most: 4.0 });
    }

    #[test]
    fn shares_are_computed_round_by_round() {
        let run = |seconds, cpu_s| Run {
            events: 1_000_000,
            seconds,
            usage: BTreeMap::from([("x".to_owned(), Usage { cpu_s, rss_bytes: 0 })]),
            latency: None,
        };
        let contender = |name: &str, rounds| Contender { name: name.to_owned(), rounds };
        let report = Report {
            events: 0,
            processes: 1,
            open_sessions: 1,
            seed: 0,
            cores: 2,
            policies: 0,
            contenders: vec![
                contender(PIPELINE, vec![run(2.0, 8.0), run(4.0, 8.0)]),
                contender("baseline", vec![run(1.0, 4.0), run(2.0, 2.0)]),
            ],
            latency: Vec::new(),
        };
        assert_eq!(report.rate_share_of("baseline").unwrap().median, 0.5);
        assert_eq!(report.cpu_share_of("baseline").unwrap().median, 0.375);
    }
}
