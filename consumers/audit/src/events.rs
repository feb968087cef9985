//! Summaries of the events in the topic of actions, with a fixed number of bytes for each record.
//!
//! Partitions are read in any order, so checks run after all records are read: [`Events::misplaced`], [`crate::sources`] and
//! [`crate::sessions`], in the order of partitions and offsets.

use std::collections::{BTreeMap, HashMap};

use agentgov_schemas::catalogue;
use agentgov_schemas::key::{SessionKey, check_tenant_id};
use sha2::{Digest as _, Sha256};

use crate::kafka::Record;
use crate::murmur2::partition_of;
use crate::record::Fields;
use crate::report::{FindingKind, MAX_PLACES, Report};

/// Position of a record in the topic of actions: partition and offset.
pub type RecordPosition = (i32, i64);

/// First 16 bytes of a SHA-256, for comparisons.
pub type ShortDigest = [u8; 16];

/// Maximum characters of a name that are kept for display.
const MAX_NAME_CHARS: usize = 200;

/// Answer that a record requires from the evaluator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// A verdict, or a reject if the record cannot be judged.
    Answer,
    /// A reject, since the event has no valid identity.
    Reject(&'static str),
}

/// Kind of an event for the counters of its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A tool call.
    Call,
    /// A retried tool call, which may have the index of an earlier one.
    Retry,
    /// Any other event of a session.
    Other,
    /// The end of a source, which belongs to no session.
    Closing,
}

/// Summary of an event.
#[derive(Clone, Copy, Debug)]
pub struct EventSummary {
    pub offset: i64,
    pub logged_at: i64,
    /// Index of the session's name; `None` if the event belongs to no session.
    pub session: Option<u32>,
    /// Index of the source's name; `None` if the event has no source id.
    pub source: Option<u32>,
    pub sequence: i64,
    /// Digest of the content that a repeat has in common with the first event.
    pub content: ShortDigest,
    pub kind: EventKind,
    /// Total number of events, on source.closed.
    pub total: Option<i64>,
}

/// Tenant, and id of a session or source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    pub tenant: String,
    pub id: String,
    pub digest: ShortDigest,
}

/// Table of names by index. Each name has one index.
#[derive(Debug, Default)]
pub struct NameTable {
    known: HashMap<ShortDigest, u32>,
    names: Vec<Name>,
}

/// Records of a partition whose session belongs to another partition.
#[derive(Debug, Default)]
struct Misplaced {
    /// The first records: offset, key of the session, and its partition.
    first: Vec<(i64, String, i32)>,
    /// Number of further records.
    more: u64,
}

/// Events of the topic of actions.
#[derive(Debug)]
pub struct Events {
    pub topic: String,
    partitions: usize,
    pub by_partition: BTreeMap<i32, Vec<EventSummary>>,
    pub sessions: NameTable,
    pub sources: NameTable,
    misplaced: BTreeMap<i32, Misplaced>,
}

/// Hasher for a list of parts. Each part is preceded by its length, so that distinct lists have distinct inputs.
#[derive(Default)]
struct ShortHash(Sha256);

impl ShortHash {
    fn update(&mut self, part: Option<&[u8]>) {
        match part {
            None => self.0.update([0]),
            Some(part) => {
                self.0.update([1]);
                self.0.update((part.len() as u64).to_be_bytes());
                self.0.update(part);
            }
        }
    }

    #[expect(clippy::expect_used, reason = "a SHA-256 has 32 bytes")]
    fn finish(self) -> ShortDigest {
        *self.0.finalize().first_chunk().expect("the first bytes of 32")
    }
}

/// Returns the digest of a tenant and the id of a session or source.
pub fn name_digest(tenant: &str, id: &str) -> ShortDigest {
    let mut hash = ShortHash::default();
    hash.update(Some(tenant.as_bytes()));
    hash.update(Some(id.as_bytes()));
    hash.finish()
}

/// Truncates a long name for display.
fn truncate(name: &str) -> String {
    match name.char_indices().nth(MAX_NAME_CHARS) {
        None => name.to_owned(),
        Some((end, _)) => format!("{}…", name.get(..end).unwrap_or_default()),
    }
}

impl NameTable {
    fn add(&mut self, tenant: &str, id: &str) -> Option<u32> {
        let digest = name_digest(tenant, id);
        if let Some(known) = self.known.get(&digest) {
            return Some(*known);
        }
        let next = u32::try_from(self.names.len()).ok()?;
        self.names.push(Name { tenant: truncate(tenant), id: truncate(id), digest });
        self.known.insert(digest, next);
        Some(next)
    }

