//! What the evaluator counts in each session, by the rule of ADR 0015, against what it says that it counted.
//!
//! A session is one for each partition in which records of it lie: what is known in one partition is not known in another.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::events::{Act, At, Events, Name, Seen, Short};
use crate::headers::{Counted, Headers, Kept};
use crate::kafka::Partitions;
use crate::report::{FindingKind, Report};

/// Pairs of a number and a content that the evaluator keeps for a session.
const MAX_NUMBERS: usize = 65_536;
/// Sources of which it keeps them.
const MAX_SOURCES: usize = 64;

/// What an event is by the numbers that came before it in its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Numbered {
    /// Its source sent the same before: it changes nothing.
    Repeated,
    /// Its number is below one of its source's, and was not seen.
    OutOfOrder,
    /// It counts.
    New,
}

/// The numbers of a session.
#[derive(Default)]
struct Numbers {
    kept: HashMap<(u32, i64), Vec<Short>>,
    pairs: usize,
    sources: BTreeMap<u32, i64>,
    /// The first 64 sources.
    keeps: BTreeSet<u32>,
}

impl Numbers {
    fn take(&mut self, event: &Seen) -> Numbered {
        let source = event.source.unwrap_or(u32::MAX);
        let number = (source, event.sequence);
        let known = self.kept.get(&number);
        if known.is_some_and(|contents| contents.contains(&event.content)) {
            return Numbered::Repeated;
        }
        let is_new_number = known.is_none();
        let highest = self.sources.entry(source).or_insert(event.sequence);
        let is_below = event.sequence < *highest;
        *highest = event.sequence.max(*highest);
        if self.keeps.len() < MAX_SOURCES {
            self.keeps.insert(source);
        }
        if self.pairs < MAX_NUMBERS && self.keeps.contains(&source) {
            self.kept.entry(number).or_default().push(event.content);
            self.pairs += 1;
        }
        if is_new_number && is_below { Numbered::OutOfOrder } else { Numbered::New }
    }
}

/// What is needed beside the events.
pub struct Context<'a> {
    /// Bounds of the topic of actions.
    pub partitions: &'a Partitions,
    /// Records that the evaluator has rejected: nothing of them is in its state.
    pub rejected: &'a BTreeSet<At>,
    /// Actions whose verdict says that they were sent before.
    pub duplicates: &'a BTreeSet<At>,
    /// What the evaluator says of each session.
    pub headers: &'a Headers,
    /// After how many milliseconds without an event a session begins anew.
    pub ttl: i64,
}

/// Looks at each session.
pub fn examine(events: &Events, context: &Context<'_>, report: &mut Report) {
    for (partition, seen) in &events.seen {
        let mut by_session: BTreeMap<u32, Vec<&Seen>> = BTreeMap::new();
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
                examine_one(*partition, name, &events_of, context, report, &mut found);
            }
        }
        // The first of a kind is the one that stands first, not that of the session that was seen first.
        found.sort_unstable_by_key(|(offset, kind)| (*offset, *kind));
        for (offset, kind) in found {
            report.add_in(kind, *partition, 1, || {
                let place = format!("{}/{partition}@{offset}", events.topic);
                match kind {
                    FindingKind::Unjudged => {
                        format!("{place}: its verdict says duplicate, and nothing before it has its number and content")
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
    events: &[&Seen],
    context: &Context<'_>,
    report: &mut Report,
    found: &mut Vec<(i64, FindingKind)>,
) {
    // Without its beginning it is not known what came before.
    let is_whole = context.partitions.get(&partition).is_some_and(|bounds| bounds.low == 0);
    let mut numbers = Numbers::default();
    let mut counted: Vec<&Seen> = Vec::new();
    for event in events {
        match numbers.take(event) {
            Numbered::Repeated => continue,
            Numbered::OutOfOrder => found.push((event.offset, FindingKind::Reordered)),
            Numbered::New => {}
        }
        if is_whole && context.duplicates.contains(&(partition, event.offset)) {
            found.push((event.offset, FindingKind::Unjudged));
        }
        counted.push(event);
    }
    let Some(Kept::Counted(header)) = context.headers.get(&(partition, name.digest)) else { return };
    // With more than was read there is nothing to compare with; and a session that was silent for so long began anew.
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
        report.add_in(FindingKind::Miscounted, partition, 1, || {
            format!(
                "tenant {}, session {}, partition {partition}: expected {expected}, found {header}",
                name.tenant, name.id
            )
        });
    }
}

/// The events that an evaluator counts which keeps only the highest number of each source.
fn by_old_rule<'a>(events: &[&'a Seen]) -> Vec<&'a Seen> {
    let mut highest: BTreeMap<Option<u32>, i64> = BTreeMap::new();
    let mut is_new = |event: &Seen| {
        let is_new = highest.get(&event.source).is_none_or(|highest| event.sequence > *highest);
        if is_new {
            highest.insert(event.source, event.sequence);
        }
        is_new
    };
    events.iter().copied().filter(|event| is_new(event)).collect()
}

