//! Pushes and lists agents and tools.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use agentgov_schemas::Record;
use agentgov_schemas::governance::{AgentState, ToolState};
use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use serde::Serialize;

use crate::fold::fold;
use crate::settle::{Entry, LoggedEntry, Updated, readable, update};
use crate::source::GovernanceTopic;
use crate::{Agent, Error, Listing, RegisteredAgent, RegisteredTool, RegistryContext, Tool};

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
    /// Keys of tools that are suspended.
    pub still_suspended_tools: Vec<String>,
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
    let updated = update(context, &keys, pushed_by, |key, entries, own| {
        let agent = agents.get(key).ok_or_else(|| Error::Encode {
            key: key.to_owned(),
            message: "expected an agent of the push, found none".to_owned(),
        })?;
        Ok(pushed_agent(agent, entries, own))
    })?;
    let mut summary = PushSummary::default();
    for (key, Updated { entry: RegisteredAgent { agent, .. }, acknowledged, .. }) in updated {
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
    entries: &[LoggedEntry<RegisteredAgent>],
    own: Option<&RegisteredAgent>,
) -> RegisteredAgent {
    let last = entries.iter().rev().find_map(readable);
    let logged = || own.into_iter().chain(last);
    let state = logged().map(|entry| entry.agent.state).chain([agent.state]).max_by_key(|state| rank(*state));
    let state = state.unwrap_or(agent.state);
    let reason = logged().find(|entry| entry.agent.state == state).map(|entry| entry.reason.clone());
    // Entries have no description, or one that is not empty.
    let description = agent.description.clone().filter(|description| !description.is_empty());
    let non_empty = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let (sponsor, version) = (non_empty(&agent.sponsor), non_empty(&agent.version));
    let agent = Agent { state, description, sponsor, version, ..agent.clone() };
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

/// Appends every new or changed tool. A push changes neither the accepted definition of a tool nor its state.
pub fn push_tools(
    context: RegistryContext<'_>,
    tools: &[Tool],
    pushed_by: &str,
) -> Result<PushSummary, Error> {
    let tools: BTreeMap<String, &Tool> = tools.iter().map(|tool| (tool.key(), tool)).collect();
    let keys: BTreeSet<String> = tools.keys().cloned().collect();
    let updated = update(context, &keys, pushed_by, |key, entries, own| {
        let tool = tools.get(key).ok_or_else(|| Error::Encode {
            key: key.to_owned(),
            message: "expected a tool of the push, found none".to_owned(),
        })?;
        Ok(pushed_tool(tool, entries, own))
    })?;
    let mut summary = PushSummary::default();
    for (key, Updated { entry, acknowledged, .. }) in updated {
        if entry.state == ToolState::Suspended {
            summary.still_suspended_tools.push(key.clone());
        }
        if acknowledged.is_some() { &mut summary.pushed } else { &mut summary.unchanged }.push(key);
    }
    Ok(summary)
}

/// Derives the entry that a push of `tool` appends after `entries`: the last one, with the content of the file. For the suspension of
/// an `own` entry, see [`pushed_agent`].
pub(crate) fn pushed_tool(
    tool: &Tool,
    entries: &[LoggedEntry<RegisteredTool>],
    own: Option<&RegisteredTool>,
) -> RegisteredTool {
    last_tool(RegisteredTool::of_tool(&tool.tenant_id, &tool.name), entries, own).with_file(tool)
}

/// Returns the last of `entries`, or `blank` if there is none, with the suspension of the `own` entry.
pub(crate) fn last_tool(
    blank: RegisteredTool,
    entries: &[LoggedEntry<RegisteredTool>],
    own: Option<&RegisteredTool>,
) -> RegisteredTool {
    let last = entries.iter().rev().find_map(readable).cloned().unwrap_or(blank);
    match own {
        Some(own) if own.state == ToolState::Suspended && last.state == ToolState::Active => {
            RegisteredTool { state: own.state, reason: own.reason.clone(), ..last }
        }
        _ => last,
    }
}

/// Lists the last entry of each agent, in the order of their keys.
pub fn list_agents(context: RegistryContext<'_>) -> Result<Listing<RegisteredAgent>, Error> {
    list(context)
}

/// Lists the last entry of each tool and server, in the order of their keys.
pub fn list_tools(context: RegistryContext<'_>) -> Result<Listing<RegisteredTool>, Error> {
    list(context)
}

fn list<E: Entry>(context: RegistryContext<'_>) -> Result<Listing<E>, Error> {
    let mut last = BTreeMap::new();
    let unreadable = fold(&context.topic::<E::Record>()?, |_, decoded| {
        let entry = E::read(decoded)?.entry?;
        last.insert(entry.key(), entry);
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
    use agentgov_schemas::Digest;

    use super::*;
    use crate::{AcceptedDefinition, AgentState, ToolEffect};

    fn agent(description: Option<&str>) -> Agent {
        Agent {
            tenant_id: "acme".into(),
            agent_id: "clerk".into(),
            name: "Clerk".into(),
            owner: "desk".into(),
            roles: vec!["clerk".into()],
            state: AgentState::Active,
            description: description.map(str::to_owned),
            sponsor: None,
            version: None,
            environments: vec![],
        }
    }

    fn tool(description: Option<&str>) -> Tool {
        Tool {
            tenant_id: "acme".into(),
            server: None,
            name: "book".into(),
            owner: "desk".into(),
            effect: ToolEffect::Write,
            data_classes: vec![],
            description: description.map(str::to_owned),
        }
    }

    fn logged(state: AgentState, description: Option<&str>, reason: &str) -> LoggedEntry<RegisteredAgent> {
        let agent = Agent { state, ..agent(description) };
        LoggedEntry { offset: 0, entry: Ok(RegisteredAgent { agent, reason: reason.into() }) }
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
            assert_eq!(entry.entry.unwrap() == pushed, is_unchanged, "{description:?} {current:?}");
            let current = pushed_tool(&tool(current), &[], None);
            let logged = LoggedEntry { offset: 0, entry: Ok(current.clone()) };
            assert_eq!(pushed_tool(&tool(description), &[logged], None) == current, is_unchanged);
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
                    entries.push(LoggedEntry { offset: 0, entry: Ok(agent) });
                }
                let is_retired = stopped == Retired || pushes.contains(&Retired);
                let expected = if is_retired { Retired } else { Suspended };
                let last = entries.last().unwrap().entry.as_ref().unwrap();
                assert_eq!(last.agent.state, expected, "{stopped:?} {pushes:?}");
            }
        }
    }

    #[test]
    fn push_keeps_the_accepted_definition_and_the_state_of_a_tool() {
        let accepted = RegisteredTool {
            state: ToolState::Suspended,
            reason: "a reason".into(),
            definition: AcceptedDefinition { digest: Some(Digest::of(b"{}")), json: "{}".into() },
            ..RegisteredTool::of_tool("acme", "book")
        };
        let file = tool(Some("books"));
        let expected = RegisteredTool {
            owner: "desk".into(),
            effect: Some(ToolEffect::Write),
            description: Some("books".into()),
            ..accepted.clone()
        };
        let mut entries = vec![LoggedEntry { offset: 0, entry: Ok(accepted.clone()) }];
        assert_eq!(pushed_tool(&file, &entries, None), expected);
        // Neither an entry that this build cannot read nor another push ends the suspension that an own entry has kept.
        entries.push(LoggedEntry { offset: 1, entry: Err("a later version".into()) });
        assert_eq!(pushed_tool(&file, &entries, None), expected);
        let resumed = RegisteredTool { state: ToolState::Active, ..accepted };
        entries.push(LoggedEntry { offset: 2, entry: Ok(resumed) });
        assert_eq!(pushed_tool(&file, &entries, Some(&expected)), expected);
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
            entries.push(LoggedEntry { offset: 1, entry: Err("a later version".into()) });
            assert_eq!(pushed_agent(&renamed, &entries, None), expected, "{current:?} {pushed:?}");
        }
    }
}
