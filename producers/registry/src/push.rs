//! Pushes and lists agents and tools.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use agentgov_schemas::Record;
use agentgov_schemas::governance::{AgentEntry, AgentState, ToolEntry};
use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use serde::Serialize;

use crate::agents::{LoggedEntry, UpdatedAgent, update_agents};
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
    /// Agents that stay suspended, although the push has them as active.
    pub still_suspended: Vec<Agent>,
    /// Agents that stay retired, although the push has them in another state.
    pub still_retired: Vec<Agent>,
}

/// Appends every new or changed agent. `pushed_by` names the person or job that pushes, for people. An agent that is missing in
/// `agents` stays unchanged; to stop an agent for ever, push it with `state: retired`. A suspended agent stays suspended: only
/// [`Suspension::Resume`](crate::Suspension::Resume) ends a suspension. A retired agent stays retired.
pub fn push_agents(
    context: RegistryContext<'_>,
    agents: &[Agent],
    pushed_by: &str,
) -> Result<PushSummary, Error> {
    let agents: BTreeMap<String, &Agent> = agents.iter().map(|agent| (agent.key(), agent)).collect();
    let keys: BTreeSet<String> = agents.keys().cloned().collect();
    let updated = update_agents(context, &keys, pushed_by, |key, entries, own| {
        let agent = agents.get(key).ok_or_else(|| Error::Encode {
            key: key.to_owned(),
            message: "expected an agent of the push, found none".to_owned(),
        })?;
        Ok(pushed_agent(agent, entries, own))
    })?;
    let mut summary = PushSummary::default();
    for (key, UpdatedAgent { agent: RegisteredAgent { agent, .. }, acknowledged, .. }) in updated {
        if agents.get(&key).is_some_and(|pushed| pushed.state != agent.state) {
            let is_retired = agent.state == AgentState::Retired;
            if is_retired { &mut summary.still_retired } else { &mut summary.still_suspended }.push(agent);
        }
        if acknowledged.is_some() { &mut summary.pushed } else { &mut summary.unchanged }.push(key);
    }
    Ok(summary)
}

/// Derives the entry that a push of `agent` appends after `entries`: a push never leads to a state that stops the agent less. `own` is
/// the last entry that this push has appended. If it keeps a suspension or a retirement, the next one does: an entry of another push
/// may follow from an earlier own one, which ended it.
pub(crate) fn pushed_agent(
    agent: &Agent,
    entries: &[LoggedEntry],
    own: Option<&RegisteredAgent>,
) -> RegisteredAgent {
    let last = entries.iter().rev().find_map(|entry| entry.agent.as_ref().ok());
    let logged = || own.into_iter().chain(last);
    let state = logged().map(|entry| entry.agent.state).chain([agent.state]).max_by_key(|state| rank(*state));
    let state = state.unwrap_or(agent.state);
    let reason = logged().find(|entry| entry.agent.state == state).map(|entry| entry.reason.clone());
    // Entries have no description, or one that is not empty.
    let description = agent.description.clone().filter(|description| !description.is_empty());
    let agent = Agent { state, description, ..agent.clone() };
    RegisteredAgent { agent, reason: reason.unwrap_or_default() }
}

/// Order in which a push changes states: never to a lower rank.
const fn rank(state: AgentState) -> u8 {
    match state {
        AgentState::Active => 0,
        AgentState::Suspended => 1,
        AgentState::Retired => 2,
    }
}

/// Appends every new or changed tool.
pub fn push_tools(
    context: RegistryContext<'_>,
    tools: &[Tool],
    pushed_by: &str,
) -> Result<PushSummary, Error> {
    let current = list_tools(context)?.entries.into_iter().map(|tool| (tool.key(), tool)).collect();
    let topic = context.topic::<ToolEntry<'static>>()?;
    let (unchanged, changed) = unchanged_and_changed(tools, &current);
    let mut encoder = topic.encoder()?;
    let records = changed
        .iter()
        .map(|tool| {
            let key = tool.key();
            let value = encoder
                .encode(&tool.to_record(pushed_by))
                .map_err(|e| Error::Encode { key: key.clone(), message: e.to_string() })?;
            Ok((key, value))
        })
        .collect::<Result<Vec<_>, Error>>()?;
    append(&topic, &records)?;
    Ok(PushSummary {
        pushed: records.into_iter().map(|(key, _)| key).collect(),
        unchanged: unchanged.into_iter().map(Tool::key).collect(),
        still_suspended: Vec::new(),
        still_retired: Vec::new(),
    })
}

