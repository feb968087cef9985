//! What the log says of offsets that were passed over: one line a minute, however many there are. The counter has each.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::second_reader::Ranges;

/// Lines of one topic are so far apart.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Of a partition: the first of the offsets since the last line, the one behind the last, and how many they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Skipped {
    from: i64,
    to: i64,
    offsets: u64,
}

/// What is yet to be said of a topic.
#[derive(Debug, Default)]
pub(super) struct SkipLog {
    last_logged: Option<Instant>,
    pending: BTreeMap<i32, Skipped>,
}

impl SkipLog {
    /// Rows that stand behind these are durable.
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
                "offsets without a record: either a client writes transactions to this topic, which nobody must (nothing is lost, but an \
                 open transaction holds back what is behind it: make its producer non-transactional), or the topic's cleanup.policy is \
                 or was compact, which removes records: compare with `agentgov topology plan` (docs/errors/offsets-skipped.md)"
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
