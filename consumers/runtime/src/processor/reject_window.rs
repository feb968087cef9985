//! Reaction to a flood of rejects. A flood from most tenants means that the stage, or its input as a whole, is faulty:
//! the stage pauses rather than reject records that a fixed stage could process. A flood from few tenants is their own:
//! the stage continues and emits an alert that names the tenant with the most rejects.
//!
//! Tenants are taken from record keys, the only source that a rejected record has. Any client can invent keys. A tenant
//! therefore counts once a record of it was accepted, and memory is bounded for any keys.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use agentgov_schemas::Millis;
use agentgov_schemas::escape::EscapedBytes;
use agentgov_schemas::reject::RejectReason;
use agentgov_schemas::topology::RejectShare;

/// Limit of known tenants; further tenants are ignored.
const MAX_TENANTS: usize = 10_000;
/// Limit of a tenant's bytes in a key: the longest tenant id.
const MAX_TENANT_BYTES: usize = 128;
/// Limit of a key's bytes in a message.
const MAX_KEY_BYTES: usize = 256;

/// Counts rejects over a window of records.
#[derive(Debug)]
pub(super) struct RejectWindow {
    limit: Option<RejectShare>,
    /// Time for which further windows above the share revise one alert, by `logged_at`.
    alert_window: Duration,
    /// Known tenants: those with an accepted record. The value is true if the tenant's share was above the limit in its
    /// last window.
    known: HashMap<Box<[u8]>, bool>,
    /// Counts up to the last committed batch.
    committed: Counts,
    /// Counts including the current batch.
    counts: Counts,
}

#[derive(Clone, Debug, Default)]
struct Counts {
    records: u32,
    rejects: u32,
    tenants: HashMap<Box<[u8]>, TenantCounts>,
    /// Last alert of a flood.
    alert: Option<FloodAlert>,
}

/// Alert of a flood, which further windows revise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FloodAlert {
    pub(super) revision: i32,
    /// Partition, offset and `logged_at` of the record that opened the alert.
    pub(super) first: (i32, i64, Millis),
}

#[derive(Clone, Debug, Default)]
struct TenantCounts {
    records: u32,
    rejects: u32,
    is_known: bool,
    reasons: BTreeMap<RejectReason, u32>,
    /// First rejected record of the tenant in this window.
    first: Option<RecordRef>,
}

/// Reference to a rejected record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RecordRef {
    pub(super) key: Vec<u8>,
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) logged_at: Millis,
}

/// Consequence of a window above the share.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Flood {
    /// The stage pauses after it has emitted an alert about it. The alert names the first rejected record of the tenant
    /// with the most rejects.
    PauseStage { alert: FloodAlert, at: RecordRef, message: String },
    /// The stage continues and emits an alert, or its next revision.
    Alert { alert: FloodAlert, at: RecordRef, message: String },
}

impl RejectWindow {
    pub(super) fn new(limit: Option<RejectShare>, alert_window: Duration) -> Self {
        let (committed, counts) = (Counts::default(), Counts::default());
        Self { limit, alert_window, known: HashMap::new(), committed, counts }
    }

    /// Adds a tenant that has an accepted record.
    pub(super) fn add_known_tenant(&mut self, tenant: &[u8]) {
        if self.known.len() < MAX_TENANTS && !self.known.contains_key(tenant) {
            self.known.insert(tenant.into(), false);
        }
    }

    /// Starts a batch. Discards the counts of a batch that was not committed.
    pub(super) fn begin(&mut self) {
        self.counts.clone_from(&self.committed);
    }

    /// Keeps the counts of the committed batch.
    pub(super) fn commit(&mut self) {
        self.committed.clone_from(&self.counts);
    }

    /// Resets the counts after a rebalance, as they may include partitions of another process now. An earlier alert is
    /// still revised.
    pub(super) fn reset(&mut self) {
        self.committed = Counts { alert: self.committed.alert, ..Counts::default() };
        self.begin();
    }

