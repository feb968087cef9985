//! Session counters in the evaluator's changelog.

use std::collections::BTreeMap;
use std::fmt;

use agentgov_connect::KafkaEndpoint;

use crate::AuditError;
use crate::events::{ShortDigest, name_digest};
use crate::kafka::Reader;
use crate::record::{Decoder, Fields};

/// Last changelog entry of each session, by partition and by the digest of tenant and session.
pub type Headers = BTreeMap<(i32, ShortDigest), HeaderState>;

/// Last changelog entry of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderState {
    /// Counters of the session.
    Counted(SessionCounters),
    /// The session has expired, so its counters no longer include its earlier events.
    Expired,
}

/// Counters of a session, up to an offset of its partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionCounters {
    pub applied_through: i64,
    pub events: i64,
    /// `None` if unknown, since a retried call may or may not have an index of its own.
    pub tool_calls: Option<i64>,
    /// True for counters of a version that kept only the highest sequence number of each source.
    pub is_of_old_rule: bool,
    /// True for counters that such a version began. Which events were repeats is unknown.
    pub is_of_both_rules: bool,
}

impl SessionCounters {
    /// Returns true if the known counters of both are equal.
    pub fn equals(&self, other: &Self) -> bool {
        let calls = self.tool_calls.zip(other.tool_calls);
        self.events == other.events && calls.is_none_or(|(a, b)| a == b)
    }

    fn from_header(header: Fields<'_>) -> Self {
        let number = |name| header.number(name).unwrap_or(-1);
        Self {
            applied_through: number("applied_through"),
            events: number("events"),
            tool_calls: Some(number("tool_calls")),
            is_of_old_rule: header.records("sources").any(|source| source.number("blocks").is_none()),
            is_of_both_rules: header.records("sources").any(|source| source.has("unknown_through")),
        }
    }
}

impl fmt::Display for SessionCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} events", self.events)?;
        if let Some(calls) = self.tool_calls {
            write!(f, " and {calls} tool calls")?;
        }
        write!(f, " through offset {}", self.applied_through)
    }
}

/// Reads the headers from the changelog.
pub fn read(endpoint: &KafkaEndpoint, changelog: &str, decoder: &mut Decoder) -> Result<Headers, AuditError> {
    let mut headers = Headers::new();
    Reader::open(endpoint, changelog)?.read(|record| {
        let Some(value) = record.value else {
            if let Ok([tenant, session, entry]) =
                serde_json::from_slice::<[String; 3]>(record.key.unwrap_or_default())
                && entry == "header"
            {
                headers.insert((record.partition, name_digest(&tenant, &session)), HeaderState::Expired);
            }
            return Ok(());
        };
        let Some(entry) = decoder.decode(value)? else { return Ok(()) };
        let Some(header) = entry.fields().record("header") else { return Ok(()) };
        let text = |name| entry.fields().text(name).unwrap_or_default();
        let session = (record.partition, name_digest(text("tenant_id"), text("session_id")));
        let counted = HeaderState::Counted(SessionCounters::from_header(header));
        if let HeaderState::Counted(_) = headers.entry(session).or_insert(counted) {
            headers.insert(session, counted);
        }
        Ok(())
    })?;
    Ok(headers)
}