    pub fn get(&self, number: u32) -> Option<&Name> {
        self.names.get(usize::try_from(number).ok()?)
    }

    /// Returns indexes and names, sorted by name.
    pub fn in_order(&self) -> Vec<(u32, &Name)> {
        let mut names: Vec<_> = (0..).zip(&self.names).collect();
        names.sort_by(|(_, a), (_, b)| (&a.tenant, &a.id, a.digest).cmp(&(&b.tenant, &b.id, b.digest)));
        names
    }
}

impl Events {
    pub fn new(topic: &str, partitions: usize) -> Self {
        Self {
            topic: topic.to_owned(),
            partitions,
            by_partition: BTreeMap::new(),
            sessions: NameTable::default(),
            sources: NameTable::default(),
            misplaced: BTreeMap::new(),
        }
    }

    /// Adds a record; `event` has its fields, if it decodes. Returns the answer that the record requires from the evaluator.
    pub fn add(&mut self, record: &Record<'_>, event: Option<Fields<'_>>) -> Option<Expected> {
        let key = match &event {
            Some(event) => {
                let (tenant_id, session_id) = (text(*event, "tenant_id"), text(*event, "session_id"));
                Some(SessionKey { tenant_id, session_id }.to_bytes())
            }
            None => record.key.map(<[u8]>::to_vec),
        };
        if let Some(key) = key
            && let Some(expected) = partition_of(&key, self.partitions)
            && expected != record.partition
        {
            let misplaced = self.misplaced.entry(record.partition).or_default();
            if misplaced.first.len() < MAX_PLACES {
                let key = truncate(&String::from_utf8_lossy(&key));
                misplaced.first.push((record.offset, key, expected));
            } else {
                misplaced.more += 1;
            }
        }
        let event = event?;
        let (tenant, session) = (text(event, "tenant_id"), text(event, "session_id"));
        let source = event.record("source");
        let source_id = source.and_then(|source| source.text("id")).unwrap_or_default();
        let event_type = text(event, "type");
        // A closing event that carries a tool call is judged, and belongs to a session.
        let is_closing = event_type == catalogue::SOURCE_CLOSED && !event.has("tool");
        let rejected = reject_reason(tenant, session, source_id, text(event, "event_id"));
        let of_session =
            rejected.is_none() && (event.has("tool") || !NO_SESSION_CHANGE.contains(&event_type));
        let summary = EventSummary {
            offset: record.offset,
            logged_at: record.logged_at,
            session: if of_session { self.sessions.add(tenant, session) } else { None },
            source: if source_id.is_empty() { None } else { self.sources.add(tenant, source_id) },
            sequence: source.and_then(|source| source.number("sequence")).unwrap_or_default(),
            content: content_digest(event),
            kind: match event_type {
                catalogue::TOOL_RETRIED => EventKind::Retry,
                _ if is_closing => EventKind::Closing,
                _ if is_judged(event) => EventKind::Call,
                _ => EventKind::Other,
            },
            total: event.record("closing").and_then(|closing| closing.number("total")),
        };
        self.by_partition.entry(record.partition).or_default().push(summary);
        match rejected {
            Some(why) => Some(Expected::Reject(why)),
            None => is_judged(event).then_some(Expected::Answer),
        }
    }

    /// Reports records that are not in the partition of their session's key.
    pub fn misplaced(&self, report: &mut Report) {
        for (partition, Misplaced { first, more }) in &self.misplaced {
            for (offset, key, expected) in first {
                report.add_in(FindingKind::Misplaced, *partition, || {
                    format!(
                        "{}/{partition}@{offset}, whose session {key} belongs to partition {expected}",
                        self.topic
                    )
                });
            }
            report.add_more_in(FindingKind::Misplaced, *partition, *more);
        }
    }
}

/// Types of events that change no session, unless they carry a tool call.
const NO_SESSION_CHANGE: [&str; 4] = [
    catalogue::SOURCE_CLOSED,
    catalogue::DECISION_MADE,
    catalogue::APPROVAL_ASKED,
    catalogue::APPROVAL_DECIDED,
];

