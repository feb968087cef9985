//! Pushes and lists agents and tools.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use agentgov_schemas::governance::{AgentEntry, ToolEntry};
use agentgov_schemas::wire::EncodeError;
use agentgov_schemas::{Record, RecordEncoder};
use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use serde::Serialize;

use crate::fold::fold;
use crate::source::GovernanceTopic;
use crate::{Agent, Error, Listing, RegisteredAgent, RegistryContext, Tool};

/// Timeout for the acknowledgement of a record.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes that a batch adds to a record: Kafka counts them against max.message.bytes.
const BATCH_OVERHEAD: usize = 512;

/// Result of [`push_agents`] and [`push_tools`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PushSummary {
    /// Keys of the appended entries: new or changed ones.
    pub pushed: Vec<String>,
    /// Keys of the entries that the topic has unchanged.
    pub unchanged: Vec<String>,
}

/// Appends every new or changed agent. `pushed_by` names the person or job that pushes, for people. An agent that is missing in
/// `agents` stays unchanged; to stop an agent, push it with `state: retired`.
pub fn push_agents(
    context: RegistryContext<'_>,
    agents: &[Agent],
    pushed_by: &str,
) -> Result<PushSummary, Error> {
    let current = last_by_key(list_agents(context)?, RegisteredAgent::key);
    let topic = context.topic::<AgentEntry<'static>>()?;
    push(&topic, agents, Agent::key, &current, same_agent, |agent, encoder| {
        encoder.encode(&agent.to_record(reason_of_state(agent, &current), pushed_by))
    })
}

/// Appends every new or changed tool.
pub fn push_tools(
    context: RegistryContext<'_>,
    tools: &[Tool],
    pushed_by: &str,
) -> Result<PushSummary, Error> {
    let current = last_by_key(list_tools(context)?, Tool::key);
    let topic = context.topic::<ToolEntry<'static>>()?;
    push(&topic, tools, Tool::key, &current, same_tool, |tool, encoder| {
        encoder.encode(&tool.to_record(pushed_by))
    })
}

/// Lists the last entry of each agent, in the order of their keys.
pub fn list_agents(context: RegistryContext<'_>) -> Result<Listing<RegisteredAgent>, Error> {
    let mut last = BTreeMap::new();
    let unreadable = fold(&context.topic::<AgentEntry<'static>>()?, |_, decoded| {
        let agent = RegisteredAgent::from_record(&decoded.read::<AgentEntry<'_>>()?)?;
        last.insert(agent.key(), agent);
        Ok(())
    })?;
    Ok(Listing { entries: last.into_values().collect(), unreadable })
}

/// Lists the last entry of each tool, in the order of their keys.
pub fn list_tools(context: RegistryContext<'_>) -> Result<Listing<Tool>, Error> {
    let mut last = BTreeMap::new();
    let unreadable = fold(&context.topic::<ToolEntry<'static>>()?, |_, decoded| {
        let tool = Tool::from_record(&decoded.read::<ToolEntry<'_>>()?)?;
        last.insert(tool.key(), tool);
        Ok(())
    })?;
    Ok(Listing { entries: last.into_values().collect(), unreadable })
}

/// Compares an agent with its current entry, by their records: agents that differ in the file may have the same record, e.g. with
/// no description and with an empty one. A file has no reason.
fn same_agent(current: &RegisteredAgent, agent: &Agent) -> bool {
    current.agent.to_record("", "") == agent.to_record("", "")
}

/// Returns the reason of the current entry as long as the state stays.
fn reason_of_state<'c>(agent: &Agent, current: &'c BTreeMap<String, RegisteredAgent>) -> &'c str {
    let current = current.get(&agent.key()).filter(|current| current.agent.state == agent.state);
    current.map_or("", |current| &current.reason)
}

/// Compares two tools by their records.
fn same_tool(a: &Tool, b: &Tool) -> bool {
    a.to_record("") == b.to_record("")
}

fn last_by_key<T>(listing: Listing<T>, key: fn(&T) -> String) -> BTreeMap<String, T> {
    listing.entries.into_iter().map(|entry| (key(&entry), entry)).collect()
}

fn push<T, C, R: Record>(
    topic: &GovernanceTopic<'_, R>,
    entries: &[T],
    key: fn(&T) -> String,
    current: &BTreeMap<String, C>,
    same: fn(&C, &T) -> bool,
    encode: impl Fn(&T, &mut RecordEncoder<R>) -> Result<Vec<u8>, EncodeError>,
) -> Result<PushSummary, Error> {
    let (unchanged, changed) = unchanged_and_changed(entries, key, current, same);
    let mut encoder = topic.encoder()?;
    let records = changed
        .iter()
        .map(|entry| {
            let key = key(entry);
            let value = encode(entry, &mut encoder)
                .map_err(|e| Error::Encode { key: key.clone(), message: e.to_string() })?;
            Ok((key, value))
        })
        .collect::<Result<Vec<_>, Error>>()?;
    append(topic, &records)?;
    Ok(PushSummary {
        pushed: records.into_iter().map(|(key, _)| key).collect(),
        unchanged: unchanged.into_iter().map(key).collect(),
    })
}

