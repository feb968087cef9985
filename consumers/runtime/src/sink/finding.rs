//! What the log says of offsets that were passed over: one line a minute, however many there are. The counter has each.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::second::Ranges;

/// Lines of one topic are so far apart.
const PACE: Duration = Duration::from_secs(60);

/// Of a partition: the first of the offsets since the last line, the one behind the last, and how many they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Passed {
    from: i64,
    to: i64,
    offsets: u64,
}

/// What is yet to be said of a topic.
#[derive(Debug, Default)]
pub(super) struct Finding {
    said: Option<Instant>,
    unsaid: BTreeMap<i32, Passed>,
}

impl Finding {
    /// Rows that stand behind these are durable.
    pub(super) fn note(&mut self, stage: &str, topic: &str, passed_over: &Ranges) {
        for (partition, passed) in self.due(passed_over, Instant::now()) {
            let Passed { from, to, offsets } = passed;
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

    fn due(&mut self, passed_over: &Ranges, now: Instant) -> BTreeMap<i32, Passed> {
        for (partition, ranges) in passed_over {
            for range in ranges {
                let passed =
                    self.unsaid.entry(*partition).or_insert(Passed { from: range.start, to: 0, offsets: 0 });
                passed.to = range.end;
                passed.offsets += range.end.abs_diff(range.start);
            }
        }
        let rests = self.said.is_some_and(|said| now.duration_since(said) < PACE);
        if rests || self.unsaid.is_empty() {
            return BTreeMap::new();
        }
        self.said = Some(now);
        std::mem::take(&mut self.unsaid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_minute_has_all_since_the_last() {
        let mut finding = Finding::default();
        let began = Instant::now();
        let ranges = |range| Ranges::from([(3, vec![range])]);
        assert!(finding.due(&Ranges::new(), began).is_empty());
        let first = Passed { from: 5, to: 7, offsets: 2 };
        assert_eq!(finding.due(&ranges(5..7), began), BTreeMap::from([(3, first)]));
        for at in 0..50_u8 {
            let from = 10 + 2 * i64::from(at);
            let later = began + Duration::from_secs(u64::from(at));
            assert!(finding.due(&ranges(from..from + 1), later).is_empty());
        }
        let rest = Passed { from: 10, to: 201, offsets: 51 };
        assert_eq!(finding.due(&ranges(200..201), began + PACE), BTreeMap::from([(3, rest)]));
        assert!(finding.due(&Ranges::new(), began + PACE * 3).is_empty());
    }
}
