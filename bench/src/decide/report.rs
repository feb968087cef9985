//! Report of `decide`: figures of each round, and ratios within the rounds.

use serde::Serialize;

use crate::Spread;

/// A figure and that of the other contender in the same round.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Pair {
    /// Figure of agentgov.
    pub ours: f64,
    /// Figure of the other contender.
    pub other: f64,
}

impl Pair {
    fn ratio(self) -> f64 {
        self.ours / self.other
    }
}

/// Figures of a round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct DecideRound {
    /// Median latency of a decision on one connection, beside a constant decision of the same server, in ms.
    pub http_p50_ms: Option<Pair>,
    /// Decisions per second on 32 connections, beside a constant decision of the same server.
    pub http_per_second: Option<Pair>,
    /// Decisions per second on 32 connections by a bundle alone, beside OPA.
    pub opa_per_second: Option<Pair>,
    /// Decisions per second of one thread by a bundle alone, beside Cedar's authorizer over all policies.
    pub in_process_per_second: Option<Pair>,
    /// Median latency of a decision on one connection with 1,000 policies, beside 10, in ms.
    pub policies_p50_ms: Option<Pair>,
    /// Median time from the record of a result to an answer that knows it, beside a bare producer and consumer, in ms.
    pub known_p50_ms: Option<Pair>,
    /// Median time of `agentgov hook`, beside `python3 -c pass` and a decision, in ms.
    pub hook_p50_ms: Option<Pair>,
    /// Time from the start of a decision point until it is ready, beside the evaluator, in seconds.
    pub ready_s: Option<Pair>,
}

/// Ratios: agentgov's figure over that of the other contender, medians of the rounds. `None` was not measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Ratios {
    /// Of [`DecideRound::http_p50_ms`].
    pub http_p50: Option<f64>,
    /// Of [`DecideRound::http_per_second`].
    pub http_throughput_32: Option<f64>,
    /// Of [`DecideRound::opa_per_second`].
    pub opa_throughput_32: Option<f64>,
    /// Of [`DecideRound::in_process_per_second`].
    pub plain_in_process: Option<f64>,
    /// Of [`DecideRound::policies_p50_ms`].
    pub policies_10_to_1000: Option<f64>,
    /// Of [`DecideRound::known_p50_ms`].
    pub recorded_to_known: Option<f64>,
    /// A call through the gateway beside a direct one. Not measured yet.
    pub gateway_call: Option<f64>,
    /// Of [`DecideRound::hook_p50_ms`].
    pub hook: Option<f64>,
    /// Of [`DecideRound::ready_s`].
    pub pdp_restore: Option<f64>,
}

/// Report of `decide`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DecideReport {
    /// Requests whose answers differ between the bundle, Cedar's authorizer and OPA.
    pub answers_differ: usize,
    /// Suspensions that all decision points applied within a second.
    pub suspended_within_1s: usize,
    /// Time from the acknowledgement of a suspension until all decision points deny, in ms.
    pub suspended_ms: Spread,
    /// Ratios over the rounds.
    pub ratios: Ratios,
    /// The rounds.
    pub rounds: Vec<DecideRound>,
}

impl Ratios {
    /// Returns the median of the ratios within each round.
    pub fn of(rounds: &[DecideRound]) -> Self {
        let median = |pair: fn(&DecideRound) -> Option<Pair>| {
            let ratios: Option<Vec<f64>> = rounds.iter().map(|round| pair(round).map(Pair::ratio)).collect();
            ratios.filter(|ratios| !ratios.is_empty()).map(|ratios| Spread::of(ratios).median)
        };
        Self {
            http_p50: median(|round| round.http_p50_ms),
            http_throughput_32: median(|round| round.http_per_second),
            opa_throughput_32: median(|round| round.opa_per_second),
            plain_in_process: median(|round| round.in_process_per_second),
            policies_10_to_1000: median(|round| round.policies_p50_ms),
            recorded_to_known: median(|round| round.known_p50_ms),
            gateway_call: None,
            hook: median(|round| round.hook_p50_ms),
            pdp_restore: median(|round| round.ready_s),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratio_is_the_median_of_the_rounds_ratios() {
        let round =
            |ours, other| DecideRound { http_p50_ms: Some(Pair { ours, other }), ..DecideRound::default() };
        let rounds = [round(3.0, 1.0), round(40.0, 20.0), round(8.0, 1.0)];
        let ratios = Ratios::of(&rounds);
        assert_eq!(ratios.http_p50, Some(3.0));
        assert_eq!(ratios.opa_throughput_32, None, "not measured");
        assert_eq!(Ratios::of(&[]), Ratios::default());
    }

    #[test]
    fn ratio_that_was_not_measured_is_null() {
        let ratios = serde_json::to_value(Ratios::default()).unwrap();
        for name in [
            "http_p50",
            "http_throughput_32",
            "opa_throughput_32",
            "plain_in_process",
            "policies_10_to_1000",
            "recorded_to_known",
            "gateway_call",
            "hook",
            "pdp_restore",
        ] {
            assert_eq!(ratios.get(name), Some(&serde_json::Value::Null), "{name}");
        }
    }
}
