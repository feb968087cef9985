//! Agents and tools, to and from their topics.

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
use crate::{Agent, Error, Listing, RegistryContext, Tool};

/// How long Kafka may take to acknowledge a record.
const DELIVERY: Duration = Duration::from_secs(30);
/// Kafka counts a batch with its headers against max.message.bytes.
const BATCH_OVERHEAD: usize = 512;

/// What a push did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PushSummary {
    /// Keys that were appended: new, or not what the topic held.
    pub pushed: Vec<String>,
    /// Keys that the topic held already, word for word.
    pub unchanged: Vec<String>,
}

/// Appends every agent that is not in the topic already as it is here. `pushed_by` says who pushed, for people. An agent
/// that is not in `agents` stays as it is: to stop one, say `state: retired`.
pub fn push_agents(
    context: RegistryContext<'_>,
    agents: &[Agent],
    pushed_by: &str,
) -> Result<PushSummary, Error> {
    let held = last_by_key(list_agents(context)?, Agent::key);
    let topic = context.topic::<AgentEntry<'static>>()?;
    push(&topic, agents, Agent::key, &held, same_agent, |agent, encoder| {
        encoder.encode(&agent.to_record(pushed_by))
    })
}

/// Appends every tool that is not in the topic already as it is here.
pub fn push_tools(
    context: RegistryContext<'_>,
    tools: &[Tool],
    pushed_by: &str,
) -> Result<PushSummary, Error> {
    let held = last_by_key(list_tools(context)?, Tool::key);
    let topic = context.topic::<ToolEntry<'static>>()?;
    push(&topic, tools, Tool::key, &held, same_tool, |tool, encoder| {
        encoder.encode(&tool.to_record(pushed_by))
    })
}

/// The last entry of every agent, in order of their keys.
pub fn list_agents(context: RegistryContext<'_>) -> Result<Listing<Agent>, Error> {
    let mut last = BTreeMap::new();
    let unreadable = fold(&context.topic::<AgentEntry<'static>>()?, |_, decoded| {
        let agent = Agent::from_record(&decoded.read::<AgentEntry<'_>>()?)?;
        last.insert(agent.key(), agent);
        Ok(())
    })?;
    Ok(Listing { entries: last.into_values().collect(), unreadable })
}

/// The last entry of every tool, in order of their keys.
pub fn list_tools(context: RegistryContext<'_>) -> Result<Listing<Tool>, Error> {
    let mut last = BTreeMap::new();
    let unreadable = fold(&context.topic::<ToolEntry<'static>>()?, |_, decoded| {
        let tool = Tool::from_record(&decoded.read::<ToolEntry<'_>>()?)?;
        last.insert(tool.key(), tool);
        Ok(())
    })?;
    Ok(Listing { entries: last.into_values().collect(), unreadable })
}

/// Compares as records: a file can say in two ways what a record has one word for, e.g. no description and an empty one.
fn same_agent(a: &Agent, b: &Agent) -> bool {
    a.to_record("") == b.to_record("")
}

/// As [`same_agent`].
fn same_tool(a: &Tool, b: &Tool) -> bool {
    a.to_record("") == b.to_record("")
}

fn last_by_key<T>(listing: Listing<T>, key: fn(&T) -> String) -> BTreeMap<String, T> {
    listing.entries.into_iter().map(|entry| (key(&entry), entry)).collect()
}

fn push<T, R: Record>(
    topic: &GovernanceTopic<'_, R>,
    entries: &[T],
    key: fn(&T) -> String,
    held: &BTreeMap<String, T>,
    same: fn(&T, &T) -> bool,
    encode: impl Fn(&T, &mut RecordEncoder<R>) -> Result<Vec<u8>, EncodeError>,
) -> Result<PushSummary, Error> {
    let (unchanged, changed) = unchanged_and_changed(entries, key, held, same);
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

fn unchanged_and_changed<'e, T>(
    entries: &'e [T],
    key: fn(&T) -> String,
    held: &BTreeMap<String, T>,
    same: fn(&T, &T) -> bool,
) -> (Vec<&'e T>, Vec<&'e T>) {
    entries.iter().partition(|entry| held.get(&key(entry)).is_some_and(|held| same(held, entry)))
}