fn unchanged_and_changed<'e, T, C>(
    entries: &'e [T],
    key: fn(&T) -> String,
    current: &BTreeMap<String, C>,
    same: fn(&C, &T) -> bool,
) -> (Vec<&'e T>, Vec<&'e T>) {
    entries.iter().partition(|entry| current.get(&key(entry)).is_some_and(|current| same(current, entry)))
}

/// Appends records in order, and returns when all in-sync replicas have all of them. After an error some may be appended; a
/// repeated push skips those.
pub(crate) fn append<R: Record>(
    topic: &GovernanceTopic<'_, R>,
    records: &[(String, Vec<u8>)],
) -> Result<(), Error> {
    if records.is_empty() {
        return Ok(());
    }
    // A negative limit, which no checked topology has, rejects everything.
    let limit = usize::try_from(topic.topic.max_message_bytes.value).unwrap_or_default();
    for (key, value) in records {
        let size = key.len() + value.len() + BATCH_OVERHEAD;
        if size > limit {
            let (key, topic) = (key.clone(), topic.name.to_owned());
            return Err(Error::TooLarge { key, size, topic, limit });
        }
    }
    let producer: BaseProducer<DeliveryErrors> = topic
        .endpoints
        .kafka
        .client_config()
        .set("enable.idempotence", "true")
        .set("acks", "all")
        // docs/adr/0013-one-request-at-a-time.md
        .set("max.in.flight.requests.per.connection", "1")
        // The partitioner of the Java clients, so that a key has the same partition in every producer.
        .set("partitioner", "murmur2_random")
        .set("message.max.bytes", limit.to_string())
        .set("message.timeout.ms", DELIVERY_TIMEOUT.as_millis().to_string())
        .create_with_context(DeliveryErrors::default())
        .map_err(|source| topic.error("creating a producer", source))?;
    for (key, value) in records {
        send(topic, &producer, key, value)?;
    }
    producer.flush(DELIVERY_TIMEOUT).map_err(|source| topic.error("waiting for acknowledgement", source))?;
    match producer.context().first() {
        None => Ok(()),
        Some(code) => Err(topic.delivery_error(code)),
    }
}

fn send<R: Record>(
    topic: &GovernanceTopic<'_, R>,
    producer: &BaseProducer<DeliveryErrors>,
    key: &str,
    value: &[u8],
) -> Result<(), Error> {
    let deadline = Instant::now() + DELIVERY_TIMEOUT;
    let mut record = BaseRecord::to(topic.name).key(key).payload(value);
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), unsent))
                if Instant::now() < deadline =>
            {
                producer.poll(Duration::from_millis(10));
                record = unsent;
            }
            Err((source, _)) => return Err(topic.error("appending", source)),
        }
    }
}

/// Keeps the error of the first record that was not delivered.
#[derive(Default)]
struct DeliveryErrors(Mutex<Option<RDKafkaErrorCode>>);

impl DeliveryErrors {
    fn first(&self) -> Option<RDKafkaErrorCode> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for DeliveryErrors {}

impl ProducerContext for DeliveryErrors {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
            self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(code);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AgentState, ToolEffect};

    fn agent(description: Option<&str>) -> Agent {
        Agent {
            tenant_id: "acme".into(),
            agent_id: "clerk".into(),
            name: "Clerk".into(),
            owner: "desk".into(),
            roles: vec!["clerk".into()],
            state: AgentState::Active,
            description: description.map(str::to_owned),
        }
    }

    fn tool(description: Option<&str>) -> Tool {
        Tool {
            tenant_id: "acme".into(),
            name: "book".into(),
            owner: "desk".into(),
            effect: ToolEffect::Write,
            description: description.map(str::to_owned),
        }
    }

    #[test]
    fn entry_is_pushed_again_only_if_its_record_differs() {
        for (description, current, is_unchanged) in [
            (Some(""), None, true),
            (None, None, true),
            (Some("books"), Some("books"), true),
            (Some("books"), None, false),
            (Some(""), Some("books"), false),
        ] {
            // Current entries are decoded from records.
            let registered = RegisteredAgent { agent: agent(current), reason: "a reason".into() };
            let agents = BTreeMap::from([(registered.key(), registered)]);
            let agent = [agent(description)];
            let (unchanged, changed) = unchanged_and_changed(&agent, Agent::key, &agents, same_agent);
            assert_eq!((unchanged.len(), changed.len()), if is_unchanged { (1, 0) } else { (0, 1) });
            let tools = BTreeMap::from([(tool(current).key(), tool(current))]);
            let tool = [tool(description)];
            let (unchanged, changed) = unchanged_and_changed(&tool, Tool::key, &tools, same_tool);
            assert_eq!((unchanged.len(), changed.len()), if is_unchanged { (1, 0) } else { (0, 1) });
        }
    }

    #[test]
    fn push_keeps_the_reason_as_long_as_the_state_stays() {
        let suspended = Agent { state: AgentState::Suspended, ..agent(None) };
        let registered = RegisteredAgent { agent: suspended.clone(), reason: "a reason".into() };
        let current = BTreeMap::from([(registered.key(), registered)]);
        let renamed = Agent { name: "Other".into(), ..suspended };
        assert_eq!(reason_of_state(&renamed, &current), "a reason");
        assert_eq!(reason_of_state(&agent(None), &current), "", "the file resumes the agent");
        assert_eq!(reason_of_state(&renamed, &BTreeMap::new()), "", "a new agent");
    }
}
