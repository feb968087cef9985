//! The pure part of a recorder: turns a caller's event into the bytes of a record. No I/O, no lock.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use agentgov_schemas::bounds::MAX_ID_BYTES;
use agentgov_schemas::event::{self, ActionEvent, Agent, Closing, Source};
use agentgov_schemas::record::{RecordEncoder, RecordSchema};
use agentgov_schemas::wire::SchemaId;
use agentgov_schemas::{Digest, Micros, SessionKey, catalogue, key};
use uuid::Uuid;

use crate::redact::{Payload, PayloadKind};
use crate::spool::SegmentHeader;
use crate::{Content, Event, RecordError, Redact, StartError};

/// Upper bound for the bytes that Kafka adds to a record and counts against the topic's limit: 61 bytes of record batch
/// (Kafka protocol, "Record Batch") and the record's varints.
const MAX_FRAMING_BYTES: usize = 512;

/// Prefix of the id of the session that a closing event belongs to.
const CLOSING_SESSION_PREFIX: &str = "source/";

/// Turns events into records of one source: checks, redacts, digests and encodes them.
pub struct Composer {
    tenant_id: String,
    environment: String,
    source_id: String,
    redact: Option<Arc<dyn Redact>>,
    schema: RecordSchema<ActionEvent<'static>>,
    schema_id: SchemaId,
    limit: usize,
}

/// An event that lacks only its sequence number: its payloads are redacted and digested, its id and time are set.
#[derive(Debug)]
pub struct PreparedEvent<'a> {
    composer: &'a Composer,
    event: &'a Event<'a>,
    event_id: Uuid,
    event_id_text: String,
    occurred_at: Micros,
    key: Vec<u8>,
    message: Option<DigestedPayload<'a>>,
    arguments: Option<DigestedPayload<'a>>,
    result: Option<DigestedPayload<'a>>,
    closing: bool,
}

/// A payload after redaction, with its digest.
#[derive(Debug)]
struct DigestedPayload<'a> {
    data: Cow<'a, [u8]>,
    sha256: Digest,
    media_type: &'a str,
    redacted: bool,
}

impl Composer {
    /// Creates a composer for events of `source_id`. `schema_id` is the schema registry's id of this build's action schema,
    /// `max_message_bytes` the limit of the topic.
    pub fn new(
        tenant_id: impl Into<String>,
        environment: impl Into<String>,
        source_id: impl Into<String>,
        schema_id: SchemaId,
        max_message_bytes: usize,
    ) -> Result<Self, StartError> {
        let (tenant_id, environment, source_id) = (tenant_id.into(), environment.into(), source_id.into());
        key::check_tenant_id(&tenant_id)?;
        for (option, value) in [("environment", &environment), ("source_id", &source_id)] {
            if value.is_empty() {
                return Err(StartError::Option {
                    option,
                    expected: "a name".into(),
                    found: "an empty string".into(),
                });
            }
        }
        // The id of the closing event's session contains the source's.
        let max_source_id_bytes = MAX_ID_BYTES - CLOSING_SESSION_PREFIX.len();
        for (option, value, limit) in
            [("environment", &environment, MAX_ID_BYTES), ("source_id", &source_id, max_source_id_bytes)]
        {
            if value.len() > limit {
                let (expected, found) = (format!("at most {limit} bytes"), value.len().to_string());
                return Err(StartError::Option { option, expected, found });
            }
        }
        let limit = max_message_bytes.saturating_sub(MAX_FRAMING_BYTES);
        let schema = RecordSchema::new()?;
        Ok(Self { tenant_id, environment, source_id, redact: None, schema, schema_id, limit })
    }

    /// Sets the redaction hook.
    pub fn with_redaction(self, redact: Option<Arc<dyn Redact>>) -> Self {
        Self { redact, ..self }
    }

    /// Returns the id of the source.
    pub fn source_id(&self) -> &str {
        &self.source_id
    }

