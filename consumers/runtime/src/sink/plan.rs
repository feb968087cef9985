//! Assignment of records to blocks. A table's rows are buffered in a few open blocks of one month each, so that an
//! insert touches one table partition. Records of a topic-partition stay in order across the blocks.

use std::collections::BTreeMap;

use agentgov_schemas::Millis;

/// Maximum number of open blocks. While the sink reads a backlog, its partitions reach a new month one by one, so
/// blocks of several months are open.
const MAX_OPEN_BLOCKS: usize = 3;

/// Month of `logged_at` in UTC, as in ClickHouse's toYYYYMM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Month(i64);

impl Month {
    /// Returns the month of a timestamp. Source of the arithmetic: H. Hinnant, "chrono-Compatible Low-Level Date
    /// Algorithms", civil_from_days.
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

/// Block of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlockSlot {
    /// Open block with this index in the order of insertion, or a new one if the index is the number of open blocks.
    Block(usize),
    /// No block, until the open ones are inserted.
    Full,
}

/// Months of the open blocks, and the current block of each partition.
#[derive(Debug, Default)]
pub(super) struct BlockPlan {
    months: Vec<Month>,
    current: BTreeMap<i32, usize>,
}

impl BlockPlan {
    /// Returns the block of the next record of `partition`.
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

    /// Removes the blocks after they are inserted or dropped.
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
                let slot = match plan.slot_for(partition, Month(month)) {
                    BlockSlot::Full => {
                        inserted.append(&mut open);
                        plan.clear();
                        plan.slot_for(partition, Month(month))
                    }
                    slot => slot,
                };
                let BlockSlot::Block(at) = slot else { panic!("expected a block after the open ones were inserted") };
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