/// Returns a text of an event; empty if the writer's schema does not have the field. The evaluator also rejects an empty id.
fn text<'a>(event: Fields<'a>, name: &str) -> &'a str {
    event.text(name).unwrap_or_default()
}

/// Returns the reason for which the evaluator must reject an event.
fn reject_reason(tenant: &str, session: &str, source: &str, event: &str) -> Option<&'static str> {
    if check_tenant_id(tenant).is_err() {
        return Some("an invalid tenant_id");
    }
    let empty =
        [("an empty session_id", session), ("an empty source.id", source), ("an empty event_id", event)];
    empty.into_iter().find(|(_, id)| id.is_empty()).map(|(why, _)| why)
}

/// Returns true if the evaluator judges the event: its type is judged, or it carries a tool call.
fn is_judged(event: Fields<'_>) -> bool {
    catalogue::is_judged(text(event, "type")) || event.has("tool")
}

/// Returns the digest of the content that identifies a repeat (ADR 0015): every field that policies or sessions use, and the bytes
/// of payloads. occurred_at is excluded, since each run of an import sets another one.
fn content_digest(event: Fields<'_>) -> ShortDigest {
    let part = |name| event.record(name);
    let within = |name, inner| part(name).and_then(|part: Fields<'_>| part.record(inner));
    let parts: [(Option<Fields<'_>>, &[&str]); 9] = [
        (Some(event), &["event_id", "type", "environment"]),
        (part("agent"), &["id"]),
        (part("actor"), &["id", "type"]),
        (part("message"), &["id", "role", "has_text", "tool_calls"]),
        (within("message", "content"), &["data"]),
        (part("tool"), &["name", "call_id", "definition"]),
        (within("tool", "arguments"), &["data"]),
        (part("result"), &["call_id", "name", "is_error"]),
        (within("result", "content"), &["data"]),
    ];
    let mut hash = ShortHash::default();
    for (part, fields) in parts {
        hash.update(part.map(|_| &b""[..]));
        for field in fields {
            hash.update(part.and_then(|part| part.plain(field)).as_deref());
        }
    }
    hash.finish()
}

#[cfg(test)]
pub mod testing {
    //! Events for tests, and a topic that holds them.

    use std::sync::LazyLock;

    use agentgov_schemas::event::{ActionEvent, Agent, Closing, Payload, Source, ToolCall, ToolResult};
    use agentgov_schemas::subject;
    use agentgov_schemas::wire::{Encoder, SchemaId};
    use agentgov_schemas::{Digest, Micros};

    use super::*;
    use crate::record;

    /// Event for tests.
    #[derive(Clone, Debug)]
    pub struct Event {
        pub event_id: String,
        pub r#type: &'static str,
        pub tenant: &'static str,
        pub session: String,
        pub source: String,
        pub sequence: i64,
        pub occurred_at: i64,
        pub call: Option<(&'static str, &'static str)>,
        pub result: Option<&'static str>,
        pub total: Option<i64>,
    }

    impl Default for Event {
        fn default() -> Self {
            Self {
                event_id: "0192f0c1-7a3b-7c4d-9e5f-000000000000".to_owned(),
                r#type: catalogue::TOOL_INVOKED,
                tenant: "acme",
                session: "s".to_owned(),
                source: "a".to_owned(),
                sequence: 0,
                occurred_at: 0,
                call: Some(("call", "{}")),
                result: None,
                total: None,
            }
        }
    }

    impl Event {
        /// Creates the event of a source with a sequence number. The event id follows from both.
        pub fn of(source: &str, sequence: i64) -> Self {
            Self {
                event_id: format!("{source}-{sequence}"),
                source: source.to_owned(),
                sequence,
                ..Self::default()
            }
        }

        pub fn closing(source: &str, sequence: i64, total: i64) -> Self {
            Self {
                r#type: catalogue::SOURCE_CLOSED,
                session: format!("source/{source}"),
                call: None,
                total: Some(total),
                ..Self::of(source, sequence)
            }
        }

        /// Returns the datum.
        pub fn encode(&self) -> Vec<u8> {
            let schema = subject::ACTION_EVENT.schema().unwrap();
            let value = Encoder::new(SchemaId(1), schema).encode(&self.event()).unwrap();
            value[5..].to_vec()
        }

        /// Returns the event as its Rust type.
        pub fn event(&self) -> ActionEvent<'_> {
            let payload = |data: &'static str| Payload {
                data: data.as_bytes(),
                sha256: Digest::of(data.as_bytes()),
                media_type: "application/json",
                redacted: false,
            };
            ActionEvent {
                environment: "test",
                occurred_at: Micros(self.occurred_at),
                tool: self
                    .call
                    .map(|(call_id, arguments)| ToolCall::new("tool", call_id, payload(arguments))),
                result: self.result.map(|content| ToolResult {
                    call_id: "call",
                    name: None,
                    is_error: None,
                    content: payload(content),
                }),
                closing: self.total.map(|total| Closing { total }),
                ..ActionEvent::new(
                    &self.event_id,
                    self.r#type,
                    SessionKey { tenant_id: self.tenant, session_id: &self.session },
                    Source { id: &self.source, sequence: self.sequence },
                    Agent::new("agent"),
                )
            }
        }

        pub fn key(&self) -> Vec<u8> {
            format!("{}/{}", self.tenant, self.session).into_bytes()
        }
    }

    /// Topic of actions under test.
    pub struct Log {
        pub events: Events,
        ends: BTreeMap<i32, i64>,
        partitions: usize,
        pub logged_at: i64,
    }

    impl Log {
        pub fn new(partitions: usize) -> Self {
            Self {
                events: Events::new("actions", partitions),
                ends: BTreeMap::new(),
                partitions,
                logged_at: 0,
            }
        }

        /// Appends an event to the partition of its key.
        pub fn add(&mut self, event: &Event) -> (RecordPosition, Option<Expected>) {
            let partition = partition_of(&event.key(), self.partitions).unwrap();
            self.add_to(partition, event)
        }

        /// Appends an event to a partition.
        pub fn add_to(&mut self, partition: i32, event: &Event) -> (RecordPosition, Option<Expected>) {
            let key = event.key();
            self.add_record(partition, Some(&key), &event.encode())
        }

        /// Appends a record.
        pub fn add_record(
            &mut self,
            partition: i32,
            key: Option<&[u8]>,
            datum: &[u8],
        ) -> (RecordPosition, Option<Expected>) {
            let end = self.ends.entry(partition).or_default();
            let offset = std::mem::replace(end, *end + 1);
            static SCHEMA: LazyLock<apache_avro::Schema> =
                LazyLock::new(|| record::parse(subject::ACTION_EVENT.schema().unwrap().text()).unwrap());
            let decoded = record::decode(&SCHEMA, datum);
            let record = Record { partition, offset, logged_at: self.logged_at, key, value: Some(datum) };
            let expected = self.events.add(&record, decoded.as_ref().map(record::Record::fields));
            ((partition, offset), expected)
        }

        /// Returns the bounds of the partitions.
        pub fn bounds(&self) -> crate::kafka::Partitions {
            let bounds = |end: &i64| crate::kafka::Bounds { low: 0, end: *end };
            self.ends.iter().map(|(partition, end)| (*partition, bounds(end))).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{Event, Log};
    use super::*;
    use crate::report::Report;

    #[test]
    fn record_in_the_partition_of_another_key_is_misplaced() {
        let session = |session: &str| Event { session: session.to_owned(), ..Event::default() };
        let event = session("one");
        let key = event.key();
        let right = partition_of(&key, 12).unwrap();
        let wrong = (right + 1) % 12;
        let other = b"acme/another".as_slice();
        let other_partition = partition_of(other, 12).unwrap();
        assert_ne!(other_partition, right);
        for (what, partition, key, datum, misplaced) in [
            ("its own partition", right, Some(key.as_slice()), event.encode(), 0),
            ("another partition", wrong, Some(&key), event.encode(), 1),
            ("no key, its own partition", right, None, event.encode(), 0),
            ("no key, another partition", wrong, None, event.encode(), 1),
            ("an empty key", wrong, Some(b""), event.encode(), 1),
            (
                "the key of another session, and its partition",
                other_partition,
                Some(other),
                event.encode(),
                1,
            ),
            (
                "the key of another session, and the partition of its own",
                right,
                Some(other),
                event.encode(),
                0,
            ),
            ("a key of any bytes", right, Some(b"\xff\0"), event.encode(), 0),
            ("no event, the partition of its key", right, Some(&key), b"no datum".to_vec(), 0),
            ("no event, another partition", wrong, Some(&key), b"no datum".to_vec(), 1),
            ("neither event nor key", wrong, None, b"no datum".to_vec(), 0),
        ] {
            let mut log = Log::new(12);
            log.add_record(partition, key, &datum);
            let mut report = Report::default();
            log.events.misplaced(&mut report);
            assert_eq!(report.count(FindingKind::Misplaced), misplaced, "{what}");
            if let Some(finding) = report.finding(FindingKind::Misplaced) {
                assert!(finding.first.starts_with(&format!("actions/{partition}@0, ")), "{}", finding.first);
                assert_eq!(finding.by_partition, BTreeMap::from([(partition, 1)]), "{what}");
            }
        }
    }

    #[test]
    fn event_without_identity_requires_a_reject_and_an_action_an_answer() {
        let answer = Some(Expected::Answer);
        let reject = |why| Some(Expected::Reject(why));
        let event = Event::default;
        for (event, expected) in [
            (event(), answer),
            (Event { r#type: catalogue::USER_INPUT, call: None, ..event() }, None),
            (Event { r#type: "made.up", call: None, ..event() }, None),
            (Event { r#type: "Tool.Invoked", ..event() }, answer),
            (Event { r#type: catalogue::USER_INPUT, ..event() }, answer),
            (Event { r#type: catalogue::TOOL_RETRIED, call: None, ..event() }, answer),
            (Event::closing("a", 0, 0), None),
            (Event { call: Some(("c", "{}")), ..Event::closing("a", 0, 0) }, answer),
            (Event { tenant: "", ..event() }, reject("an invalid tenant_id")),
            (Event { tenant: "a/b", ..event() }, reject("an invalid tenant_id")),
            (Event { session: String::new(), ..event() }, reject("an empty session_id")),
            (Event { source: String::new(), ..event() }, reject("an empty source.id")),
            (Event { event_id: String::new(), ..event() }, reject("an empty event_id")),
            // The evaluator rejects it; an earlier version judged it. Either is a valid answer.
            (Event { session: "s".repeat(400_000), ..event() }, answer),
            (
                Event { source: "s".repeat(400_000), r#type: catalogue::USER_INPUT, call: None, ..event() },
                None,
            ),
            (
                Event { event_id: String::new(), r#type: catalogue::USER_INPUT, call: None, ..event() },
                reject("an empty event_id"),
            ),
        ] {
            assert_eq!(Log::new(1).add(&event).1, expected, "{event:?}");
        }
    }

    #[test]
    fn long_ids_are_distinguished_by_digest_and_truncated() {
        let mut names = NameTable::default();
        let long = |last: &str| "ü".repeat(100_000) + last;
        for (tenant, id, number) in [
            ("t", long("a"), 0),
            ("t", long("b"), 1),
            ("t", long("a"), 0),
            ("u", long("a"), 2),
            ("t", String::new(), 3),
        ] {
            assert_eq!(names.add(tenant, &id), Some(number));
        }
        assert_eq!(names.get(1).unwrap().id, "ü".repeat(MAX_NAME_CHARS) + "…");
        let in_order: Vec<u32> = names.in_order().iter().map(|(number, _)| *number).collect();
        assert_eq!((in_order[0], in_order[3]), (3, 2));
        assert_ne!(name_digest("a", "bc"), name_digest("ab", "c"));
    }

    #[test]
    fn repeated_event_has_the_same_content_digest_and_others_do_not() {
        let content = |event: &Event| {
            let mut log = Log::new(1);
            log.add(event);
            log.events.by_partition[&0][0].content
        };
        let event = Event::default;
        let same = content(&event());
        for repeated in [
            Event { occurred_at: 5, ..event() },
            Event { sequence: 9, ..event() },
            Event { source: "b".to_owned(), ..event() },
        ] {
            assert_eq!(content(&repeated), same, "{repeated:?}");
        }
        let others = [
            Event { event_id: "other".to_owned(), ..event() },
            Event { r#type: catalogue::TOOL_RETRIED, ..event() },
            Event { call: None, ..event() },
            Event { call: Some(("call", "{} ")), ..event() },
            Event { call: Some(("calls", "{}")), ..event() },
            Event { call: Some(("call{}", "")), ..event() },
            Event { result: Some(""), ..event() },
            Event { result: Some("{}"), ..event() },
        ];
        let mut contents: Vec<_> = others.iter().map(content).chain([same]).collect();
        contents.sort_unstable();
        contents.dedup();
        assert_eq!(contents.len(), others.len() + 1);
    }
}
