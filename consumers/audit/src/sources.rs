//! What each source numbered: gaps, numbers used twice, negative ones, and totals that do not fit.
//!
//! A source has one sequence over all its sessions and partitions. What is looked at are the records that there are: a
//! number that one of them claims costs nothing, however large it is.

use std::collections::BTreeMap;

use crate::events::{Act, At, Events, Name, Seen};
use crate::report::{FindingKind, Interval, Report, SourceSummary};

/// A number that a source used.
#[derive(Clone, Copy)]
struct Used<'a> {
    at: At,
    event: &'a Seen,
}

/// Looks at each source. `horizon`: retention has deleted records of before this append time, so that of the numbers of
/// before it nothing can be said; `None`: it has deleted none.
pub fn examine(events: &Events, horizon: Option<i64>, report: &mut Report) {
    let mut by_source: BTreeMap<u32, Vec<Used<'_>>> = BTreeMap::new();
    for (partition, seen) in &events.seen {
        for event in seen {
            if let Some(source) = event.source {
                by_source.entry(source).or_default().push(Used { at: (*partition, event.offset), event });
            }
        }
    }
    for (number, name) in events.sources.in_order() {
        let Some(mut used) = by_source.remove(&number) else { continue };
        used.sort_by_key(|used| (used.event.sequence, used.at));
        report.sources += 1;
        let seen = source(&events.topic, name, &used, horizon, report);
        report.closed_sources += u64::from(seen.total.is_some());
        report.by_source.insert((name.tenant.clone(), name.id.clone()), seen);
    }
}

/// Looks at one source, whose numbers are in order.
fn source(
    topic: &str,
    name: &Name,
    used: &[Used<'_>],
    horizon: Option<i64>,
    report: &mut Report,
) -> SourceSummary {
    let place = |at: At| format!("{topic}/{}@{}", at.0, at.1);
    let negative = used.iter().filter(|used| used.event.sequence < 0);
    for Used { at, event } in in_order(negative) {
        report.add_in(FindingKind::NegativeSequence, at.0, 1, || {
            format!("{}, source {}, sequence {}", place(at), name.id, event.sequence)
        });
    }
    reused(name, used, &place, report);
    let total = totals(name, used, &place, report);

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
    // What a source sends it numbers in order, so all numbers above one that retention has left are still to be there.
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
            Interval { of: format!("source {}", name.id), first: *first, last: *last },
        );
    }
    SourceSummary { end, gaps: within, total }
}

/// Numbers from 0 on that were not used.
struct Gaps {
    /// The number after the last one; `None` after the largest.
    next: Option<i64>,
    missing: u64,
    found: Vec<(i64, i64)>,
}

impl Gaps {
    /// Notes what is missing below a number.
    fn skip_to(&mut self, number: i64) {
        if let Some(next) = self.next.filter(|next| *next < number) {
            self.found.push((next, number - 1));
            self.missing = self.missing.saturating_add(next.abs_diff(number));
        }
    }
}

