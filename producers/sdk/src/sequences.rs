//! Durable sequence numbers of a source: a contiguous watermark, and the missing numbers as ranges.

use std::collections::VecDeque;
use std::fmt;
use std::ops::RangeInclusive;

/// A set of sequence numbers, as ascending ranges with gaps between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sequences(Vec<RangeInclusive<i64>>);

impl Sequences {
    /// Returns true if the set is empty.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the number of sequence numbers.
    pub fn count(&self) -> i64 {
        self.0.iter().map(|range| range.end() - range.start() + 1).sum()
    }

    /// Returns the ranges in ascending order.
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

/// Tracks acknowledged sequences. Partitions acknowledge independently of each other, so there may be gaps for a while.
#[derive(Debug, Default)]
pub(crate) struct Watermark {
    /// Every sequence below this one is durable.
    below: i64,
    /// `ahead[i]` is true if sequence `below + i` is durable. The first element is false. The length is bounded by the events
    /// in flight.
    ahead: VecDeque<bool>,
}

impl Watermark {
    /// Creates a watermark at `first`: every sequence below it is durable, and no other.
    pub(crate) fn from_sequence(first: i64) -> Self {
        Self { below: first, ahead: VecDeque::new() }
    }

    /// Returns the watermark: every sequence below it is durable.
    pub(crate) const fn below(&self) -> i64 {
        self.below
    }

    /// Marks `sequence` as durable.
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

    /// Returns the sequences below `end` that are not durable.
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
    fn sequences_are_displayed_as_ranges() {
        let mut sequences = Sequences::default();
        assert_eq!(sequences.to_string(), "none");
        for range in [3..=3, 4..=4, 9..=9, 11..=20] {
            sequences.push(range);
        }
        assert_eq!(sequences.to_string(), "3-4, 9, 11-20");
        assert_eq!(sequences.count(), 13);
    }

    proptest! {
        /// The model is a set of numbers.
        #[test]
        fn watermark_equals_its_model(acknowledged in prop::collection::vec(0_i64..60, 0..80), end in 0_i64..80) {
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
