//! A flood of rejects means that something is wrong with the stage or its input as a whole: better to stand still, and
//! say so, than to reject what a repaired stage could process.

use agentgov_schemas::topology::RejectShare;

/// Counts rejects over a window of records.
#[derive(Debug)]
pub(super) struct RejectWindow {
    limit: Option<RejectShare>,
    records: u32,
    rejects: u32,
}

impl RejectWindow {
    pub(super) const fn new(limit: Option<RejectShare>) -> Self {
        Self { limit, records: 0, rejects: 0 }
    }

    /// Counts one record. At the end of each window, says whether its rejects were above the share.
    pub(super) fn count(&mut self, rejected: bool) -> Option<String> {
        let limit = self.limit?;
        self.records += 1;
        self.rejects += u32::from(rejected);
        if self.records < limit.window {
            return None;
        }
        let tripped = f64::from(self.rejects) > limit.above * f64::from(self.records);
        let found = format!(
            "{} of the last {} records were rejected, more than the share of {} allowed by topology.yaml; nothing is consumed \
             until `agentgov rejects resume` tells the stage that the cause is mended",
            self.rejects, self.records, limit.above
        );
        (self.records, self.rejects) = (0, 0);
        tripped.then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trips_above_the_share_of_a_full_window() {
        let mut window = RejectWindow::new(Some(RejectShare { above: 0.1, window: 10 }));
        assert!((0..10).all(|i| window.count(i == 0).is_none()), "one of ten is not above a tenth");
        let tripped: Vec<_> = (0..10).map(|i| window.count(i < 2)).collect();
        assert!(tripped[..9].iter().all(Option::is_none) && tripped[9].is_some());
        assert!((0..10).all(|_| RejectWindow::new(None).count(true).is_none()), "no limit, no trip");
    }
}
