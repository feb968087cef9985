//! Which record goes into which insert. A table's rows are gathered in a few open blocks, each of one month, so that an
//! insert touches one table partition; the records of a topic-partition stay in order over the blocks.

use std::collections::BTreeMap;

use agentgov_schemas::Millis;

/// Blocks that are open side by side: while a backlog crosses the end of a month, its partitions do so one by one.
const MAX_OPEN_BLOCKS: usize = 3;

/// A month of `logged_at` in UTC, as ClickHouse's toYYYYMM tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Month(i64);

impl Month {
    /// The month of a moment. Source of the arithmetic: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms",
    /// civil_from_days.
    pub(super) fn of(at: Millis) -> Self {
        let days = at.0.div_euclid(86_400_000) + 719_468;
        let era = days.div_euclid(146_097);
        let day_of_era = days.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * day_of_year + 2) / 153;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        let year = era * 400 + year_of_era + i64::from(month <= 2);
        Self(year * 100 + month)
    }
}

/// Where a record belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlockSlot {
    /// Into the open block of this number, counted in the order of inserting; a new one if there is none yet.
    Block(usize),
    /// Nowhere before the open blocks are inserted.
    Full,
}

/// The months of the open blocks, and in which of them each partition stands.
#[derive(Debug, Default)]
pub(super) struct BlockPlan {
    months: Vec<Month>,
    current: BTreeMap<i32, usize>,
}

impl BlockPlan {
    /// Finds the place of the next record of `partition`.
    pub(super) fn slot_for(&mut self, partition: i32, month: Month) -> BlockSlot {
        let from = self.current.get(&partition).copied().unwrap_or(0);
        let open =
            self.months.iter().enumerate().skip(from).find(|(_, open)| **open == month).map(|(at, _)| at);
        let at = match open {
            Some(at) => at,
            None if self.months.len() < MAX_OPEN_BLOCKS => {
                self.months.push(month);
                self.months.len() - 1
            }
            None => return BlockSlot::Full,
        };
        self.current.insert(partition, at);
        BlockSlot::Block(at)
    }

    /// Forgets the blocks: they are inserted, or given up.
    pub(super) fn clear(&mut self) {
        self.months.clear();
        self.current.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn month_is_that_of_the_utc_date() {
        for (millis, month) in [
            (0, 197_001),
            (-1, 196_912),
            (951_782_399_999, 200_002),    // 2000-02-28T23:59:59.999
            (951_868_800_000, 200_003),    // 2000-03-01, after a leap day
            (1_795_132_799_999, 202_611),  // 2026-11-19
            (1_798_761_600_000, 202_701),  // 2027-01-01
            (7_258_118_400_000, 220_001),  // 2200-01-01
            (-2_208_988_800_000, 190_001), // 1900-01-01
        ] {
            assert_eq!(Month::of(Millis(millis)), Month(month), "{millis}");
        }
    }

    proptest! {
        #[test]
        fn blocks_hold_one_month_and_partitions_stay_in_order(
            records in prop::collection::vec((0..4_i32, 0..4_i64), 0..200)
        ) {
            let mut plan = BlockPlan::default();
            let mut inserted: Vec<Vec<(i32, i64, usize)>> = Vec::new();
            let mut open: Vec<Vec<(i32, i64, usize)>> = Vec::new();
            for (number, (partition, month)) in records.iter().copied().enumerate() {
                let place = match plan.slot_for(partition, Month(month)) {
                    BlockSlot::Full => {
                        inserted.append(&mut open);
                        plan.clear();
                        plan.slot_for(partition, Month(month))
                    }
                    place => place,
                };
                let BlockSlot::Block(at) = place else { panic!("nowhere, after all blocks were inserted") };
                if at == open.len() {
                    open.push(Vec::new());
                }
                open[at].push((partition, month, number));
            }
            inserted.append(&mut open);
            for block in &inserted {
                prop_assert!(block.iter().all(|(_, month, _)| *month == block[0].1));
            }
            for partition in 0..4 {
                let numbers: Vec<_> =
                    inserted.iter().flatten().filter(|(p, ..)| *p == partition).map(|(.., number)| *number).collect();
                prop_assert!(numbers.is_sorted());
            }
            prop_assert_eq!(inserted.iter().map(Vec::len).sum::<usize>(), records.len());
        }
    }
}