    /// Creates an encoder for [`PreparedEvent::encode_into`]. Each thread reuses one.
    pub fn encoder(&self) -> RecordEncoder<ActionEvent<'static>> {
        self.schema.encoder(self.schema_id)
    }

    /// Checks `event`, and redacts and digests its payloads. Does all expensive work that needs no sequence number.
    pub fn prepare<'a>(&'a self, event: &'a Event<'a>) -> Result<PreparedEvent<'a>, RecordError> {
        for (field, value) in
            [("type", event.r#type), ("session_id", event.session_id), ("agent.id", event.agent.id)]
        {
            if value.is_empty() {
                return Err(RecordError::Invalid {
                    field,
                    expected: "a name",
                    found: "an empty string".into(),
                });
            }
        }
        if event.r#type == catalogue::SOURCE_CLOSED {
            let expected = "a type that a caller may record; only `close` records this one";
            return Err(RecordError::Invalid { field: "type", expected, found: event.r#type.into() });
        }
        Ok(self.digest_payloads(event, event.event_id.unwrap_or_else(Uuid::now_v7), false))
    }

    /// Returns key and value of the closing event of a source with `total` events.
    pub(crate) fn encode_closing(&self, total: i64) -> Result<(Vec<u8>, Vec<u8>), RecordError> {
        let session_id = self.closing_session_id();
        let event = closing_event(&session_id);
        let prepared = self.prepare_closing(&event);
        let mut value = Vec::new();
        prepared.encode_into(total, &mut self.encoder(), &mut value)?;
        Ok((prepared.key, value))
    }

    /// Returns the header of the spool's segments.
    pub(crate) fn spool_header(&self, topic: &str) -> SegmentHeader {
        SegmentHeader {
            source_id: self.source_id.clone(),
            tenant_id: self.tenant_id.clone(),
            environment: self.environment.clone(),
            topic: topic.to_owned(),
            schema_id: self.schema_id.0,
            first: 0,
        }
    }

    /// Returns the session id of the closing event, which belongs to no session of an agent.
    pub(crate) fn closing_session_id(&self) -> String {
        format!("{CLOSING_SESSION_PREFIX}{}", self.source_id)
    }

    /// Prepares the closing event. Its id is derived from the source, so that it is the same if the source is recorded again.
    pub(crate) fn prepare_closing<'a>(&'a self, event: &'a Event<'a>) -> PreparedEvent<'a> {
        let parts = [self.source_id.as_bytes(), catalogue::SOURCE_CLOSED.as_bytes()];
        self.digest_payloads(event, uuid_v8(Digest::of_parts(parts)), true)
    }

    fn digest_payloads<'a>(
        &'a self,
        event: &'a Event<'a>,
        event_id: Uuid,
        closing: bool,
    ) -> PreparedEvent<'a> {
        let digest = |kind, tool, content: Content<'a>| {
            let payload = Payload { kind, event_type: event.r#type, tool, content };
            let redacted = self.redact.as_ref().and_then(|redact| redact.redact(&payload));
            let (data, redacted) = match redacted {
                Some(bytes) => (Cow::Owned(bytes), true),
                None => (Cow::Borrowed(content.data), false),
            };
            DigestedPayload { sha256: Digest::of(&data), data, media_type: content.media_type, redacted }
        };
        let key = SessionKey { tenant_id: &self.tenant_id, session_id: event.session_id };
        PreparedEvent {
            composer: self,
            event,
            event_id,
            event_id_text: event_id.to_string(),
            occurred_at: event.occurred_at.unwrap_or_else(now),
            key: key.to_bytes(),
            message: event
                .message
                .and_then(|m| m.content)
                .map(|content| digest(PayloadKind::Message, None, content)),
            arguments: event.tool.map(|tool| digest(PayloadKind::Arguments, Some(tool.name), tool.arguments)),
            result: event.result.map(|result| digest(PayloadKind::Result, result.name, result.content)),
            closing,
        }
    }
}

/// Returns the closing event of a source.
pub(crate) fn closing_event(session_id: &str) -> Event<'_> {
    let agent = Agent { id: env!("CARGO_PKG_NAME"), name: None, version: Some(env!("CARGO_PKG_VERSION")) };
    Event::new(catalogue::SOURCE_CLOSED, session_id, agent)
}

impl PreparedEvent<'_> {
    /// Returns the record's key.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// Returns the event's session.
    pub const fn session_id(&self) -> &str {
        self.event.session_id
    }

    /// Returns the event's id.
    pub const fn event_id(&self) -> Uuid {
        self.event_id
    }

    /// Replaces the content of `value` by the encoded record with this sequence number. Checks it against the topic's limit, and
    /// its names against the evaluator's.
    pub fn encode_into(
        &self,
        sequence: i64,
        encoder: &mut RecordEncoder<ActionEvent<'static>>,
        value: &mut Vec<u8>,
    ) -> Result<(), RecordError> {
        value.clear();
        let session_id = || self.event.session_id.to_owned();
        let record = self.to_record(sequence);
        if let Some((field, found)) = record.too_long_id() {
            return Err(RecordError::IdTooLong { field, found, limit: MAX_ID_BYTES });
        }
        encoder
            .encode_into(&record, value)
            .map_err(|e| RecordError::Unencodable { session_id: session_id(), message: e.to_string() })?;
        let (found, limit) = (self.key.len() + value.len(), self.composer.limit);
        if found > limit {
            return Err(RecordError::TooLarge { session_id: session_id(), found, limit });
        }
        Ok(())
    }

    fn to_record(&self, sequence: i64) -> ActionEvent<'_> {
        let event = self.event;
        ActionEvent {
            environment: &self.composer.environment,
            session_label: event.session_label,
            occurred_at: self.occurred_at,
            actor: event.actor,
            trace: event.trace,
            message: event.message.map(|message| event::Message {
                id: message.id,
                role: message.role,
                has_text: message.has_text,
                tool_calls: message.tool_calls,
                content: self.message.as_ref().map(DigestedPayload::payload),
            }),
            tool: event.tool.zip(self.arguments.as_ref()).map(|(tool, arguments)| event::ToolCall {
                decision_token: tool.decision_token,
                definition: tool.definition,
                ..event::ToolCall::new(tool.name, tool.call_id, arguments.payload())
            }),
            result: event.result.zip(self.result.as_ref()).map(|(result, content)| event::ToolResult {
                call_id: result.call_id,
                name: result.name,
                is_error: result.is_error,
                content: content.payload(),
            }),
            llm: event.llm,
            decision: event.decision.cloned(),
            approval: event.approval,
            closing: self.closing.then_some(Closing { total: sequence }),
            ..ActionEvent::new(
                &self.event_id_text,
                event.r#type,
                SessionKey { tenant_id: &self.composer.tenant_id, session_id: event.session_id },
                Source { id: &self.composer.source_id, sequence },
                event.agent,
            )
        }
    }
}

