//! Logs skipped offsets: one line a minute and topic, however many offsets there are. The metric counts all of them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::second_reader::Ranges;

/// Interval between lines of one topic.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Offsets of a partition that were skipped since the last line: the first, the one after the last, and their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Skipped {
    from: i64,
    to: i64,
    offsets: u64,
}

/// Skipped offsets of a topic that are not logged yet.
#[derive(Debug, Default)]
pub(super) struct SkipLog {
    last_logged: Option<Instant>,
    pending: BTreeMap<i32, Skipped>,
}

impl SkipLog {
    /// Adds ranges whose following rows are durable, and logs them if a line is due.
    pub(super) fn note(&mut self, stage: &str, topic: &str, skips: &Ranges) {
        for (partition, passed) in self.due(skips, Instant::now()) {
            let Skipped { from, to, offsets } = passed;
            tracing::warn!(
                stage,
                topic,
                partition,
                from,
                to,
                offsets,
                "skipped offsets without a record. Either a client writes transactions to this topic, which no client should (nothing is \
                 lost, but an open transaction holds back the records after it: make its producer non-transactional), or the topic's cleanup.policy is \
                 or was compact, which removes records: check with `agentgov topology plan` (docs/errors/offsets-skipped.md)"
            );
        }
    }

    fn due(&mut self, skips: &Ranges, now: Instant) -> BTreeMap<i32, Skipped> {
        for (partition, ranges) in skips {
            for range in ranges {
                let passed = self.pending.entry(*partition).or_insert(Skipped {
                    from: range.start,
                    to: 0,
                    offsets: 0,
                });
                passed.to = range.end;
                passed.offsets += range.end.abs_diff(range.start);
            }
        }
        let rests =
            self.last_logged.is_some_and(|last_logged| now.duration_since(last_logged) < LOG_INTERVAL);
        if rests || self.pending.is_empty() {
            return BTreeMap::new();
        }
        self.last_logged = Some(now);
        std::mem::take(&mut self.pending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_minute_has_all_since_the_last() {
        let mut skip_log = SkipLog::default();
        let began = Instant::now();
        let ranges = |range| Ranges::from([(3, vec![range])]);
        assert!(skip_log.due(&Ranges::new(), began).is_empty());
        let first = Skipped { from: 5, to: 7, offsets: 2 };
        assert_eq!(skip_log.due(&ranges(5..7), began), BTreeMap::from([(3, first)]));
        for at in 0..50_u8 {
            let from = 10 + 2 * i64::from(at);
            let later = began + Duration::from_secs(u64::from(at));
            assert!(skip_log.due(&ranges(from..from + 1), later).is_empty());
        }
        let rest = Skipped { from: 10, to: 201, offsets: 51 };
        assert_eq!(skip_log.due(&ranges(200..201), began + LOG_INTERVAL), BTreeMap::from([(3, rest)]));
        assert!(skip_log.due(&Ranges::new(), began + LOG_INTERVAL * 3).is_empty());
    }
}
