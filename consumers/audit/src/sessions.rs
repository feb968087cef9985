//! Comparison of each session's events, counted by the rule of ADR 0015, with the evaluator's counters.
//!
//! The evaluator has separate state for each partition, so a session counts separately in each partition.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::events::{EventKind, EventSummary, Events, Name, RecordPosition, ShortDigest};
use crate::headers::{HeaderState, Headers, SessionCounters};
use crate::kafka::Partitions;
use crate::report::{FindingKind, Report};

/// Maximum number of pairs of sequence number and content that the evaluator keeps for a session.
const MAX_NUMBERS: usize = 65_536;
/// Maximum number of sources for which it keeps them.
const MAX_SOURCES: usize = 64;

/// Classification of an event by the earlier sequence numbers of its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SequenceOutcome {
    /// The source has sent the same event before, so it is not counted.
    Repeated,
    /// The sequence number is new, and lower than an earlier one of its source.
    OutOfOrder,
    /// The event is counted.
    New,
}

/// Sequence numbers of a session.
#[derive(Default)]
struct SequenceNumbers {
    kept: HashMap<(u32, i64), Vec<ShortDigest>>,
    pairs: usize,
    sources: BTreeMap<u32, i64>,
    /// The first 64 sources, whose numbers are kept.
    kept_sources: BTreeSet<u32>,
}

impl SequenceNumbers {
    fn classify(&mut self, event: &EventSummary) -> SequenceOutcome {
        let source = event.source.unwrap_or(u32::MAX);
        let number = (source, event.sequence);
        let known = self.kept.get(&number);
        if known.is_some_and(|contents| contents.contains(&event.content)) {
            return SequenceOutcome::Repeated;
        }
        let is_new_number = known.is_none();
        let highest = self.sources.entry(source).or_insert(event.sequence);
        let is_below = event.sequence < *highest;
        *highest = event.sequence.max(*highest);
        if self.kept_sources.len() < MAX_SOURCES {
            self.kept_sources.insert(source);
        }
        if self.pairs < MAX_NUMBERS && self.kept_sources.contains(&source) {
            self.kept.entry(number).or_default().push(event.content);
            self.pairs += 1;
        }
        if is_new_number && is_below { SequenceOutcome::OutOfOrder } else { SequenceOutcome::New }
    }
}

/// Inputs of the check other than the events.
pub struct Context<'a> {
    /// Bounds of the topic of actions.
    pub partitions: &'a Partitions,
    /// Records that the evaluator rejected, which leave no state.
    pub rejected: &'a BTreeSet<RecordPosition>,
    /// Actions with a duplicate verdict.
    pub duplicates: &'a BTreeSet<RecordPosition>,
    /// The evaluator's counters of each session.
    pub headers: &'a Headers,
    /// Time without an event after which a session expires, in milliseconds.
    pub ttl: i64,
}

/// Checks each session.
pub fn examine(events: &Events, context: &Context<'_>, report: &mut Report) {
    for (partition, seen) in &events.by_partition {
        let mut by_session: BTreeMap<u32, Vec<&EventSummary>> = BTreeMap::new();
        for event in seen {
            if let Some(session) =
                event.session.filter(|_| !context.rejected.contains(&(*partition, event.offset)))
            {
                by_session.entry(session).or_default().push(event);
            }
        }
        let mut found = Vec::new();
        for (session, events_of) in by_session {
            if let Some(name) = events.sessions.get(session) {
                let mut kinds = Vec::new();
                examine_one(*partition, name, &events_of, context, report, &mut kinds);
                found.extend(kinds.into_iter().map(|(offset, kind)| (offset, kind, name)));
            }
        }
        // Sorted by offset, so that the first finding of a kind is the first in the partition, not in the first session.
        found.sort_unstable_by_key(|(offset, kind, _)| (*offset, *kind));
        for (offset, kind, name) in found {
            report.add_in(kind, *partition, || {
                let place =
                    format!("{}/{partition}@{offset}, tenant {}, session {}", events.topic, name.tenant, name.id);
                match kind {
                    FindingKind::Unjudged => {
                        format!("{place}: a duplicate verdict, although no earlier record has its number and content")
                    }
                    _ => place,
                }
            });
        }
    }
}

