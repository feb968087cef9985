//! Checks of each source's sequence numbers: gaps, reused and negative numbers, and wrong totals.
//!
//! A source has one sequence over all its sessions and partitions. The work depends on the number of records, and not on the
//! numbers that they claim.

use std::collections::BTreeMap;

use crate::events::{EventKind, EventSummary, Events, Name, RecordPosition};
use crate::report::{FindingKind, Interval, Report, SourceSummary};

/// Event with its position.
#[derive(Clone, Copy)]
struct SequenceUse<'a> {
    at: RecordPosition,
    event: &'a EventSummary,
}

/// Checks each source. Retention may have deleted records before the append time `horizon`, so gaps before it are ignored; `None`
/// if retention has deleted none.
pub fn examine(events: &Events, horizon: Option<i64>, report: &mut Report) {
    let mut by_source: BTreeMap<u32, Vec<SequenceUse<'_>>> = BTreeMap::new();
    for (partition, seen) in &events.by_partition {
        for event in seen {
            if let Some(source) = event.source {
                by_source
                    .entry(source)
                    .or_default()
                    .push(SequenceUse { at: (*partition, event.offset), event });
            }
        }
    }
    for (number, name) in events.sources.in_order() {
        let Some(mut used) = by_source.remove(&number) else { continue };
        used.sort_by_key(|used| (used.event.sequence, used.at));
        report.sources += 1;
        let seen = check_source(&events.topic, name, &used, horizon, report);
        report.closed_sources += u64::from(seen.total.is_some());
        report.by_source.insert((name.tenant.clone(), name.id.clone()), seen);
    }
}