/// What events come to, up to and with an offset.
fn count(events: &[&Seen], through: i64) -> Counted {
    let until = || events.iter().filter(|event| event.offset <= through);
    let of = |act: Act| until().filter(|event| event.act == act).count();
    let whole = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    Counted {
        applied_through: through,
        events: whole(until().count()),
        tool_calls: (of(Act::Retry) == 0).then(|| whole(of(Act::Call))),
        ..Counted::default()
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

    /// A log, and what the stages say of it.
    struct Case {
        log: Log,
        headers: Headers,
        rejected: BTreeSet<At>,
        duplicates: BTreeSet<At>,
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

        fn says(mut self, partition: i32, session: &str, events: i64, calls: i64, through: i64) -> Self {
            let counted =
                Counted { applied_through: through, events, tool_calls: Some(calls), ..Counted::default() };
            self.headers.insert((partition, name_digest("acme", session)), Kept::Counted(counted));
            self
        }

        fn look(&self) -> Report {
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
            self.look().findings.iter().map(|finding| (finding.kind, finding.count)).collect()
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
    fn events_count_by_number_and_content() {
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
            ("a type that nobody knows", vec![Event { r#type: "Tool.Invoked", ..of(0) }], 1, 1, 0),
            ("a retried call may keep its index", vec![of(0), retried(1)], 2, 1, 0),
        ] {
            let through = events.len() as i64 - 1;
            let expected: Vec<_> =
                if reordered > 0 { vec![(FindingKind::Reordered, reordered)] } else { vec![] };
            let case = |events_: i64, calls: i64| Case::of(&events).says(0, "s", events_, calls, through);
            assert_eq!(case(counted, calls).kinds(), expected, "{what}");
            assert_eq!(case(counted, calls).look().sessions, 1, "{what}");
            let wrong: Vec<_> = expected.iter().copied().chain([(FindingKind::Miscounted, 1)]).collect();
            assert_eq!(case(counted + 1, calls).kinds(), wrong, "{what}, and one too many counted");
            assert_eq!(case(counted - 1, calls).kinds(), wrong, "{what}, and one too few counted");
        }
    }

    #[test]
    fn only_events_up_to_the_offset_and_not_rejected_count() {
        let events = [input(0), of(1), of(2), of(3)];
        assert_eq!(Case::of(&events).says(0, "s", 3, 2, 2).kinds(), []);
        assert_eq!(Case::of(&events).says(0, "s", 4, 3, 2).kinds(), [(FindingKind::Miscounted, 1)]);
        let mut case = Case::of(&[of(0), of(1), of(0), of(2)]).says(0, "s", 3, 3, 3);
        assert_eq!(case.kinds(), []);
        // What is rejected leaves nothing behind: sent again, it is new.
        case.rejected.insert((0, 0));
        assert_eq!(case.kinds(), [(FindingKind::Reordered, 1)]);
        case.rejected.insert((0, 2));
        assert_eq!(case.kinds(), [(FindingKind::Miscounted, 1)]);
    }

    #[test]
    fn a_session_in_two_partitions_is_counted_in_each() {
        let mut log = Log::new(12);
        for (partition, sequence) in [(3, 0), (3, 1), (7, 2), (3, 3), (7, 4)] {
            log.add_to(partition, &of(sequence));
        }
        let case = Case::new(log).says(3, "s", 3, 3, 2).says(7, "s", 2, 2, 1);
        assert_eq!(case.kinds(), []);
        assert_eq!(case.look().sessions, 2);
        let report = case.says(7, "s", 3, 3, 1).look();
        let finding = report.finding(FindingKind::Miscounted).unwrap();
        assert_eq!(finding.by_partition, BTreeMap::from([(7, 1)]));
        assert_eq!(
            finding.first,
            "tenant acme, session s, partition 7: expected 2 events and 2 tool calls through offset 1, found 3 events and 3 tool calls through offset 1"
        );
    }

    #[test]
    fn a_verdict_that_hides_an_action_is_found() {
        let mut case = Case::of(&[of(9), of(0), of(9), other(of(9))]);
        case.duplicates.insert((0, 2));
        assert_eq!(case.kinds(), [(FindingKind::Reordered, 1)], "it was sent before");
        case.duplicates.extend([(0, 1), (0, 3)]);
        assert_eq!(case.kinds(), [(FindingKind::Reordered, 1), (FindingKind::Unjudged, 2)]);
        let report = case.look();
        assert!(
            report
                .finding(FindingKind::Unjudged)
                .unwrap()
                .first
                .starts_with("actions/0@1: its verdict says duplicate")
        );
    }

    #[test]
    fn what_the_records_cannot_tell_is_not_compared() {
        let mut log = Log::new(1);
        for (logged_at, sequence) in [(0, 0), (TTL, 1), (2 * TTL + 1, 2)] {
            log.logged_at = logged_at;
            log.add(&of(sequence));
        }
        let expired = Case::new(log).says(0, "s", 1, 1, 2);
        assert_eq!(
            (expired.kinds(), expired.look().sessions),
            (vec![], 0),
            "it was silent for longer than its ttl"
        );
        let later = Case::of(&[of(0)]).says(0, "s", 2, 2, 5);
        assert_eq!((later.kinds(), later.look().sessions), (vec![], 0), "more was counted than was read");
        let mut cut = Case::of(&[of(1), of(2)]).says(0, "s", 9, 9, 1);
        cut.duplicates.insert((0, 1));
        assert_eq!(cut.kinds(), [(FindingKind::Unjudged, 1), (FindingKind::Miscounted, 1)]);
        cut.low = 1;
        assert_eq!((cut.kinds(), cut.look().sessions), (vec![], 0), "retention has deleted its beginning");
        let mut gone = Case::of(&[of(0)]);
        gone.headers.insert((0, name_digest("acme", "s")), Kept::Expired);
        assert_eq!((gone.kinds(), gone.look().sessions), (vec![], 0), "it has expired once");
    }

    #[test]
    fn counters_of_an_earlier_version_are_compared_by_its_rule() {
        let case = |counted: Counted| {
            let mut case = Case::of(&[of(5), of(0), other(of(5)), of(6)]);
            case.headers.insert((0, name_digest("acme", "s")), Kept::Counted(counted));
            case.look().count(FindingKind::Miscounted)
        };
        let counted = |events| Counted { applied_through: 3, events, ..Counted::default() };
        assert_eq!([4, 2, 3].map(|events| case(counted(events))), [0, 1, 1]);
        let old = |events| Counted { is_of_old_rule: true, ..counted(events) };
        assert_eq!([4, 2, 3].map(|events| case(old(events))), [1, 0, 1]);
        let both = |events| Counted { is_of_both_rules: true, ..counted(events) };
        assert_eq!([4, 2, 3].map(|events| case(both(events))), [0, 0, 0]);
    }

    #[test]
    fn beyond_the_limits_a_repeated_event_counts() {
        let count = |events: &mut dyn Iterator<Item = Event>| {
            let mut log = Log::new(1);
            for event in events {
                log.add(&event);
            }
            let seen = log.events.seen[&0].clone();
            let mut numbers = Numbers::default();
            seen.iter().filter(|event| numbers.take(event) != Numbered::Repeated).count()
        };
        // 64 sources are known again, the 65th is not.
        let sources = |n: usize| (0..n).map(|n| Event::of(&format!("source {n}"), 0));
        assert_eq!(count(&mut sources(64).chain(sources(64))), 64);
        assert_eq!(count(&mut sources(65).chain(sources(65))), 66);
        // As with numbers: what came after the limit counts at each time.
        let template = {
            let mut log = Log::new(1);
            log.add(&of(0));
            log.events.seen[&0][0]
        };
        let mut numbers = Numbers::default();
        let mut new = |sequence: i64| numbers.take(&Seen { sequence, ..template }) != Numbered::Repeated;
        let limit = MAX_NUMBERS as i64;
        assert!((0..=limit).all(&mut new));
        assert!(!new(0) && !new(limit - 1) && new(limit) && new(limit));
    }

    proptest! {
        /// Written apart, the audit's rule and the evaluator's are the same.
        #[test]
        fn the_rule_is_the_evaluators(
            events in prop::collection::vec((0..3_usize, -2..6_i64, 0..3_usize, any::<bool>()), 0..60),
        ) {
            let sources = ["a", "b", "c"];
            let contents = ["{}", "{\"x\":1}", ""];
            let limits = SessionLimits { ttl: HumanDuration(Duration::from_secs(1)), max_facts: 10, max_bytes: 10_000 };
            let mut session = Session::new();
            let (mut log, mut numbers, mut counted) = (Log::new(1), Numbers::default(), Vec::new());
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
                let seen = log.events.seen[&0][offset];
                let expected = if check.highest_if_repeat.is_some() {
                    Numbered::Repeated
                } else if check.findings.contains(&RecordFinding::OutOfOrder) {
                    Numbered::OutOfOrder
                } else {
                    Numbered::New
                };
                prop_assert_eq!(numbers.take(&seen), expected);
                if expected != Numbered::Repeated {
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
