//! Which numbers of a source are durable: the contiguous watermark, and the names of the rest.

use std::collections::VecDeque;
use std::fmt;
use std::ops::RangeInclusive;

/// A set of source sequences, as ascending ranges that do not touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sequences(Vec<RangeInclusive<i64>>);

impl Sequences {
    /// True if there are none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn count(&self) -> i64 {
        self.0.iter().map(|range| range.end() - range.start() + 1).sum()
    }

    /// The ranges, ascending.
    pub fn ranges(&self) -> &[RangeInclusive<i64>] {
        &self.0
    }

    fn push(&mut self, range: RangeInclusive<i64>) {
        if range.is_empty() {
            return;
        }
        match self.0.last_mut() {
            Some(last) if last.end() + 1 == *range.start() => *last = *last.start()..=*range.end(),
            _ => self.0.push(range),
        }
    }
}

impl fmt::Display for Sequences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        for (i, range) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            match range.end() - range.start() {
                0 => write!(f, "{comma}{}", range.start())?,
                _ => write!(f, "{comma}{}-{}", range.start(), range.end())?,
            }
        }
        Ok(())
    }
}

/// Which sequences were acknowledged. Partitions acknowledge each in its own order, so there may be holes for a while.
#[derive(Debug, Default)]
pub(crate) struct Watermark {
    /// Every sequence below is durable.
    below: i64,
    /// `ahead[i]`: whether `below + i` is. The first is false. Never longer than what is in flight.
    ahead: VecDeque<bool>,
}

impl Watermark {
    /// Every sequence below `first` is durable, no other.
    pub(crate) fn starting_at(first: i64) -> Self {
        Self { below: first, ahead: VecDeque::new() }
    }

    /// Every sequence below this one is durable.
    pub(crate) const fn below(&self) -> i64 {
        self.below
    }

    /// Notes that `sequence` is durable.
    pub(crate) fn acknowledge(&mut self, sequence: i64) {
        let Ok(index) = usize::try_from(sequence - self.below) else { return };
        if index >= self.ahead.len() {
            self.ahead.resize(index + 1, false);
        }
        if let Some(durable) = self.ahead.get_mut(index) {
            *durable = true;
        }
        while self.ahead.front() == Some(&true) {
            self.ahead.pop_front();
            self.below += 1;
        }
    }

    /// The sequences under `end` that are not durable.
    pub(crate) fn missing(&self, end: i64) -> Sequences {
        let mut missing = Sequences::default();
        let mut sequence = self.below;
        for durable in &self.ahead {
            if !durable && sequence < end {
                missing.push(sequence..=sequence);
            }
            sequence += 1;
        }
        missing.push(sequence..=end - 1);
        missing
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sequences_read_as_ranges() {
        let mut sequences = Sequences::default();
        assert_eq!(sequences.to_string(), "none");
        for range in [3..=3, 4..=4, 9..=9, 11..=20] {
            sequences.push(range);
        }
        assert_eq!(sequences.to_string(), "3-4, 9, 11-20");
        assert_eq!(sequences.count(), 13);
    }

    proptest! {
        /// Against the plainest model: a set of numbers.
        #[test]
        fn watermark_equals_a_set(acknowledged in prop::collection::vec(0_i64..60, 0..80), end in 0_i64..80) {
            let mut watermark = Watermark::default();
            let mut model = BTreeSet::new();
            for sequence in acknowledged {
                watermark.acknowledge(sequence);
                model.insert(sequence);
                let below = (0..).find(|s| !model.contains(s)).unwrap();
                prop_assert_eq!(watermark.below(), below);
            }
            let missing: Vec<i64> = watermark.missing(end).ranges().iter().cloned().flatten().collect();
            let expected: Vec<i64> = (0..end).filter(|s| !model.contains(s)).collect();
            prop_assert_eq!(watermark.missing(end).count(), expected.len() as i64);
            prop_assert_eq!(missing, expected);
        }
    }
}