impl DigestedPayload<'_> {
    fn payload(&self) -> event::Payload<'_> {
        event::Payload {
            data: &self.data,
            sha256: self.sha256,
            media_type: self.media_type,
            redacted: self.redacted,
        }
    }
}

impl fmt::Debug for Composer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Composer")
            .field("tenant_id", &self.tenant_id)
            .field("environment", &self.environment)
            .field("source_id", &self.source_id)
            .finish_non_exhaustive()
    }
}

/// Creates a UUID of version 8 (RFC 9562: custom bits) from the first half of a digest.
pub fn uuid_v8(digest: Digest) -> Uuid {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, ..] = *digest.as_bytes();
    uuid::Builder::from_custom_bytes([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]).into_uuid()
}

fn now() -> Micros {
    // A clock before 1970 gives 1970. No stage relies on the time of a producer.
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Micros(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use agentgov_schemas::event::ActionEvent;
    use agentgov_schemas::wire;

    use super::*;
    use crate::{Message, RedactFields, ToolCall, ToolResult};

    const AGENT: Agent<'static> = Agent { id: "agent", name: None, version: None };

    fn composer(max_message_bytes: usize) -> Composer {
        Composer::new("acme", "test", "source-1", SchemaId(1), max_message_bytes).unwrap()
    }

    fn content(data: &[u8]) -> Content<'_> {
        Content { data, media_type: "application/json" }
    }

    fn encoded(composer: &Composer, event: &Event<'_>) -> Result<Vec<u8>, RecordError> {
        let mut value = b"left over".to_vec();
        composer.prepare(event)?.encode_into(3, &mut composer.encoder(), &mut value)?;
        Ok(value)
    }

    #[test]
    fn encoded_event_decodes_to_the_same_event() {
        let tool = ToolCall::new("book", "c1", content(b"{\"a\": \xff 1}"));
        let message = Message {
            id: "m1",
            role: "assistant",
            has_text: true,
            tool_calls: 1,
            content: Some(content(b"hi")),
        };
        let result = ToolResult { call_id: "c1", name: None, is_error: Some(false), content: content(b"") };
        let event = Event {
            session_label: Some("1/0"),
            occurred_at: Some(Micros(-5)),
            event_id: Some(Uuid::nil()),
            message: Some(message),
            tool: Some(tool),
            result: Some(result),
            ..Event::new(catalogue::TOOL_INVOKED, "s/1", AGENT)
        };
        let composer = composer(10_000);
        let value = encoded(&composer, &event).unwrap();
        let (id, datum) = wire::split(&value).unwrap();
        let read: ActionEvent<'_> = composer.schema.schema().decode(id, datum).unwrap();
        assert_eq!(read.source, Source { id: "source-1", sequence: 3 });
        assert_eq!((read.tenant_id, read.environment, read.session_id), ("acme", "test", "s/1"));
        assert_eq!(read.event_id, "00000000-0000-0000-0000-000000000000");
        assert_eq!((read.occurred_at, read.session_label, read.closing), (Micros(-5), Some("1/0"), None));
        let arguments = read.tool.unwrap().arguments;
        assert_eq!((arguments.data, arguments.redacted), (tool.arguments.data, false));
        assert_eq!(arguments.sha256, Digest::of(tool.arguments.data));
        assert_eq!(read.message.unwrap().content.unwrap().data, b"hi");
        assert_eq!(read.result.unwrap().content.sha256, Digest::of(b""));
        assert_eq!(composer.prepare(&event).unwrap().key(), b"acme/s/1");
    }

    #[test]
    fn digest_covers_the_redacted_payload() {
        let rules = RedactFields::new([("pay", vec!["/cvv"])]).unwrap();
        let composer = composer(10_000).with_redaction(Some(Arc::new(rules)));
        let tool = ToolCall::new("pay", "c", content(b"{\"cvv\": 999}"));
        let event = Event { tool: Some(tool), ..Event::new(catalogue::TOOL_INVOKED, "s", AGENT) };
        let value = encoded(&composer, &event).unwrap();
        let (id, datum) = wire::split(&value).unwrap();
        let read: ActionEvent<'_> = composer.schema.schema().decode(id, datum).unwrap();
        let arguments = read.tool.unwrap().arguments;
        assert_eq!(arguments.data, br#"{"cvv":"[redacted]"}"#);
        assert_eq!(arguments.sha256, Digest::of(arguments.data));
        assert!(arguments.redacted);
    }

    #[test]
    fn event_above_the_size_limit_is_rejected() {
        let plain = |data| {
            let tool = ToolCall::new("t", "c", content(data));
            Event {
                tool: Some(tool),
                event_id: Some(Uuid::nil()),
                ..Event::new(catalogue::TOOL_INVOKED, "s", AGENT)
            }
        };
        let data = vec![b'x'; 5_000];
        let event = plain(&data);
        let size = b"acme/s".len() + encoded(&composer(1 << 20), &event).unwrap().len();
        for (limit, fits) in [(size, true), (size + 1, true), (size - 1, false), (0, false)] {
            let result = encoded(&composer(limit + MAX_FRAMING_BYTES), &event);
            match result {
                Ok(_) => assert!(fits, "{limit}"),
                Err(error) => {
                    assert!(!fits, "{limit}");
                    assert_eq!(error, RecordError::TooLarge { session_id: "s".into(), found: size, limit });
                }
            }
        }
    }

    #[test]
    fn event_with_an_id_that_the_evaluator_rejects_is_an_error() {
        let composer = composer(1 << 20);
        for (length, is_valid) in [(MAX_ID_BYTES, true), (MAX_ID_BYTES + 1, false)] {
            let id = "x".repeat(length);
            let call = |name, call_id| Event {
                tool: Some(ToolCall::new(name, call_id, content(b"{}"))),
                ..Event::new(catalogue::TOOL_INVOKED, "s", AGENT)
            };
            let answer = ToolResult { call_id: &id, name: None, is_error: None, content: content(b"") };
            let answer =
                Event { result: Some(answer), ..Event::new(catalogue::TOOL_RESPONSE_RECEIVED, "s", AGENT) };
            for (event, field) in [
                (Event::new(&id, "s", AGENT), "type"),
                (Event::new("made.up", &id, AGENT), "session_id"),
                (Event::new("made.up", "s", Agent { id: &id, ..AGENT }), "agent.id"),
                (call(&id, "c"), "tool.name"),
                (call("t", &id), "tool.call_id"),
                (answer, "result.call_id"),
            ] {
                let expected = RecordError::IdTooLong { field, found: MAX_ID_BYTES + 1, limit: MAX_ID_BYTES };
                assert_eq!(encoded(&composer, &event).err(), (!is_valid).then_some(expected), "{length}");
            }
        }
        let longest = "x".repeat(MAX_ID_BYTES - CLOSING_SESSION_PREFIX.len());
        let composer = Composer::new("acme", "test", longest, SchemaId(1), 1 << 20).unwrap();
        assert!(composer.encode_closing(0).is_ok(), "a source with the longest id can be closed");
    }

    #[test]
    fn invalid_events_and_options_are_rejected() {
        let composer = composer(10_000);
        let nobody = Agent { id: "", ..AGENT };
        for (event, field) in [
            (Event::new("", "s", AGENT), "type"),
            (Event::new(catalogue::SOURCE_CLOSED, "s", AGENT), "type"),
            (Event::new("made.up", "", AGENT), "session_id"),
            (Event::new("made.up", "s", nobody), "agent.id"),
        ] {
            let error = encoded(&composer, &event).unwrap_err();
            assert!(matches!(error, RecordError::Invalid { field: found, .. } if found == field), "{error}");
        }
        assert!(encoded(&composer, &Event::new("made.up", "s", AGENT)).is_ok(), "unknown types are accepted");
        let long = "x".repeat(MAX_ID_BYTES + 1);
        for (tenant, environment, source) in [
            ("a/b", "e", "s"),
            ("", "e", "s"),
            ("a", "", "s"),
            ("a", "e", ""),
            ("a", &long, "s"),
            ("a", "e", &long),
        ] {
            assert!(Composer::new(tenant, environment, source, SchemaId(1), 9_999).is_err());
        }
    }
}