fn examine_one(
    partition: i32,
    name: &Name,
    events: &[&EventSummary],
    context: &Context<'_>,
    report: &mut Report,
    found: &mut Vec<(i64, FindingKind)>,
) {
    // If retention has deleted the first records, earlier events are unknown.
    let is_whole = context.partitions.get(&partition).is_some_and(|bounds| bounds.low == 0);
    let mut numbers = SequenceNumbers::default();
    let mut counted: Vec<&EventSummary> = Vec::new();
    for event in events {
        match numbers.classify(event) {
            SequenceOutcome::Repeated => continue,
            SequenceOutcome::OutOfOrder => found.push((event.offset, FindingKind::Reordered)),
            SequenceOutcome::New => {}
        }
        if is_whole && context.duplicates.contains(&(partition, event.offset)) {
            found.push((event.offset, FindingKind::Unjudged));
        }
        counted.push(event);
    }
    let Some(HeaderState::Counted(header)) = context.headers.get(&(partition, name.digest)) else { return };
    // Counters beyond the records read cannot be compared, and neither can those of an expired session.
    let end = context.partitions.get(&partition).map_or(0, |bounds| bounds.end);
    let is_expired = counted.windows(2).any(|pair| match pair {
        [a, b] => b.logged_at.saturating_sub(a.logged_at) > context.ttl,
        _ => false,
    });
    if !is_whole || is_expired || header.applied_through >= end || header.is_of_both_rules {
        return;
    }
    if header.is_of_old_rule {
        counted = by_old_rule(events);
    }
    report.sessions += 1;
    let expected = count(&counted, header.applied_through);
    if !expected.equals(header) {
        report.add_in(FindingKind::Miscounted, partition, || {
            format!(
                "tenant {}, session {}, partition {partition}: expected {expected}, found {header}",
                name.tenant, name.id
            )
        });
    }
}

/// Returns the events that are counted by a version of the evaluator that keeps only the highest number of each source.
fn by_old_rule<'a>(events: &[&'a EventSummary]) -> Vec<&'a EventSummary> {
    let mut highest: BTreeMap<Option<u32>, i64> = BTreeMap::new();
    let mut is_new = |event: &EventSummary| {
        let is_new = highest.get(&event.source).is_none_or(|highest| event.sequence > *highest);
        if is_new {
            highest.insert(event.source, event.sequence);
        }
        is_new
    };
    events.iter().copied().filter(|event| is_new(event)).collect()
}