/// Numbers under which the source sent several contents. The end of a source may have the number of an event: after a power
/// loss its spool is too short (ADR 0007), and its total says so.
fn reused(name: &Name, used: &[Used<'_>], place: &impl Fn(At) -> String, report: &mut Report) {
    let mut found = Vec::new();
    for same in used.chunk_by(|a, b| a.event.sequence == b.event.sequence) {
        let events: Vec<_> = same.iter().filter(|used| used.event.act != Act::Closing).collect();
        let mut contents = std::collections::BTreeSet::new();
        for used in events {
            // The same bytes in another session are another event.
            let is_new = contents.insert((used.event.session, used.event.content));
            if is_new && contents.len() > 1 {
                found.push(used);
            }
        }
    }
    for Used { at, event } in in_order(found.into_iter()) {
        report.add_in(FindingKind::SequenceReused, at.0, 1, || {
            format!("{}, source {}, sequence {}", place(at), name.id, event.sequence)
        });
    }
}

/// The largest total that the source closed with, if it has closed. One that is negative, that is not above each of its events, or that differs
/// from another is a finding.
fn totals(name: &Name, used: &[Used<'_>], place: &impl Fn(At) -> String, report: &mut Report) -> Option<i64> {
    let highest =
        used.iter().filter(|used| used.event.act != Act::Closing).map(|used| used.event.sequence).max();
    let closings = used.iter().filter_map(|used| Some((used, used.event.total?)));
    let largest = closings.clone().map(|(_, total)| total).max()?;
    let wrong = closings.filter(|(_, total)| {
        *total < 0 || *total < largest || highest.is_some_and(|highest| highest >= *total)
    });
    for Used { at, event } in in_order(wrong.map(|(used, _)| used)) {
        report.add_in(FindingKind::WrongTotal, at.0, 1, || {
            let total = event.total.unwrap_or_default();
            let highest = highest.map_or("no event".to_owned(), |highest| format!("events up to {highest}"));
            format!("{}, source {}: a total of {total}, found {highest}", place(at), name.id)
        });
    }
    Some(largest)
}

/// By partition and offset, so that the first of each kind is the same at each run.
fn in_order<'a, 'b: 'a>(used: impl Iterator<Item = &'a Used<'b>>) -> Vec<Used<'b>> {
    let mut used: Vec<_> = used.copied().collect();
    used.sort_by_key(|used| used.at);
    used
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::events::testing::{Event, Log};

    fn look(log: &Log, horizon: Option<i64>) -> Report {
        let mut report = Report::default();
        examine(&log.events, horizon, &mut report);
        report
    }

    fn report(events: &[Event]) -> Report {
        let mut log = Log::new(1);
        for event in events {
            log.add(event);
        }
        look(&log, None)
    }

    fn intervals(report: &Report) -> Vec<(i64, i64)> {
        let finding = report.finding(FindingKind::SequenceGap);
        finding.map(|f| f.intervals.iter().map(|i| (i.first, i.last)).collect()).unwrap_or_default()
    }

    fn kinds(report: &Report) -> Vec<(FindingKind, u64)> {
        report.findings.iter().map(|finding| (finding.kind, finding.count)).collect()
    }

    const MAX: i64 = i64::MAX;

    /// Numbers, the number and the total of a closing event if there is one, and the gaps that are to be found.
    type Case = (&'static [i64], Option<(i64, i64)>, &'static [(i64, i64)]);

    #[test]
    fn gaps_are_intervals_whatever_a_number_claims() {
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
    fn a_gap_is_told_with_its_source_in_text_and_json() {
        let found = report(&[Event::of("a", 0), Event::of("a", 8), Event::of("a", 10)]);
        let finding = found.finding(FindingKind::SequenceGap).unwrap();
        assert_eq!(finding.first, "source a: 1 to 7");
        let json = serde_json::to_value(finding).unwrap();
        assert_eq!(json["intervals"][0], serde_json::json!({"of": "source a", "first": 1, "last": 7}));
        assert_eq!(json["intervals"][1], serde_json::json!({"of": "source a", "first": 9, "last": 9}));
    }

    #[test]
    fn numbers_that_a_source_cannot_mean_are_findings_of_their_own() {
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
    fn what_is_known_of_a_source_follows_from_its_records() {
        let found =
            report(&[Event::of("a", 0), Event::of("a", 3), Event::closing("a", 5, 5), Event::of("b", MAX)]);
        let seen = |source: &str| found.by_source[&("acme".to_owned(), source.to_owned())];
        assert_eq!(seen("a"), SourceSummary { end: 6, gaps: 3, total: Some(5) });
        assert_eq!(seen("b"), SourceSummary { end: MAX, gaps: MAX as u64, total: None });
        assert_eq!((found.sources, found.closed_sources), (2, 1));
    }

    #[test]
    fn what_retention_may_have_deleted_is_no_gap() {
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
            assert_eq!(intervals(&look(&log, horizon)), gaps, "{horizon:?}");
        }
    }

    proptest! {
        /// The gaps of small numbers are what counting one by one finds, and the order of the records changes nothing.
        #[test]
        fn gaps_are_what_is_not_there(numbers in prop::collection::vec(0_i64..60, 0..40), total in prop::option::of(0_i64..70)) {
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

        /// Whatever is claimed, the work follows the records: this would not end if it did not.
        #[test]
        fn any_claim_is_examined(numbers in prop::collection::vec(any::<i64>(), 0..20), totals in prop::collection::vec(any::<i64>(), 0..3)) {
            let closings = totals.iter().map(|total| Event::closing("a", *total, *total));
            let events: Vec<_> = numbers.iter().map(|number| Event::of("a", *number)).chain(closings).collect();
            let found = report(&events);
            prop_assert!(intervals(&found).len() <= events.len() + 1);
        }
    }
}