    /// Counts one record, rejected for a reason or accepted. At the end of each window, returns the consequence if the
    /// rejects were above the share.
    pub(super) fn count(
        &mut self,
        key: Option<&[u8]>,
        rejected: Option<RejectReason>,
        (partition, offset, logged_at): (i32, i64, Millis),
    ) -> Option<Flood> {
        let limit = self.limit?;
        // A record without a key belongs to the tenant with the empty name.
        let key = key.unwrap_or_default();
        let id = tenant_of(key);
        // Copies a key once per window only.
        let tenant = match self.counts.tenants.get_mut(id) {
            Some(tenant) => tenant,
            None => {
                let is_known = self.known.contains_key(id);
                self.counts
                    .tenants
                    .entry(id.into())
                    .or_insert(TenantCounts { is_known, ..TenantCounts::default() })
            }
        };
        self.counts.records += 1;
        tenant.records += 1;
        match rejected {
            Some(reason) => {
                self.counts.rejects += 1;
                tenant.rejects += 1;
                *tenant.reasons.entry(reason).or_default() += 1;
                tenant.first.get_or_insert_with(|| {
                    let key = key.get(..MAX_KEY_BYTES).unwrap_or(key).to_vec();
                    RecordRef { key, partition, offset, logged_at }
                });
            }
            None if !tenant.is_known => {
                tenant.is_known = true;
                self.add_known_tenant(id);
            }
            None => {}
        }
        if self.counts.records < limit.window {
            return None;
        }
        self.close_window(limit)
    }

    fn close_window(&mut self, limit: RejectShare) -> Option<Flood> {
        let next = Counts { alert: self.counts.alert, ..Counts::default() };
        let counts = std::mem::replace(&mut self.counts, next);
        let is_above = |rejects: u32, records: u32| f64::from(rejects) > limit.above * f64::from(records);
        for (id, tenant) in &counts.tenants {
            if let Some(above) = self.known.get_mut(id) {
                *above = is_above(tenant.rejects, tenant.records);
            }
        }
        if !is_above(counts.rejects, counts.records) {
            return None;
        }
        let above = self.known.values().filter(|above| **above).count();
        let summary = format!(
            "{} of the last {} records were rejected, more than the share of {} allowed by topology.yaml, and {above} of the {} \
             tenants with accepted records in the partitions of this process are above it",
            counts.rejects,
            counts.records,
            limit.above,
            self.known.len()
        );
        let hint = if self.known.is_empty() {
            " (no record was ever accepted: check that this is the schema registry that the producers use)"
        } else {
            ""
        };
        // The id breaks ties, so that the same records name the same tenant.
        let most = counts.tenants.into_iter().max_by(|(a, x), (b, y)| (x.rejects, b).cmp(&(y.rejects, a)));
        let (id, TenantCounts { rejects, reasons, first, .. }) = most?;
        let at = first?;
        let mut reasons: Vec<_> = reasons.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        reasons.sort();
        let message = format!(
            "{summary}{hint}: {rejects} of tenant `{}` (key `{}`, partition {}, from offset {}): {}",
            EscapedBytes(&id),
            EscapedBytes(&at.key),
            at.partition,
            at.offset,
            reasons.join(", ")
        );
        let first = (at.partition, at.offset, at.logged_at);
        if 2 * above > self.known.len() {
            // Each stop is an alert of its own: an operator handles each.
            return Some(Flood::PauseStage { alert: FloodAlert { revision: 0, first }, at, message });
        }
        let alert = self.next_alert(first);
        Some(Flood::Alert { alert, at, message: format!("{message}; the stage continues") })
    }

    /// Returns the next revision of the last alert, or a new alert if the last one was opened too long before `at`.
    fn next_alert(&mut self, at: (i32, i64, Millis)) -> FloodAlert {
        let length = i64::try_from(self.alert_window.as_millis()).unwrap_or(i64::MAX);
        let open = self.counts.alert.filter(|open| at.2.0.saturating_sub(open.first.2.0) <= length);
        let alert = open.map_or(FloodAlert { revision: 0, first: at }, |open| FloodAlert {
            revision: open.revision.saturating_add(1),
            ..open
        });
        *self.counts.alert.insert(alert)
    }
}