/// Counts the events up to and including an offset.
fn count(events: &[&EventSummary], through: i64) -> SessionCounters {
    let until = || events.iter().filter(|event| event.offset <= through);
    let of = |kind: EventKind| until().filter(|event| event.kind == kind).count();
    let whole = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    SessionCounters {
        applied_through: through,
        events: whole(until().count()),
        tool_calls: (of(EventKind::Retry) == 0).then(|| whole(of(EventKind::Call))),
        ..SessionCounters::default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use agentgov_enrichment::Session;
    use agentgov_schemas::topology::{HumanDuration, SessionLimits};
    use agentgov_schemas::verdict::{Origin, RecordFinding};
    use agentgov_schemas::{Millis, catalogue};
    use proptest::prelude::*;

    use super::*;
    use crate::events::name_digest;
    use crate::events::testing::{Event, Log};

    const TTL: i64 = 1_000;

    /// Log with the stages' state for it.
    struct Case {
        log: Log,
        headers: Headers,
        rejected: BTreeSet<RecordPosition>,
        duplicates: BTreeSet<RecordPosition>,
        low: i64,
    }

    impl Case {
        fn new(log: Log) -> Self {
            Self {
                log,
                headers: Headers::new(),
                rejected: BTreeSet::new(),
                duplicates: BTreeSet::new(),
                low: 0,
            }
        }

        fn of(events: &[Event]) -> Self {
            let mut log = Log::new(1);
            for event in events {
                log.add(event);
            }
            Self::new(log)
        }

        fn with_counters(
            mut self,
            partition: i32,
            session: &str,
            events: i64,
            calls: i64,
            through: i64,
        ) -> Self {
            let counted = SessionCounters {
                applied_through: through,
                events,
                tool_calls: Some(calls),
                ..SessionCounters::default()
            };
            self.headers.insert((partition, name_digest("acme", session)), HeaderState::Counted(counted));
            self
        }

        fn report(&self) -> Report {
            let mut partitions = self.log.bounds();
            partitions.values_mut().for_each(|bounds| bounds.low = self.low);
            let context = Context {
                partitions: &partitions,
                rejected: &self.rejected,
                duplicates: &self.duplicates,
                headers: &self.headers,
                ttl: TTL,
            };
            let mut report = Report::default();
            examine(&self.log.events, &context, &mut report);
            report
        }

        fn kinds(&self) -> Vec<(FindingKind, u64)> {
            self.report().findings.iter().map(|finding| (finding.kind, finding.count)).collect()
        }
    }

    fn of(sequence: i64) -> Event {
        Event::of("a", sequence)
    }

    fn input(sequence: i64) -> Event {
        Event { r#type: catalogue::USER_INPUT, call: None, ..of(sequence) }
    }

    fn other(event: Event) -> Event {
        Event { call: Some(("call", "other")), ..event }
    }

    #[test]
    fn events_are_counted_by_number_and_content() {
        let retried = |sequence| Event { r#type: catalogue::TOOL_RETRIED, ..of(sequence) };
        for (what, events, counted, calls, reordered) in [
            ("in order", vec![of(0), input(1), of(2)], 3, 2, 0),
            ("sent again", vec![of(0), of(1), of(0), of(1), of(2)], 3, 3, 0),
            ("imported again", vec![of(0), Event { occurred_at: 9, ..of(0) }], 1, 1, 0),
            ("another content", vec![of(0), other(of(0)), other(of(0)), of(0)], 2, 2, 0),
            ("a high number first", vec![of(1_700_000_000_000), of(0), of(1)], 3, 3, 2),
            ("the largest number first", vec![of(i64::MAX), of(0), of(i64::MAX), of(0)], 2, 2, 1),
            ("out of order, and again", vec![of(1), of(0), of(0), of(1)], 2, 2, 1),
            ("negative", vec![of(-1), of(0), of(-5)], 3, 3, 1),
            ("two sources", vec![of(5), Event::of("b", 0), of(6), Event::of("b", 1)], 4, 4, 0),
            (
                "the end of a source",
                vec![of(0), Event { session: "s".to_owned(), ..Event::closing("a", 1, 1) }],
                1,
                1,
                0,
            ),
            (
                "decisions and approvals",
                vec![
                    of(0),
                    Event { r#type: catalogue::DECISION_MADE, ..input(1) },
                    Event { r#type: catalogue::APPROVAL_ASKED, ..input(2) },
                    Event { r#type: catalogue::APPROVAL_DECIDED, ..input(3) },
                    of(4),
                ],
                2,
                2,
                0,
            ),
            ("a decision with a call", vec![Event { r#type: catalogue::DECISION_MADE, ..of(0) }], 1, 1, 0),
            ("a type that nobody knows", vec![Event { r#type: "Tool.Invoked", ..of(0) }], 1, 1, 0),
            ("a retried call may keep its index", vec![of(0), retried(1)], 2, 1, 0),
        ] {
            let through = events.len() as i64 - 1;
            let expected: Vec<_> =
                if reordered > 0 { vec![(FindingKind::Reordered, reordered)] } else { vec![] };
            let case =
                |events_: i64, calls: i64| Case::of(&events).with_counters(0, "s", events_, calls, through);
            assert_eq!(case(counted, calls).kinds(), expected, "{what}");
            assert_eq!(case(counted, calls).report().sessions, 1, "{what}");
            let wrong: Vec<_> = expected.iter().copied().chain([(FindingKind::Miscounted, 1)]).collect();
            assert_eq!(case(counted + 1, calls).kinds(), wrong, "{what}, and one too many counted");
            assert_eq!(case(counted - 1, calls).kinds(), wrong, "{what}, and one too few counted");
        }
    }

    #[test]
    fn later_and_rejected_events_are_not_counted() {
        let events = [input(0), of(1), of(2), of(3)];
        assert_eq!(Case::of(&events).with_counters(0, "s", 3, 2, 2).kinds(), []);
        assert_eq!(Case::of(&events).with_counters(0, "s", 4, 3, 2).kinds(), [(FindingKind::Miscounted, 1)]);
        let mut case = Case::of(&[of(0), of(1), of(0), of(2)]).with_counters(0, "s", 3, 3, 3);
        assert_eq!(case.kinds(), []);
        // A rejected record leaves no state, so its repeat is new.
        case.rejected.insert((0, 0));
        assert_eq!(case.kinds(), [(FindingKind::Reordered, 1)]);
        case.rejected.insert((0, 2));
        assert_eq!(case.kinds(), [(FindingKind::Miscounted, 1)]);
    }

    #[test]
    fn session_in_two_partitions_is_counted_in_each() {
        let mut log = Log::new(12);
        for (partition, sequence) in [(3, 0), (3, 1), (7, 2), (3, 3), (7, 4)] {
            log.add_to(partition, &of(sequence));
        }
        let case = Case::new(log).with_counters(3, "s", 3, 3, 2).with_counters(7, "s", 2, 2, 1);
        assert_eq!(case.kinds(), []);
        assert_eq!(case.report().sessions, 2);
        let report = case.with_counters(7, "s", 3, 3, 1).report();
        let finding = report.finding(FindingKind::Miscounted).unwrap();
        assert_eq!(finding.by_partition, BTreeMap::from([(7, 1)]));
        assert_eq!(
            finding.first,
            "tenant acme, session s, partition 7: expected 2 events and 2 tool calls through offset 1, found 3 events and 3 tool calls through offset 1"
        );
    }

    #[test]
    fn wrong_duplicate_verdict_is_found() {
        let mut case = Case::of(&[of(9), of(0), of(9), other(of(9))]);
        case.duplicates.insert((0, 2));
        assert_eq!(case.kinds(), [(FindingKind::Reordered, 1)], "it was sent before");
        case.duplicates.extend([(0, 1), (0, 3)]);
        assert_eq!(case.kinds(), [(FindingKind::Reordered, 1), (FindingKind::Unjudged, 2)]);
        let report = case.report();
        assert!(
            report
                .finding(FindingKind::Unjudged)
                .unwrap()
                .first
                .starts_with("actions/0@1, tenant acme, session s: a duplicate verdict")
        );
    }

    #[test]
    fn counters_that_the_records_cannot_prove_are_not_compared() {
        let mut log = Log::new(1);
        for (logged_at, sequence) in [(0, 0), (TTL, 1), (2 * TTL + 1, 2)] {
            log.logged_at = logged_at;
            log.add(&of(sequence));
        }
        let expired = Case::new(log).with_counters(0, "s", 1, 1, 2);
        assert_eq!(
            (expired.kinds(), expired.report().sessions),
            (vec![], 0),
            "it was silent for longer than its ttl"
        );
        let later = Case::of(&[of(0)]).with_counters(0, "s", 2, 2, 5);
        assert_eq!((later.kinds(), later.report().sessions), (vec![], 0), "more was counted than was read");
        let mut cut = Case::of(&[of(1), of(2)]).with_counters(0, "s", 9, 9, 1);
        cut.duplicates.insert((0, 1));
        assert_eq!(cut.kinds(), [(FindingKind::Unjudged, 1), (FindingKind::Miscounted, 1)]);
        cut.low = 1;
        assert_eq!((cut.kinds(), cut.report().sessions), (vec![], 0), "retention has deleted its beginning");
        let mut gone = Case::of(&[of(0)]);
        gone.headers.insert((0, name_digest("acme", "s")), HeaderState::Expired);
        assert_eq!((gone.kinds(), gone.report().sessions), (vec![], 0), "it has expired once");
    }

    #[test]
    fn counters_of_an_earlier_version_are_compared_by_its_rule() {
        let case = |counted: SessionCounters| {
            let mut case = Case::of(&[of(5), of(0), other(of(5)), of(6)]);
            case.headers.insert((0, name_digest("acme", "s")), HeaderState::Counted(counted));
            case.report().count(FindingKind::Miscounted)
        };
        let counted = |events| SessionCounters { applied_through: 3, events, ..SessionCounters::default() };
        assert_eq!([4, 2, 3].map(|events| case(counted(events))), [0, 1, 1]);
        let old = |events| SessionCounters { is_of_old_rule: true, ..counted(events) };
        assert_eq!([4, 2, 3].map(|events| case(old(events))), [1, 0, 1]);
        let both = |events| SessionCounters { is_of_both_rules: true, ..counted(events) };
        assert_eq!([4, 2, 3].map(|events| case(both(events))), [0, 0, 0]);
    }

    #[test]
    fn repeat_beyond_the_limits_is_counted() {
        let count = |events: &mut dyn Iterator<Item = Event>| {
            let mut log = Log::new(1);
            for event in events {
                log.add(&event);
            }
            let seen = log.events.by_partition[&0].clone();
            let mut numbers = SequenceNumbers::default();
            seen.iter().filter(|event| numbers.classify(event) != SequenceOutcome::Repeated).count()
        };
        // Repeats are recognised for 64 sources, and not for the 65th.
        let sources = |n: usize| (0..n).map(|n| Event::of(&format!("source {n}"), 0));
        assert_eq!(count(&mut sources(64).chain(sources(64))), 64);
        assert_eq!(count(&mut sources(65).chain(sources(65))), 66);
        // The same for numbers: each repeat after the limit is counted.
        let template = {
            let mut log = Log::new(1);
            log.add(&of(0));
            log.events.by_partition[&0][0]
        };
        let mut numbers = SequenceNumbers::default();
        let mut new = |sequence: i64| {
            numbers.classify(&EventSummary { sequence, ..template }) != SequenceOutcome::Repeated
        };
        let limit = MAX_NUMBERS as i64;
        assert!((0..=limit).all(&mut new));
        assert!(!new(0) && !new(limit - 1) && new(limit) && new(limit));
    }

    proptest! {
        /// The audit's independent implementation of the rule gives the same counts as the evaluator.
        #[test]
        fn rule_gives_the_same_counts_as_the_evaluator(
            events in prop::collection::vec((0..3_usize, -2..6_i64, 0..3_usize, any::<bool>()), 0..60),
        ) {
            let sources = ["a", "b", "c"];
            let contents = ["{}", "{\"x\":1}", ""];
            let limits = SessionLimits { ttl: HumanDuration(Duration::from_secs(1)), max_facts: 10, max_bytes: 10_000 };
            let mut session = Session::new();
            let (mut log, mut numbers, mut counted) = (Log::new(1), SequenceNumbers::default(), Vec::new());
            for (offset, (source, sequence, content, calls)) in events.into_iter().enumerate() {
                let event = Event {
                    call: calls.then_some(("call", contents[content])),
                    result: (!calls).then_some(contents[content]),
                    r#type: if calls { catalogue::TOOL_INVOKED } else { catalogue::TOOL_RESPONSE_RECEIVED },
                    ..Event::of(sources[source], sequence)
                };
                log.add(&event);
                let event = event.event();
                let check = session.check_sequence(&event);
                let seen = log.events.by_partition[&0][offset];
                let expected = if check.highest_if_repeat.is_some() {
                    SequenceOutcome::Repeated
                } else if check.findings.contains(&RecordFinding::OutOfOrder) {
                    SequenceOutcome::OutOfOrder
                } else {
                    SequenceOutcome::New
                };
                prop_assert_eq!(numbers.classify(&seen), expected);
                if expected != SequenceOutcome::Repeated {
                    counted.push(seen);
                    let origin = Origin { topic: "t", partition: 0, offset: offset as i64, logged_at: Millis(0) };
                    session.apply(&event, &check, &origin, None, &limits);
                }
            }
            let found = count(&counted.iter().collect::<Vec<_>>(), i64::MAX);
            prop_assert_eq!(found.events, session.events());
            prop_assert_eq!(found.tool_calls, Some(i64::from(session.tool_calls())));
        }
    }
}