/// Compares tools with their current entries, by their records: tools that differ in the file may have the same record, e.g. with
/// no description and with an empty one.
fn unchanged_and_changed<'t>(
    tools: &'t [Tool],
    current: &BTreeMap<String, Tool>,
) -> (Vec<&'t Tool>, Vec<&'t Tool>) {
    tools.iter().partition(|tool| {
        current.get(&tool.key()).is_some_and(|current| current.to_record("") == tool.to_record(""))
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

/// Acknowledged record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    /// Offset of the record, or a negative number if the broker did not return it.
    pub(crate) offset: i64,
    /// When the producer received the acknowledgement of all in-sync replicas.
    pub(crate) acknowledged: Instant,
}

/// Appends records in order, and returns the delivery of each key's last record when all in-sync replicas have all of them. After
/// an error some may be appended; a repeated push skips those.
pub(crate) fn append<R: Record>(
    topic: &GovernanceTopic<'_, R>,
    records: &[(String, Vec<u8>)],
) -> Result<BTreeMap<String, Delivery>, Error> {
    if records.is_empty() {
        return Ok(BTreeMap::new());
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
    let producer: BaseProducer<DeliveryReports> = topic
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
        .create_with_context(DeliveryReports::new())
        .map_err(|source| topic.error("creating a producer", source))?;
    for (key, value) in records {
        send(topic, &producer, key, value)?;
    }
    producer.flush(DELIVERY_TIMEOUT).map_err(|source| topic.error("waiting for acknowledgement", source))?;
    producer.context().take().map_err(|code| topic.delivery_error(code))
}

fn send<R: Record>(
    topic: &GovernanceTopic<'_, R>,
    producer: &BaseProducer<DeliveryReports>,
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

/// Keeps the deliveries by key, or the error of the first record that was not delivered.
struct DeliveryReports(Mutex<Result<BTreeMap<String, Delivery>, RDKafkaErrorCode>>);

impl DeliveryReports {
    fn new() -> Self {
        Self(Mutex::new(Ok(BTreeMap::new())))
    }

    fn take(&self) -> Result<BTreeMap<String, Delivery>, RDKafkaErrorCode> {
        std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), Ok(BTreeMap::new()))
    }
}

impl ClientContext for DeliveryReports {}

impl ProducerContext for DeliveryReports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let mut reports = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match (&mut *reports, result) {
            (Ok(deliveries), Ok(record)) => {
                let key = String::from_utf8_lossy(record.key().unwrap_or_default()).into_owned();
                deliveries.insert(key, Delivery { offset: record.offset(), acknowledged: Instant::now() });
            }
            (Ok(_), Err((error, _))) => {
                *reports = Err(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail));
            }
            (Err(_), _) => {}
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

    fn logged(state: AgentState, description: Option<&str>, reason: &str) -> LoggedEntry {
        let agent = Agent { state, ..agent(description) };
        LoggedEntry { offset: 0, agent: Ok(RegisteredAgent { agent, reason: reason.into() }) }
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
            let entry = logged(AgentState::Active, current, "a reason");
            let pushed = pushed_agent(&agent(description), std::slice::from_ref(&entry), None);
            assert_eq!(entry.agent.unwrap() == pushed, is_unchanged, "{description:?} {current:?}");
            let tools = BTreeMap::from([(tool(current).key(), tool(current))]);
            let tool = [tool(description)];
            let (unchanged, changed) = unchanged_and_changed(&tool, &tools);
            assert_eq!((unchanged.len(), changed.len()), if is_unchanged { (1, 0) } else { (0, 1) });
        }
    }

    #[test]
    fn no_sequence_of_pushes_makes_a_stopped_agent_active() {
        use AgentState::{Active, Retired, Suspended};
        let states = [Active, Suspended, Retired];
        for stopped in [Suspended, Retired] {
            for pushes in states.iter().flat_map(|a| states.iter().flat_map(|b| states.map(|c| [*a, *b, c])))
            {
                let mut entries = vec![logged(stopped, None, "why")];
                for state in pushes {
                    let agent = pushed_agent(&Agent { state, ..agent(None) }, &entries, None);
                    entries.push(LoggedEntry { offset: 0, agent: Ok(agent) });
                }
                let is_retired = stopped == Retired || pushes.contains(&Retired);
                let expected = if is_retired { Retired } else { Suspended };
                let last = entries.last().unwrap().agent.as_ref().unwrap();
                assert_eq!(last.agent.state, expected, "{stopped:?} {pushes:?}");
            }
        }
    }

    #[test]
    fn push_lifts_no_suspension_and_keeps_the_reason_as_long_as_the_state_stays() {
        use AgentState::{Active, Retired, Suspended};
        for (current, pushed, state, reason) in [
            (Some(Suspended), Active, Suspended, "a reason"),
            (Some(Suspended), Suspended, Suspended, "a reason"),
            (Some(Suspended), Retired, Retired, ""),
            (Some(Active), Active, Active, "a reason"),
            (Some(Active), Suspended, Suspended, ""),
            (Some(Active), Retired, Retired, ""),
            (Some(Retired), Active, Retired, "a reason"),
            (Some(Retired), Suspended, Retired, "a reason"),
            (Some(Retired), Retired, Retired, "a reason"),
            (None, Active, Active, ""),
            (None, Suspended, Suspended, ""),
        ] {
            let mut entries: Vec<_> =
                current.into_iter().map(|current| logged(current, None, "a reason")).collect();
            let renamed = Agent { name: "Other".into(), state: pushed, ..agent(None) };
            let expected = Agent { state, ..renamed.clone() };
            let expected = RegisteredAgent { agent: expected, reason: reason.into() };
            assert_eq!(pushed_agent(&renamed, &entries, None), expected, "{current:?} {pushed:?}");
            // An entry that this build cannot read ends no suspension.
            entries.push(LoggedEntry { offset: 1, agent: Err("a later version".into()) });
            assert_eq!(pushed_agent(&renamed, &entries, None), expected, "{current:?} {pushed:?}");
        }
    }
}