/// Returns the tenant of a key: the bytes before its first slash.
fn tenant_of(key: &[u8]) -> &[u8] {
    let tenant = key.split(|byte| *byte == b'/').next().unwrap_or_default();
    tenant.get(..MAX_TENANT_BYTES).unwrap_or(tenant)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_hours(1);
    const LIMIT: RejectShare = RejectShare { above: 0.1, window: 10 };

    /// Counts a window of ten records: for each key, this many rejected and accepted ones.
    fn window(window: &mut RejectWindow, records: &[(&str, u32, u32)]) -> Option<Flood> {
        let mut floods = Vec::new();
        let mut offset = 0;
        for (key, rejected, accepted) in records {
            for number in 0..rejected + accepted {
                let reason = (number < *rejected).then_some(RejectReason::WrongMagicByte);
                floods.push(window.count(Some(key.as_bytes()), reason, (3, offset, Millis(7))));
                offset += 1;
            }
        }
        assert_eq!(floods.len(), 10);
        assert!(floods[..9].iter().all(Option::is_none), "only a full window counts");
        floods.pop().unwrap()
    }

    fn pauses(flood: Option<Flood>) -> bool {
        matches!(flood, Some(Flood::PauseStage { .. }))
    }

    #[test]
    fn stage_pauses_above_the_share_of_a_full_window() {
        let mut all = RejectWindow::new(Some(LIMIT), HOUR);
        assert_eq!(window(&mut all, &[("a/1", 1, 9)]), None, "one of ten is not above a tenth");
        let Some(Flood::PauseStage { alert, at, message }) = window(&mut all, &[("a/1", 2, 8)]) else {
            panic!("expected a pause")
        };
        assert_eq!(
            (alert.revision, alert.first, at.key.as_slice()),
            (0, (3, 0, Millis(7)), b"a/1".as_slice())
        );
        assert!(
            message.ends_with(
                "1 of the 1 tenants with accepted records in the partitions of this process are above it: 2 of tenant `a` (key \
                 `a/1`, partition 3, from offset 0): wrong_magic_byte 2"
            ),
            "{message}"
        );
        let mut none = RejectWindow::new(None, HOUR);
        assert_eq!(window(&mut none, &[("a/1", 10, 0)]), None, "without a limit the stage does not pause");
    }

    #[test]
    fn flood_of_one_tenant_is_an_alert_that_names_it() {
        let mut all = RejectWindow::new(Some(LIMIT), HOUR);
        assert_eq!(window(&mut all, &[("a/1", 0, 5), ("b/1", 0, 5)]), None);
        let Some(Flood::Alert { at, message, .. }) =
            window(&mut all, &[("b/1", 0, 2), ("a/x\n", 7, 0), ("b/1", 0, 1)])
        else {
            panic!("expected an alert")
        };
        assert_eq!(at, RecordRef { key: b"a/x\n".to_vec(), partition: 3, offset: 2, logged_at: Millis(7) });
        for part in [
            "7 of the last 10",
            "1 of the 2 tenants",
            "7 of tenant `a`",
            r"key `a/x\u{a}`, partition 3, from offset 2",
            "wrong_magic_byte 7",
        ] {
            assert!(message.contains(part), "{part}: {message}");
        }
        // The other tenant sends fewer records. It is not above the share while none of them is rejected.
        for _ in 0..20 {
            assert!(!pauses(window(&mut all, &[("a/1", 10, 0)])));
        }
        assert!(
            pauses(window(&mut all, &[("b/1", 10, 0)])),
            "both are above the share, each in its last window"
        );
        assert!(!pauses(window(&mut all, &[("b/1", 0, 1), ("a/1", 9, 0)])), "b is below the share again");
    }

    #[test]
    fn unknown_tenants_do_not_pause_the_stage() {
        let mut all = RejectWindow::new(Some(LIMIT), HOUR);
        assert!(
            !pauses(window(&mut all, &[("made-up-1/1", 5, 0), ("made-up-2/1", 5, 0)])),
            "no tenant is known"
        );
        all.add_known_tenant(b"a");
        assert!(!pauses(window(&mut all, &[("made-up-3", 5, 0), ("", 5, 0)])));
        assert!(
            pauses(window(&mut all, &[("a/1", 5, 0), ("", 5, 0)])),
            "every known tenant is above the share"
        );
    }

    /// Any client can invent keys. Until a tenant is known, a flood leads to alerts, which name the likely cause in a
    /// new deployment.
    #[test]
    fn flood_before_any_accepted_record_is_an_alert_with_a_hint() {
        let mut all = RejectWindow::new(Some(LIMIT), HOUR);
        let Some(Flood::Alert { message, .. }) = window(&mut all, &[("a/1", 9, 0), ("b/1", 1, 0)]) else {
            panic!("expected an alert")
        };
        assert!(
            message.contains("check that this is the schema registry that the producers use"),
            "{message}"
        );
        all.add_known_tenant(b"a");
        all.add_known_tenant(b"b");
        let Some(Flood::Alert { message, .. }) = window(&mut all, &[("a/1", 9, 0), ("b/1", 0, 1)]) else {
            panic!("expected an alert")
        };
        assert!(!message.contains("schema registry"), "{message}");
    }

    #[test]
    fn flood_within_the_alert_window_revises_one_alert() {
        let mut all = RejectWindow::new(Some(LIMIT), HOUR);
        all.add_known_tenant(b"a");
        all.add_known_tenant(b"b");
        let hour = HOUR.as_millis() as i64;
        let next = |all: &mut RejectWindow, logged_at: i64, is_committed: bool| {
            all.begin();
            let at = (logged_at as i32, 7, Millis(logged_at));
            let flood = (0..10).find_map(|_| all.count(Some(b"a/1"), Some(RejectReason::EmptyValue), at));
            if is_committed {
                all.commit();
            }
            let Some(Flood::Alert { alert: FloodAlert { revision, first }, .. }) = flood else {
                panic!("expected an alert")
            };
            (revision, first.2.0)
        };
        assert_eq!(next(&mut all, 0, true), (0, 0));
        assert_eq!(next(&mut all, 1, false), (1, 0), "aborted and processed again");
        assert_eq!(next(&mut all, 1, true), (1, 0));
        all.reset();
        assert_eq!(next(&mut all, hour, true), (2, 0), "the alert is still open at the exact end");
        assert_eq!(next(&mut all, hour + 1, true), (0, hour + 1));
        assert_eq!(next(&mut all, hour, true), (1, hour + 1), "a clock that moves back opens no new alert");
    }

    #[test]
    fn uncommitted_batch_is_not_counted() {
        let mut all = RejectWindow::new(Some(LIMIT), HOUR);
        all.add_known_tenant(b"a");
        let bad = |all: &mut RejectWindow, times| {
            (0..times)
                .filter_map(|_| all.count(Some(b"a/1"), Some(RejectReason::EmptyValue), (0, 0, Millis(0))))
                .count()
        };
        for _ in 0..5 {
            all.begin();
            assert_eq!(bad(&mut all, 4), 0, "aborted and processed again");
        }
        all.commit();
        all.begin();
        assert_eq!(bad(&mut all, 6), 1);
        all.commit();
        all.begin();
        bad(&mut all, 9);
        all.commit();
        all.reset();
        assert_eq!(bad(&mut all, 9), 0, "the counts are reset after a rebalance");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Memory is bounded for any keys, and only known tenants pause the stage.
        #[test]
        fn memory_is_bounded_and_only_known_tenants_count(
            records in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..200), any::<bool>()), 1..100),
        ) {
            let mut all = RejectWindow::new(Some(LIMIT), HOUR);
            let mut accepted = std::collections::HashSet::new();
            for (key, rejected) in &records {
                let flood = all.count(Some(key), rejected.then_some(RejectReason::EmptyValue), (0, 0, Millis(0)));
                if !rejected {
                    accepted.insert(tenant_of(key).to_vec());
                }
                let known_above = all.known.values().filter(|above| **above).count();
                prop_assert!(!pauses(flood) || 2 * known_above > accepted.len());
                prop_assert!(all.counts.tenants.len() <= LIMIT.window as usize);
                prop_assert!(all.known.keys().all(|known| known.len() <= MAX_TENANT_BYTES));
            }
            prop_assert_eq!(all.known.len(), accepted.len());
        }
    }

    #[test]
    fn tenants_beyond_the_limit_are_ignored() {
        let mut all = RejectWindow::new(Some(LIMIT), HOUR);
        for tenant in 0..MAX_TENANTS + 100 {
            all.add_known_tenant(tenant.to_string().as_bytes());
        }
        assert_eq!(all.known.len(), MAX_TENANTS);
    }
}
