//! The pure half of a recorder: from what a caller says to the bytes of a record. No I/O, no lock.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use agentgov_schemas::event::{self, ActionEvent, Closing, Source};
use agentgov_schemas::wire::{Encoder, Schema, SchemaId};
use agentgov_schemas::{Digest, Micros, SessionKey, catalogue, key, subject};
use uuid::Uuid;

use crate::redact::{Part, Payload};
use crate::{Content, Event, RecordError, Redact, StartError};

/// What the topic's limit has to leave free for Kafka's own framing: 61 bytes of record batch (Kafka protocol, "Record
/// Batch") and a record's varints, generously.
const FRAMING: usize = 512;

/// Turns events into records of one source: redacts, digests, checks and encodes.
pub struct Composer {
    tenant_id: String,
    environment: String,
    source_id: String,
    redact: Option<Arc<dyn Redact>>,
    schema: &'static Schema,
    schema_id: SchemaId,
    limit: usize,
}

/// An event that only lacks its number: payloads redacted and digested, id and clock set.
#[derive(Debug)]
pub struct Prepared<'a> {
    composer: &'a Composer,
    event: &'a Event<'a>,
    event_id: Uuid,
    event_id_text: String,
    occurred_at: Micros,
    key: Vec<u8>,
    message: Option<Sealed<'a>>,
    arguments: Option<Sealed<'a>>,
    result: Option<Sealed<'a>>,
    closing: bool,
}

/// A payload as it is published.
#[derive(Debug)]
struct Sealed<'a> {
    data: Cow<'a, [u8]>,
    sha256: Digest,
    media_type: &'a str,
    redacted: bool,
}

impl Composer {
    /// For events of `source_id`. `schema_id` is what the registry gave to this build's schema of actions;
    /// `max_message_bytes` is the topic's.
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
                    found: "nothing".into(),
                });
            }
        }
        let limit = max_message_bytes.saturating_sub(FRAMING);
        let schema = subject::ACTION_EVENT.schema()?;
        Ok(Self { tenant_id, environment, source_id, redact: None, schema, schema_id, limit })
    }

    /// The same, with a hook that redacts.
    pub fn redacting(self, redact: Option<Arc<dyn Redact>>) -> Self {
        Self { redact, ..self }
    }

    /// Name of the source.
    pub fn source_id(&self) -> &str {
        &self.source_id
    }

    /// An encoder for [`Prepared::encode_into`]; one a thread, reused.
    pub fn encoder(&self) -> Encoder<'static> {
        Encoder::new(self.schema_id, self.schema)
    }

    /// Checks `event`, redacts and digests its payloads. Everything about an event that costs and needs no number.
    pub fn prepare<'a>(&'a self, event: &'a Event<'a>) -> Result<Prepared<'a>, RecordError> {
        for (field, value) in
            [("type", event.r#type), ("session_id", event.session_id), ("agent.id", event.agent.id)]
        {
            if value.is_empty() {
                return Err(RecordError::Invalid { field, expected: "a name", found: "nothing".into() });
            }
        }
        if event.r#type == catalogue::SOURCE_CLOSED {
            let expected = "a type that a caller may write; only `close` ends a source";
            return Err(RecordError::Invalid { field: "type", expected, found: event.r#type.into() });
        }
        Ok(self.seal(event, event.event_id.unwrap_or_else(Uuid::now_v7), false))
    }

    /// The closing event. Its id follows from the source, so that it is the same if the source is recorded again.
    pub(crate) fn prepare_closing<'a>(&'a self, event: &'a Event<'a>) -> Prepared<'a> {
        let parts = [self.source_id.as_bytes(), catalogue::SOURCE_CLOSED.as_bytes()];
        self.seal(event, uuid_v8(Digest::of_parts(parts)), true)
    }

    fn seal<'a>(&'a self, event: &'a Event<'a>, event_id: Uuid, closing: bool) -> Prepared<'a> {
        let seal = |part, tool, content: Content<'a>| {
            let payload = Payload { part, event_type: event.r#type, tool, content };
            let redacted = self.redact.as_ref().and_then(|redact| redact.redact(&payload));
            let (data, redacted) = match redacted {
                Some(bytes) => (Cow::Owned(bytes), true),
                None => (Cow::Borrowed(content.data), false),
            };
            Sealed { sha256: Digest::of(&data), data, media_type: content.media_type, redacted }
        };
        let key = SessionKey { tenant_id: &self.tenant_id, session_id: event.session_id };
        Prepared {
            composer: self,
            event,
            event_id,
            event_id_text: event_id.to_string(),
            occurred_at: event.occurred_at.unwrap_or_else(now),
            key: key.to_bytes(),
            message: event.message.and_then(|m| m.content).map(|content| seal(Part::Message, None, content)),
            arguments: event.tool.map(|tool| seal(Part::Arguments, Some(tool.name), tool.arguments)),
            result: event.result.map(|result| seal(Part::Result, result.name, result.content)),
            closing,
        }
    }
}

impl Prepared<'_> {
    /// The record's key.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The event's id.
    pub const fn event_id(&self) -> Uuid {
        self.event_id
    }

    /// Replaces `value` by the record's value under number `sequence`, and checks that the topic takes it.
    pub fn encode_into(
        &self,
        sequence: i64,
        encoder: &mut Encoder<'_>,
        value: &mut Vec<u8>,
    ) -> Result<(), RecordError> {
        value.clear();
        let session_id = || self.event.session_id.to_owned();
        encoder
            .encode_into(&self.numbered(sequence), value)
            .map_err(|e| RecordError::Unencodable { session_id: session_id(), message: e.to_string() })?;
        let (found, limit) = (self.key.len() + value.len(), self.composer.limit);
        if found > limit {
            return Err(RecordError::TooLarge { session_id: session_id(), found, limit });
        }
        Ok(())
    }

    fn numbered(&self, sequence: i64) -> ActionEvent<'_> {
        let event = self.event;
        ActionEvent {
            event_id: &self.event_id_text,
            r#type: event.r#type,
            tenant_id: &self.composer.tenant_id,
            environment: &self.composer.environment,
            session_id: event.session_id,
            session_label: event.session_label,
            source: Source { id: &self.composer.source_id, sequence },
            occurred_at: self.occurred_at,
            agent: event.agent,
            actor: event.actor,
            trace: event.trace,
            message: event.message.map(|message| event::Message {
                id: message.id,
                role: message.role,
                has_text: message.has_text,
                tool_calls: message.tool_calls,
                content: self.message.as_ref().map(Sealed::payload),
            }),
            tool: event.tool.zip(self.arguments.as_ref()).map(|(tool, arguments)| event::ToolCall {
                name: tool.name,
                call_id: tool.call_id,
                arguments: arguments.payload(),
            }),
            result: event.result.zip(self.result.as_ref()).map(|(result, content)| event::ToolResult {
                call_id: result.call_id,
                name: result.name,
                is_error: result.is_error,
                content: content.payload(),
            }),
            llm: event.llm,
            decision: event.decision,
            approval: event.approval,
            closing: self.closing.then_some(Closing { total: sequence }),
        }
    }
}

impl Sealed<'_> {
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

/// A UUID of version 8 (RFC 9562: custom bits) from the first half of a digest.
pub fn uuid_v8(digest: Digest) -> Uuid {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, ..] = *digest.as_bytes();
    uuid::Builder::from_custom_bytes([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]).into_uuid()
}

fn now() -> Micros {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Micros(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
}
