//! What the evaluator says in its changelog that it has counted in a session, and what the session's events come to.

use std::collections::HashMap;
use std::fmt;

use agentgov_connect::KafkaEndpoint;
use agentgov_schemas::catalogue;

use crate::record::Decoder;
use crate::{AuditError, kafka};

/// Tenant and session.
pub type Name = (String, String);

/// Counters of a session, up to an offset of its partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub applied_through: i64,
    pub events: i64,
    /// `None`: not known, since a retried call may or may not have an index of its own.
    pub tool_calls: Option<i64>,
}

impl Counters {
    /// True if both say the same, as far as both know it.
    pub fn equals(&self, other: &Self) -> bool {
        let calls = self.tool_calls.zip(other.tool_calls);
        self.events == other.events && calls.is_none_or(|(a, b)| a == b)
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} events", self.events)?;
        if let Some(calls) = self.tool_calls {
            write!(f, " and {calls} tool calls")?;
        }
        write!(f, " through offset {}", self.applied_through)
    }
}

/// The events of a session that count: those that their source had not sent before.
#[derive(Clone, Debug)]
pub struct Events {
    pub partition: i32,
    /// Offset, and what kind of event it is.
    events: Vec<(i64, Kind)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Call,
    Retry,
    Other,
}

impl Events {
    pub const fn new(partition: i32) -> Self {
        Self { partition, events: Vec::new() }
    }

    pub fn add(&mut self, offset: i64, r#type: &str) {
        let kind = match r#type {
            catalogue::TOOL_INVOKED => Kind::Call,
            catalogue::TOOL_RETRIED => Kind::Retry,
            _ => Kind::Other,
        };
        self.events.push((offset, kind));
    }

    /// Takes an event out that the evaluator has rejected.
    pub fn remove(&mut self, (partition, offset): (i32, i64)) {
        if partition == self.partition {
            self.events.retain(|(other, _)| *other != offset);
        }
    }

    /// What they come to, up to and with an offset.
    pub fn through(&self, offset: i64) -> Counters {
        let until = || self.events.iter().filter(|(other, _)| *other <= offset);
        let count = |kind: Kind| until().filter(|(_, other)| *other == kind).count();
        let whole = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        Counters {
            applied_through: offset,
            events: whole(until().count()),
            tool_calls: (count(Kind::Retry) == 0).then(|| whole(count(Kind::Call))),
        }
    }
}

/// What the changelog says at its end of each session. A session that expired on the way is left out: it began anew.
pub fn read(
    endpoint: &KafkaEndpoint,
    changelog: &str,
    decoder: &mut Decoder,
) -> Result<HashMap<Name, Counters>, AuditError> {
    let mut counted: HashMap<Name, Option<Counters>> = HashMap::new();
    kafka::read(endpoint, changelog, |_, _, key, value| {
        let Some(value) = value else {
            if let Ok([tenant, session, entry]) = serde_json::from_slice::<[String; 3]>(key)
                && entry == "header"
            {
                counted.insert((tenant, session), None);
            }
            return;
        };
        let Some(fields) = decoder.decode(value) else { return };
        let Some(header) = fields.record("header") else { return };
        let text = |name| fields.text(name).unwrap_or_default().to_owned();
        let number = |name| header.number(name).unwrap_or(-1);
        let counters = Counters {
            applied_through: number("applied_through"),
            events: number("events"),
            tool_calls: Some(number("tool_calls")),
        };
        // Once it has expired it stays left out: its earlier events are not its counters' any more.
        if let Some(known) = counted
            .entry((text("tenant_id"), text("session_id")))
            .or_insert_with(|| Some(Counters::default()))
        {
            *known = counters;
        }
    })?;
    Ok(counted.into_iter().filter_map(|(name, counters)| Some((name, counters?))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_events_up_to_the_offset_and_not_rejected_count() {
        let mut events = Events::new(3);
        for (offset, r#type) in [
            (1, catalogue::SESSION_STARTED),
            (2, catalogue::TOOL_INVOKED),
            (5, catalogue::TOOL_INVOKED),
            (9, catalogue::TOOL_RETRIED),
        ] {
            events.add(offset, r#type);
        }
        let counted =
            |events, calls, through| Counters { applied_through: through, events, tool_calls: Some(calls) };
        assert!(events.through(5).equals(&counted(3, 2, 5)));
        assert!(!events.through(5).equals(&counted(4, 2, 5)), "a repeated event was counted");
        assert!(!events.through(5).equals(&counted(3, 3, 5)), "a repeated call was counted");
        assert!(events.through(9).equals(&counted(4, 2, 9)) && events.through(9).equals(&counted(4, 3, 9)));
        events.remove((4, 2));
        events.remove((3, 5));
        assert!(events.through(5).equals(&counted(2, 1, 5)));
    }
}