/// Appends records in their order, and returns when all in-sync replicas have all of them. On an error some may be there:
/// pushing again is safe, since what is there is not pushed twice.
pub(crate) fn append<R: Record>(
    topic: &GovernanceTopic<'_, R>,
    records: &[(String, Vec<u8>)],
) -> Result<(), Error> {
    if records.is_empty() {
        return Ok(());
    }
    // A negative limit, which no checked topology has, takes nothing.
    let allowed = usize::try_from(topic.topic.max_message_bytes.value).unwrap_or_default();
    for (key, value) in records {
        let size = key.len() + value.len() + BATCH_OVERHEAD;
        if size > allowed {
            let (key, topic) = (key.clone(), topic.name.to_owned());
            return Err(Error::TooLarge { key, size, topic, allowed });
        }
    }
    let producer: BaseProducer<Failures> = topic
        .endpoints
        .kafka
        .client_config()
        .set("enable.idempotence", "true")
        .set("acks", "all")
        // docs/adr/0013-one-request-at-a-time.md
        .set("max.in.flight.requests.per.connection", "1")
        // As Java's clients: a key has the same partition whoever writes it.
        .set("partitioner", "murmur2_random")
        .set("message.max.bytes", allowed.to_string())
        .set("message.timeout.ms", DELIVERY.as_millis().to_string())
        .create_with_context(Failures::default())
        .map_err(|source| topic.error("creating a producer", source))?;
    for (key, value) in records {
        send(topic, &producer, key, value)?;
    }
    producer.flush(DELIVERY).map_err(|source| topic.error("waiting for acknowledgement", source))?;
    match producer.context().first() {
        None => Ok(()),
        Some(code) => Err(topic.delivery(code)),
    }
}

fn send<R: Record>(
    topic: &GovernanceTopic<'_, R>,
    producer: &BaseProducer<Failures>,
    key: &str,
    value: &[u8],
) -> Result<(), Error> {
    let deadline = Instant::now() + DELIVERY;
    let mut record = BaseRecord::to(topic.name).key(key).payload(value);
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back))
                if Instant::now() < deadline =>
            {
                producer.poll(Duration::from_millis(10));
                record = back;
            }
            Err((source, _)) => return Err(topic.error("appending", source)),
        }
    }
}

/// Hears of every record that was not delivered.
#[derive(Default)]
struct Failures(Mutex<Option<RDKafkaErrorCode>>);

impl Failures {
    fn first(&self) -> Option<RDKafkaErrorCode> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Failures {}

impl ProducerContext for Failures {
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
    fn an_entry_is_pushed_again_only_if_its_record_would_differ() {
        for (description, held, is_unchanged) in [
            (Some(""), None, true),
            (None, None, true),
            (Some("books"), Some("books"), true),
            (Some("books"), None, false),
            (Some(""), Some("books"), false),
        ] {
            // Held entries are what a record was read back as.
            let agents = BTreeMap::from([(agent(held).key(), agent(held))]);
            let agent = [agent(description)];
            let (unchanged, changed) = unchanged_and_changed(&agent, Agent::key, &agents, same_agent);
            assert_eq!((unchanged.len(), changed.len()), if is_unchanged { (1, 0) } else { (0, 1) });
            let tools = BTreeMap::from([(tool(held).key(), tool(held))]);
            let tool = [tool(description)];
            let (unchanged, changed) = unchanged_and_changed(&tool, Tool::key, &tools, same_tool);
            assert_eq!((unchanged.len(), changed.len()), if is_unchanged { (1, 0) } else { (0, 1) });
        }
    }
}