/// Checks one source, whose uses are sorted by sequence number.
fn check_source(
    topic: &str,
    name: &Name,
    used: &[SequenceUse<'_>],
    horizon: Option<i64>,
    report: &mut Report,
) -> SourceSummary {
    let place = |at: RecordPosition| format!("{topic}/{}@{}", at.0, at.1);
    let negative = used.iter().filter(|used| used.event.sequence < 0);
    for SequenceUse { at, event } in in_order(negative) {
        report.add_in(FindingKind::NegativeSequence, at.0, || {
            format!("{}, {}, sequence {}", place(at), describe(name), event.sequence)
        });
    }
    report_reused(name, used, &place, report);
    let total = check_totals(name, used, &place, report);

    let mut gaps = Gaps { next: Some(0), missing: 0, found: Vec::new() };
    for number in used.iter().map(|used| used.event.sequence).filter(|number| *number >= 0) {
        gaps.skip_to(number);
        gaps.next = number.checked_add(1);
    }
    let end = gaps.next.unwrap_or(i64::MAX);
    let within = gaps.missing;
    if let Some(total) = total {
        gaps.skip_to(total);
    }
    // A source numbers events in order, so all numbers after one that retention has kept must exist.
    let floor = match horizon {
        None => Some(0),
        Some(horizon) => used
            .iter()
            .filter(|used| used.event.logged_at >= horizon && used.event.sequence >= 0)
            .map(|used| used.event.sequence)
            .min(),
    };
    let known = |gap: &&(i64, i64)| floor.is_some_and(|floor| gap.0 >= floor);
    for (first, last) in gaps.found.iter().filter(known) {
        let missing = first.abs_diff(*last).saturating_add(1);
        report.add_interval(
            FindingKind::SequenceGap,
            missing,
            Interval { of: describe(name), first: *first, last: *last },
        );
    }
    SourceSummary { end, gaps: within, total }
}

/// Names a source. Sources of several tenants may have one id.
fn describe(name: &Name) -> String {
    format!("source {} of tenant {}", name.id, name.tenant)
}

/// Unused numbers, from 0.
struct Gaps {
    /// Number after the last one; `None` after the largest possible number.
    next: Option<i64>,
    missing: u64,
    found: Vec<(i64, i64)>,
}

impl Gaps {
    /// Adds the missing numbers below `number`.
    fn skip_to(&mut self, number: i64) {
        if let Some(next) = self.next.filter(|next| *next < number) {
            self.found.push((next, number - 1));
            self.missing = self.missing.saturating_add(next.abs_diff(number));
        }
    }
}

/// Reports numbers with several contents. The closing event of a source may have the number of another event: after a power loss the
/// spool may lack events (ADR 0007), and the total shows it.
fn report_reused(
    name: &Name,
    used: &[SequenceUse<'_>],
    place: &impl Fn(RecordPosition) -> String,
    report: &mut Report,
) {
    let mut found = Vec::new();
    for same in used.chunk_by(|a, b| a.event.sequence == b.event.sequence) {
        let events: Vec<_> = same.iter().filter(|used| used.event.kind != EventKind::Closing).collect();
        let mut contents = std::collections::BTreeSet::new();
        for used in events {
            // The same content in another session is another event.
            let is_new = contents.insert((used.event.session, used.event.content));
            if is_new && contents.len() > 1 {
                found.push(used);
            }
        }
    }
    for SequenceUse { at, event } in in_order(found.into_iter()) {
        report.add_in(FindingKind::SequenceReused, at.0, || {
            format!("{}, {}, sequence {}", place(at), describe(name), event.sequence)
        });
    }
}

/// Returns the largest total of a source, if it has closed. Reports a total that is negative, not above each sequence number, or
/// smaller than another.
fn check_totals(
    name: &Name,
    used: &[SequenceUse<'_>],
    place: &impl Fn(RecordPosition) -> String,
    report: &mut Report,
) -> Option<i64> {
    let highest = used
        .iter()
        .filter(|used| used.event.kind != EventKind::Closing)
        .map(|used| used.event.sequence)
        .max();
    let closings = used.iter().filter_map(|used| Some((used, used.event.total?)));
    let largest = closings.clone().map(|(_, total)| total).max()?;
    let wrong = closings.filter(|(_, total)| {
        *total < 0 || *total < largest || highest.is_some_and(|highest| highest >= *total)
    });
    for SequenceUse { at, event } in in_order(wrong.map(|(used, _)| used)) {
        report.add_in(FindingKind::WrongTotal, at.0, || {
            let total = event.total.unwrap_or_default();
            let highest = highest.map_or("no event".to_owned(), |highest| format!("events up to {highest}"));
            format!(
                "{}, {}: expected a total above its events, found {total} with {highest}",
                place(at),
                describe(name)
            )
        });
    }
    Some(largest)
}

/// Sorts by partition and offset, so that the first finding of each kind is the same at each run.
fn in_order<'a, 'b: 'a>(used: impl Iterator<Item = &'a SequenceUse<'b>>) -> Vec<SequenceUse<'b>> {
    let mut used: Vec<_> = used.copied().collect();
    used.sort_by_key(|used| used.at);
    used
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::events::testing::{Event, Log};

    fn report_of(log: &Log, horizon: Option<i64>) -> Report {
        let mut report = Report::default();
        examine(&log.events, horizon, &mut report);
        report
    }

    fn report(events: &[Event]) -> Report {
        let mut log = Log::new(1);
        for event in events {
            log.add(event);
        }
        report_of(&log, None)
    }

    fn intervals(report: &Report) -> Vec<(i64, i64)> {
        let finding = report.finding(FindingKind::SequenceGap);
        finding.map(|f| f.intervals.iter().map(|i| (i.first, i.last)).collect()).unwrap_or_default()
    }

    fn kinds(report: &Report) -> Vec<(FindingKind, u64)> {
        report.findings.iter().map(|finding| (finding.kind, finding.count)).collect()
    }

    const MAX: i64 = i64::MAX;

    /// Sequence numbers, number and total of a closing event if there is one, and expected gaps.
    type Case = (&'static [i64], Option<(i64, i64)>, &'static [(i64, i64)]);

    #[test]
    fn gaps_are_intervals_for_any_number() {
        let cases: &[Case] = &[
            (&[0, 1, 2], None, &[]),
            (&[0, 1, 2], Some((3, 3)), &[]),
            (&[2, 0, 1, 1], Some((3, 3)), &[]),
            (&[], Some((0, 0)), &[]),
            (&[1, 3], None, &[(0, 0), (2, 2)]),
            (&[0], Some((5, 5)), &[(1, 4)]),
            (
                &[1_700_000_000_000, 1_700_000_000_512],
                None,
                &[(0, 1_699_999_999_999), (1_700_000_000_001, 1_700_000_000_511)],
            ),
            (&[MAX], None, &[(0, MAX - 1)]),
            (&[0, MAX - 1, MAX], None, &[(1, MAX - 2)]),
            (&[0, 1], Some((2, MAX)), &[(3, MAX - 1)]),
            (&[-5, i64::MIN, 0], None, &[]),
            (&[-5], None, &[]),
        ];
        for (numbers, closing, gaps) in cases {
            let events = numbers.iter().map(|number| Event::of("a", *number));
            let closing = closing.map(|(number, total)| Event::closing("a", number, total));
            let found = report(&events.chain(closing).collect::<Vec<_>>());
            assert_eq!(intervals(&found), *gaps, "{numbers:?}");
            let missing: u64 = gaps.iter().map(|(first, last)| first.abs_diff(*last) + 1).sum();
            assert_eq!(found.count(FindingKind::SequenceGap), missing, "{numbers:?}");
        }
    }

    #[test]
    fn gap_names_its_source_in_text_and_json() {
        let found = report(&[Event::of("a", 0), Event::of("a", 8), Event::of("a", 10)]);
        let finding = found.finding(FindingKind::SequenceGap).unwrap();
        assert_eq!(finding.first, "source a of tenant acme: 1 to 7");
        let json = serde_json::to_value(finding).unwrap();
        assert_eq!(
            json["intervals"][0],
            serde_json::json!({"of": "source a of tenant acme", "first": 1, "last": 7})
        );
        assert_eq!(
            json["intervals"][1],
            serde_json::json!({"of": "source a of tenant acme", "first": 9, "last": 9})
        );
    }

    #[test]
    fn impossible_numbers_and_totals_are_findings() {
        let of = Event::of;
        let other = |event: Event| Event { call: Some(("call", "other")), ..event };
        let elsewhere = |event: Event| Event { session: "elsewhere".to_owned(), ..event };
        let closing = Event::closing;
        for (what, events, expected) in [
            ("sent again", vec![of("a", 0), of("a", 0), of("a", 0)], vec![]),
            (
                "another content",
                vec![of("a", 0), other(of("a", 0)), of("a", 0)],
                vec![(FindingKind::SequenceReused, 1)],
            ),
            (
                "another session",
                vec![of("a", 0), elsewhere(of("a", 0))],
                vec![(FindingKind::SequenceReused, 1)],
            ),
            ("another source", vec![of("a", 0), of("b", 0)], vec![]),
            ("another tenant", vec![of("a", 0), Event { tenant: "beta", ..other(of("a", 0)) }], vec![]),
            (
                "negative",
                vec![of("a", 0), of("a", -1), of("a", -7)],
                vec![(FindingKind::NegativeSequence, 2)],
            ),
            ("a total of -1 and no event", vec![closing("a", 0, -1)], vec![(FindingKind::WrongTotal, 1)]),
            ("total of -1", vec![of("a", 0), closing("a", 1, -1)], vec![(FindingKind::WrongTotal, 1)]),
            (
                "total below what came",
                vec![of("a", 0), of("a", 1), closing("a", 2, 1)],
                vec![(FindingKind::WrongTotal, 1)],
            ),
            (
                "the end has an event's number",
                vec![of("a", 0), of("a", 1), closing("a", 1, 1)],
                vec![(FindingKind::WrongTotal, 1)],
            ),
            ("closed twice with one total", vec![of("a", 0), closing("a", 1, 1), closing("a", 1, 1)], vec![]),
            (
                "closed with two totals",
                vec![of("a", 0), closing("a", 1, 1), closing("a", 2, 2)],
                vec![(FindingKind::WrongTotal, 1)],
            ),
        ] {
            assert_eq!(kinds(&report(&events)), expected, "{what}");
        }
    }

    #[test]
    fn source_summary_follows_from_its_records() {
        let found =
            report(&[Event::of("a", 0), Event::of("a", 3), Event::closing("a", 5, 5), Event::of("b", MAX)]);
        let seen = |source: &str| found.by_source[&("acme".to_owned(), source.to_owned())];
        assert_eq!(seen("a"), SourceSummary { end: 6, gaps: 3, total: Some(5) });
        assert_eq!(seen("b"), SourceSummary { end: MAX, gaps: MAX as u64, total: None });
        assert_eq!((found.sources, found.closed_sources), (2, 1));
    }

    #[test]
    fn numbers_that_retention_may_have_deleted_are_no_gap() {
        let mut log = Log::new(1);
        for (logged_at, number) in [(10, 5), (20, 8), (30, 10), (40, 13)] {
            log.logged_at = logged_at;
            log.add(&Event::of("a", number));
        }
        for (horizon, gaps) in [
            (None, &[(0, 4), (6, 7), (9, 9), (11, 12)][..]),
            (Some(10), &[(6, 7), (9, 9), (11, 12)]),
            (Some(25), &[(11, 12)]),
            (Some(MAX), &[]),
        ] {
            assert_eq!(intervals(&report_of(&log, horizon)), gaps, "{horizon:?}");
        }
    }

    proptest! {
        /// The gaps equal those found by counting one by one, and do not depend on the order of the records.
        #[test]
        fn gaps_are_the_missing_numbers(numbers in prop::collection::vec(0_i64..60, 0..40), total in prop::option::of(0_i64..70)) {
            let closing = total.map(|total| Event::closing("a", total, total));
            let mut events: Vec<_> = numbers.iter().map(|number| Event::of("a", *number)).chain(closing).collect();
            let found = report(&events);
            let there: std::collections::BTreeSet<i64> = numbers.iter().copied().chain(total).collect();
            let end = there.last().map_or(0, |last| last + 1);
            let missing: Vec<i64> = (0..end).filter(|number| !there.contains(number)).collect();
            let listed: Vec<i64> = intervals(&found).into_iter().flat_map(|(first, last)| first..=last).collect();
            prop_assert_eq!(&listed, &missing);
            prop_assert_eq!(found.count(FindingKind::SequenceGap), missing.len() as u64);
            events.reverse();
            prop_assert_eq!(intervals(&report(&events)), intervals(&found));
        }

        /// The work depends on the number of records; otherwise this test would not end.
        #[test]
        fn any_claimed_number_can_be_examined(numbers in prop::collection::vec(any::<i64>(), 0..20), totals in prop::collection::vec(any::<i64>(), 0..3)) {
            let closings = totals.iter().map(|total| Event::closing("a", *total, *total));
            let events: Vec<_> = numbers.iter().map(|number| Event::of("a", *number)).chain(closings).collect();
            let found = report(&events);
            prop_assert!(intervals(&found).len() <= events.len() + 1);
        }
    }
}
