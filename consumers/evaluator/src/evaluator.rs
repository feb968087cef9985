//! The evaluator as a [`Processor`]: its step, its changelog entries and its global tables.

use agentgov_enrichment::{AgentTable, Change, InvalidEntry, Session, ToolTable};
use agentgov_policy::{BundleTable, FoldOutcome, InternalError, Kernel, RequestCache};
use agentgov_processor::{OutputError, Outputs, Processor, Reject, RestoreError, RestoreValue, TableRecord};
use agentgov_schemas::Millis;
use agentgov_schemas::bounds::MAX_ID_BYTES;
use agentgov_schemas::event::ActionEvent;
use agentgov_schemas::governance::{AgentEntry, Bundle, KeyEntry, ToolEntry};
use agentgov_schemas::key::{SessionKey, check_tenant_id, partition_of};
use agentgov_schemas::reject::RejectReason;
use agentgov_schemas::state::{Progress, SessionState};
use agentgov_schemas::topology::{MissingRole, SessionLimits, Stage, Topology};
use agentgov_schemas::verdict::{ErrorCode, JudgeError, Origin, RecordFinding, TablePosition, Verdict};
use agentgov_schemas::{NotReadyReason, subject};
use agentgov_token::KeySet;

use crate::basis::{Basis, RecordedBasis};
use crate::bundle_alerts::BundleAlerts;
use crate::keys::{self, Entry, Key};
use crate::prior_decision::{CallToken, undecided};
use crate::refused_answer;
use crate::sessions::{SessionEntry, Sessions};

/// The stage that emits a verdict for each judged action.
#[derive(Debug)]
pub struct Evaluator {
    agents: AgentTable,
    tools: ToolTable,
    bundles: BundleTable,
    keys: KeySet,
    requests: RequestCache,
    bundle_alerts: BundleAlerts,
    basis: Basis,
    /// Copies each session before its step. Set after a step without a copy has failed, which costs a restore: other
    /// records may fail in the same way.
    copies_sessions: bool,
    /// True until the global tables are read to their end.
    is_starting: bool,
    limits: SessionLimits,
    /// Number of partitions of the actions topic.
    partitions: i32,
    agents_topic: String,
    tools_topic: String,
    bundles_topic: String,
    keys_topic: String,
}

impl Evaluator {
    /// Creates an evaluator with empty global tables.
    ///
    /// # Errors
    /// Fails if the topology has no session limits for the stage, no topic for actions, agents, tools, bundles or keys, if the
    /// stage does not fold the last four as global tables, or if it emits no evaluation bases.
    pub fn new(topology: &Topology, stage: &Stage) -> Result<Self, MissingRole> {
        let limits = stage.session.as_ref();
        let limits = limits.ok_or(MissingRole::Setting { stage: "evaluator", setting: "session" })?;
        let (bundles_topic, _) = topology.topic_of(subject::BUNDLE)?;
        Ok(Self {
            agents: AgentTable::default(),
            tools: ToolTable::default(),
            bundles: BundleTable::default(),
            keys: KeySet::default(),
            requests: RequestCache::default(),
            bundle_alerts: BundleAlerts::new(bundles_topic),
            basis: Basis::new(topology, stage, limits.value)?,
            copies_sessions: false,
            is_starting: true,
            limits: limits.value,
            partitions: topology.topic_of(subject::ACTION_EVENT)?.1.partitions.value,
            agents_topic: topology.topic_of(subject::AGENT)?.0.to_owned(),
            tools_topic: topology.topic_of(subject::TOOL)?.0.to_owned(),
            bundles_topic: bundles_topic.to_owned(),
            keys_topic: topology.topic_of(subject::KEY)?.0.to_owned(),
        })
    }
}

impl Processor for Evaluator {
    type Input<'a> = ActionEvent<'a>;
    type Partition = Sessions;

    fn partition(&self, partition: i32) -> Sessions {
        Sessions::new(partition)
    }

    fn restore(
        &self,
        sessions: &mut Sessions,
        key: &[u8],
        value: Option<RestoreValue<'_>>,
    ) -> Result<Option<i64>, RestoreError> {
        restore_entry(sessions, key, value)
    }

    fn step(
        &mut self,
        sessions: &mut Sessions,
        origin: &Origin<'_>,
        event: &ActionEvent<'_>,
        out: &mut Outputs,
    ) -> Result<(), Reject> {
        check_event(event)?;
        let mut expired = Vec::new();
        while let Some(stored) = sessions.take_expired(origin.logged_at, self.limits.ttl.0) {
            expired.push(stored);
        }
        let result = expired
            .iter()
            .try_for_each(|stored| emit_tombstones(&stored.name.0, &stored.name.1, &stored.session, out))
            .map_err(|e| Reject::from_output_error(&e))
            .and_then(|()| self.step_session(sessions, origin, event, out));
        if result.is_err() {
            expired.into_iter().for_each(|stored| sessions.reinsert(stored));
        }
        result
    }

    fn finish(
        &mut self,
        sessions: &mut Sessions,
        next_offset: i64,
        out: &mut Outputs,
    ) -> Result<(), OutputError> {
        sessions.flush_headers(|tenant_id, session_id, session| {
            write_entry(tenant_id, session_id, session, &Change::Header, out)
        })?;
        if self.has_pending_side_output(sessions) {
            self.bundle_alerts.emit_from(sessions.bundles_announced, out)?;
            sessions.bundles_announced = self.bundles.next_offset();
        }
        self.basis.emit_if_changed(sessions.partition, &mut sessions.basis, next_offset, out)?;
        let progress = Some(Progress {
            next_offset,
            bundles_announced: sessions.bundles_announced,
            basis: sessions.basis.digest,
        });
        let entry = SessionState { progress, ..SessionState::new("", "") };
        out.state(keys::PROGRESS, Some(&entry))
    }

    /// Returns true if alerts about refused bundles are pending. Only partition 0 emits them, so that each refused
    /// bundle has one alert.
    fn has_pending_side_output(&self, sessions: &Sessions) -> bool {
        sessions.partition == 0 && self.bundle_alerts.any_from(sessions.bundles_announced)
    }

    fn for_each_tenant(&self, sessions: &Sessions, each: &mut dyn FnMut(&str)) {
        sessions.tenants().for_each(each);
    }

    fn side_output_watermark(&self, sessions: &Sessions) -> i64 {
        sessions.bundles_announced
    }

    fn update_table(&mut self, topology: &Topology, record: &TableRecord<'_>) {
        self.basis.fold(record.topic, record.offset);
        let value = record.value.map_err(|reason| RestoreError(reason.to_owned()));
        if topology.topic_of(subject::AGENT).is_ok_and(|(topic, _)| topic == record.topic) {
            match value.and_then(|value| value.decode::<AgentEntry<'_>>()) {
                Ok(entry) => self.agents.fold(&entry, record.offset),
                Err(error) => {
                    self.agents.skip(record.offset);
                    tracing::error!(topic = record.topic, offset = record.offset, %error, "skipped an agent that cannot be read");
                }
            }
            return;
        }
        if self.tools_topic == record.topic {
            match value.and_then(|value| value.decode::<ToolEntry<'_>>()) {
                Ok(entry) => self.tools.fold(&entry, record.offset),
                Err(error) => {
                    self.tools.skip(record.offset);
                    tracing::error!(topic = record.topic, offset = record.offset, %error, "skipped a tool that cannot be read");
                }
            }
            return;
        }
        if self.keys_topic == record.topic {
            self.fold_key(record, value);
            return;
        }
        match value.and_then(|value| value.decode::<Bundle<'_>>()) {
            Ok(bundle) if self.is_starting => {
                self.bundles.defer(&bundle, record.offset, record.logged_at);
            }
            Ok(bundle) => {
                let folded = self.bundles.fold(&bundle, record.offset, record.logged_at);
                if let FoldOutcome::Refused(refused) = folded {
                    self.bundle_alerts.add(&refused);
                }
            }
            Err(error) => {
                self.bundles.skip(record.offset);
                self.bundle_alerts.add_unreadable(record, &error.to_string());
            }
        }
    }

    fn tables_loaded(&mut self) {
        self.is_starting = false;
        let compiled = self.bundles.compile_deferred();
        tracing::info!(pushed = compiled.pushed, compiled = compiled.compiled, "compiled the newest bundles");
        compiled.refused.iter().for_each(|refused| self.bundle_alerts.add(refused));
    }

    /// Reports the stage as not ready while the last bundle of an environment does not load.
    fn readiness(&self, report: &mut dyn FnMut(NotReadyReason, Option<String>)) {
        let refused = self.bundles.refused_by_environment().values().next();
        let explanation = refused.map(|refused| {
            format!(
                "{} offset {}: bundle {} {} does not load; the last good one stays active: {}",
                self.bundles_topic,
                refused.offset,
                refused.name,
                refused.version,
                refused.first_problem()
            )
        });
        report(NotReadyReason::Bundle, explanation);
    }
}

impl Evaluator {
    /// Returns the kernel over the tables as they are folded now.
    pub fn kernel(&self) -> Kernel<'_> {
        Kernel {
            agents: &self.agents,
            tools: &self.tools,
            bundles: &self.bundles,
            keys: &self.keys,
            limits: self.limits,
            agents_topic: &self.agents_topic,
            tools_topic: &self.tools_topic,
            bundles_topic: &self.bundles_topic,
            requests: &self.requests,
        }
    }

    /// Applies a record of the topic of keys.
    fn fold_key(&mut self, record: &TableRecord<'_>, value: Result<RestoreValue<'_>, RestoreError>) {
        let TableRecord { topic, offset, logged_at, .. } = *record;
        match value.and_then(|value| value.decode::<KeyEntry<'_>>()) {
            Ok(entry) => {
                if let Err(error) = self.keys.fold(&entry, offset, logged_at) {
                    tracing::error!(topic, offset, %error, "ignored a key");
                }
            }
            Err(error) => {
                self.keys.skip(offset);
                tracing::error!(topic, offset, %error, "skipped a key that cannot be read");
            }
        }
    }

    /// Applies one event to its session. On an error the session is unchanged, or the reject has `undo` set.
    fn step_session(
        &mut self,
        sessions: &mut Sessions,
        origin: &Origin<'_>,
        event: &ActionEvent<'_>,
        out: &mut Outputs,
    ) -> Result<(), Reject> {
        if !event.is_applied() && !event.is_approval() {
            return Ok(());
        }
        let ActionEvent { tenant_id, session_id, .. } = *event;
        let Some(SessionEntry { stored, dirty, is_new }) =
            sessions.get_or_insert(tenant_id, session_id, origin.logged_at)
        else {
            return Err(Reject::internal(missing_session(tenant_id, session_id)));
        };
        let fits = out.state_fits(max_entry_bytes(event, &stored.session));
        let before = (!is_new && (self.copies_sessions || !fits)).then(|| stored.session.clone());
        let failed = match self.judge(&mut stored.session, origin, event, fits, out) {
            Ok(HeaderWrite::Deferred) => {
                dirty.mark(stored);
                return Ok(());
            }
            Ok(HeaderWrite::Done) => {
                // An approval that does not count begins no session.
                if is_new && stored.session.is_vacant() {
                    sessions.remove(tenant_id, session_id);
                }
                return Ok(());
            }
            Err(failed) => failed,
        };
        match before {
            Some(before) => stored.session = before,
            None if is_new => drop(sessions.remove(tenant_id, session_id)),
            None if failed.is_unchanged => {}
            None => {
                self.copies_sessions = true;
                return Err(Reject { undo: true, ..failed.reject });
            }
        }
        Err(failed.reject)
    }

    /// Applies `event` to its session and emits its verdict and the changed entries. Leaves the session's header to
    /// [`Processor::finish`] if `fits`: then every entry that the event can lead to fits its topic.
    fn judge(
        &self,
        session: &mut Session,
        origin: &Origin<'_>,
        event: &ActionEvent<'_>,
        fits: bool,
        out: &mut Outputs,
    ) -> Result<HeaderWrite, FailedStep> {
        let kernel = self.kernel();
        let token = CallToken::read(event, session, &self.keys, origin.logged_at);
        let claimed = token.as_ref().and_then(|token| token.approval(event, origin.partition));
        let mut step =
            kernel.step_claiming(session, event, origin, claimed).map_err(FailedStep::unchanged)?;
        // A repeat has no prior decision: the verdict of the first event has it.
        let judgement = step.verdict.as_ref().filter(|judgement| judgement.last_sequence.is_none());
        let finding = token.zip(judgement).map(|(token, judgement)| {
            let finding = token.compare(event, judgement, &kernel, origin, session, &mut step.changes);
            finding.refuse_call(event, origin, judgement.call_index, session, &mut step.refused);
            finding
        });
        for finding in &step.findings {
            tracing::warn!(
                topic = origin.topic,
                partition = origin.partition,
                offset = origin.offset,
                code = finding.code.as_str(),
                subject = finding.subject,
                message = finding.message,
                "cannot extract every fact that tools.yaml declares from a result"
            );
        }
        let mut header = HeaderWrite::Done;
        for change in &step.changes {
            if *change == Change::Header && fits {
                header = HeaderWrite::Deferred;
                continue;
            }
            write_entry(event.tenant_id, event.session_id, session, change, out)?;
        }
        let key = || SessionKey { tenant_id: event.tenant_id, session_id: event.session_id }.to_bytes();
        if let Some(call) = &step.refused {
            refused_answer::emit_alert(&key(), event, origin, call, out)?;
        }
        if let Some(mut judgement) = step.verdict {
            let key = key();
            if partition_of(&key, self.partitions) != Some(origin.partition) {
                judgement.findings.insert(0, RecordFinding::Misplaced);
            }
            let prior_decision = judgement.last_sequence.is_none().then(|| {
                let required = judgement.bundle.as_ref().is_some_and(|bundle| bundle.requires_decisions());
                finding.as_ref().map_or_else(|| undecided(required), |finding| finding.record(required))
            });
            let mut verdict = Verdict { prior_decision, ..judgement.verdict(event, origin) };
            if finding.is_some() || verdict.approval.is_some() {
                verdict
                    .tables
                    .push(TablePosition { topic: &self.keys_topic, next_offset: self.keys.next_offset() });
            }
            emit_verdict(&key, verdict, out)?;
        }
        Ok(header)
    }
}

/// Applies one record of the changelog. Returns the input offset of a progress entry.
///
/// # Errors
/// If the evaluator cannot have written the record.
pub(crate) fn restore_entry(
    sessions: &mut Sessions,
    key: &[u8],
    value: Option<RestoreValue<'_>>,
) -> Result<Option<i64>, RestoreError> {
    let Some(value) = value else {
        apply_tombstone(sessions, &keys::parse(key)?)?;
        return Ok(None);
    };
    let state: SessionState<'_> = value.decode()?;
    if let Some(progress) = state.progress {
        sessions.bundles_announced = progress.bundles_announced;
        sessions.basis = RecordedBasis { digest: progress.basis, next_offset: progress.next_offset };
        return Ok(Some(progress.next_offset));
    }
    // The header may come later, or never if the entry is left over from a removed session.
    let now = state.header.as_ref().map_or(Millis(0), |header| header.last_logged_at);
    let Some(entry) = sessions.get_or_insert(state.tenant_id, state.session_id, now) else {
        return Err(RestoreError(missing_session(state.tenant_id, state.session_id)));
    };
    let session = &mut entry.stored.session;
    if let Some(header) = &state.header {
        session.restore_header(header).map_err(invalid_entry)?;
    }
    if let Some(fact) = &state.fact {
        session.restore_fact(fact);
    }
    if let Some(call) = &state.call {
        session.restore_call(call);
    }
    if let Some(numbers) = &state.numbers {
        session.restore_numbers(numbers).map_err(invalid_entry)?;
    }
    if let Some(token) = &state.token {
        session.restore_token(token);
    }
    if let Some(approval) = &state.approval {
        session.restore_approval(approval);
    }
    Ok(None)
}

/// Rejects an event whose ids the evaluator does not take.
pub(crate) fn check_event(event: &ActionEvent<'_>) -> Result<(), Reject> {
    check_tenant_id(event.tenant_id)
        .map_err(|e| Reject::new(RejectReason::InvalidTenantId, e.to_string()))?;
    check_ids(event)
}

/// Rejects an event with an empty id: entries under an empty id would collide.
fn check_ids(event: &ActionEvent<'_>) -> Result<(), Reject> {
    let detail = |field: &str| format!("{field}: expected a name, found an empty string");
    if event.session_id.is_empty() {
        return Err(Reject::new(RejectReason::EmptySessionId, detail("session_id")));
    }
    if event.source.id.is_empty() {
        return Err(Reject::new(RejectReason::EmptySourceId, detail("source.id")));
    }
    if event.event_id.is_empty() {
        return Err(Reject::new(RejectReason::EmptyEventId, detail("event_id")));
    }
    check_lengths(event)
}

/// Rejects an event with an id above [`MAX_ID_BYTES`]. Rejected here, such an event costs nothing; rejected when its entry is
/// written, it costs a restore of all partitions.
fn check_lengths(event: &ActionEvent<'_>) -> Result<(), Reject> {
    let Some((field, found)) = event.too_long_id() else { return Ok(()) };
    let detail = format!("{field}: expected at most {MAX_ID_BYTES} bytes, found {found}");
    Err(Reject::new(RejectReason::IdTooLong, detail))
}

/// Removes the entry that a tombstone of the changelog deletes.
fn apply_tombstone(sessions: &mut Sessions, key: &Key) -> Result<(), RestoreError> {
    let Key::Session { tenant_id, session_id, entry } = key else { return Ok(()) };
    match entry {
        Entry::Header => {
            sessions.remove(tenant_id, session_id);
        }
        Entry::Fact { kind, key } => {
            if let Some(session) = sessions.get_mut(tenant_id, session_id) {
                session.restore_fact_tombstone(kind, key);
            }
        }
        Entry::Call { call_id } => {
            if let Some(session) = sessions.get_mut(tenant_id, session_id) {
                session.restore_call_tombstone(call_id);
            }
        }
        Entry::Numbers { source, block } => {
            if let Some(session) = sessions.get_mut(tenant_id, session_id) {
                session.restore_numbers_tombstone(source, *block).map_err(invalid_entry)?;
            }
        }
        Entry::Token { id, expires_at } => {
            if let Some(session) = sessions.get_mut(tenant_id, session_id) {
                session.restore_token_tombstone(id, *expires_at);
            }
        }
        Entry::Approval { id } => {
            if let Some(session) = sessions.get_mut(tenant_id, session_id) {
                session.restore_approval_tombstone(id);
            }
        }
        // This version has restored no such entry: a value is read by its schema, without the fields of later versions.
        Entry::Unknown => {}
    }
    Ok(())
}

/// Emits a tombstone for each entry that the changelog holds of a session.
fn emit_tombstones(
    tenant_id: &str,
    session_id: &str,
    session: &Session,
    out: &mut Outputs,
) -> Result<(), OutputError> {
    for gone in session.tombstones().iter().chain([&Change::Header]) {
        out.state::<SessionState<'_>>(&key_of(tenant_id, session_id, gone)?, None)?;
    }
    Ok(())
}

/// Writes one changed entry of a session.
fn write_entry(
    tenant_id: &str,
    session_id: &str,
    session: &Session,
    change: &Change,
    out: &mut Outputs,
) -> Result<(), OutputError> {
    let mut entry = SessionState::new(tenant_id, session_id);
    // An absent entry is an error: writing a tombstone instead would delete it silently.
    let is_there = match change {
        Change::Header => {
            entry.header = Some(session.header());
            true
        }
        Change::Fact { kind, key } => {
            entry.fact = session.fact(kind, key);
            entry.fact.is_some()
        }
        Change::Call { call_id } => {
            entry.call = session.call(call_id);
            entry.call.is_some()
        }
        Change::Numbers { source, block } => {
            entry.numbers = session.numbers(source, *block);
            entry.numbers.is_some()
        }
        Change::Token { id, expires_at } => {
            entry.token = session.token(id, *expires_at);
            entry.token.is_some()
        }
        Change::Approval { id } => {
            entry.approval = session.approval_entry(id);
            entry.approval.is_some()
        }
        Change::FactRemoved { .. }
        | Change::ApprovalRemoved { .. }
        | Change::CallRemoved { .. }
        | Change::NumbersRemoved { .. }
        | Change::TokenRemoved { .. } => {
            return out.state::<SessionState<'_>>(&key_of(tenant_id, session_id, change)?, None);
        }
    };
    if !is_there {
        return Err(OutputError::Encode(format!(
            "expected an entry for {change:?} in the session, found none"
        )));
    }
    out.state(&key_of(tenant_id, session_id, change)?, Some(&entry))
}

fn key_of(tenant_id: &str, session_id: &str, change: &Change) -> Result<Vec<u8>, OutputError> {
    keys::for_change(tenant_id, session_id, change).map_err(|e| OutputError::Encode(e.to_string()))
}

/// Returns an upper bound for the bytes, key and value, of an entry that the event leads to. Names in tools.yaml of more
/// than [`MAX_ID_BYTES`] may exceed it.
fn max_entry_bytes(event: &ActionEvent<'_>, session: &Session) -> usize {
    // Once in the key as JSON, where a character takes up to six bytes, and once in the value.
    let ids = 7 * (event.tenant_id.len() + event.session_id.len());
    let arguments = event.tool.as_ref().map_or(0, |tool| tool.arguments.data.len());
    let content = event.result.as_ref().map_or(0, |result| result.content.data.len());
    ids + session.max_header_bytes() + arguments.max(content) + MAX_NAMES_BYTES
}

/// Bytes of the other names in an entry: a source, a call, a tool, or a fact with its kind, each in key and value.
const MAX_NAMES_BYTES: usize = 16 * MAX_ID_BYTES;

/// Emits a verdict. If derived values make it too large for its topic, emits it without the field `known`: the decision
/// is the same, the digest still covers the omitted values, and an error in the verdict names the omission.
fn emit_verdict(key: &[u8], verdict: Verdict<'_>, out: &mut Outputs) -> Result<(), OutputError> {
    match out.emit(key, &verdict) {
        Err(OutputError::TooLarge { size, limit, .. }) => {
            let message = format!(
                "expected a verdict of at most {limit} bytes, found {size}; the derived values, facts and counters are omitted"
            );
            let mut shorter = Verdict { known: "{}", ..verdict };
            shorter.errors.truncate(8);
            shorter.errors.push(JudgeError {
                code: ErrorCode::KnownTooLarge.into(),
                subject: "known",
                message: &message,
            });
            out.emit(key, &shorter)
        }
        other => other,
    }
}

/// State of the session's header after a step.
enum HeaderWrite {
    /// The header is written, or did not change.
    Done,
    /// The header is written at the end of the batch.
    Deferred,
}

/// A step that failed.
struct FailedStep {
    reject: Reject,
    /// True if the session is unchanged.
    is_unchanged: bool,
}

impl FailedStep {
    fn unchanged(error: InternalError) -> Self {
        Self { reject: Reject::internal(error.to_string()), is_unchanged: true }
    }
}

impl From<OutputError> for FailedStep {
    fn from(error: OutputError) -> Self {
        Self { reject: Reject::from_output_error(&error), is_unchanged: false }
    }
}

fn invalid_entry(error: InvalidEntry) -> RestoreError {
    RestoreError(error.to_string())
}

fn missing_session(tenant_id: &str, session_id: &str) -> String {
    format!("expected session {session_id} of tenant {tenant_id} in memory, found none")
}

#[cfg(test)]
mod tests {
    use agentgov_schemas::Digest;
    use agentgov_schemas::Micros;
    use agentgov_schemas::event::{Agent, Payload, Source, ToolCall};
    use agentgov_schemas::topology::MissingRole;
    use agentgov_schemas::verdict::Origin;
    use agentgov_schemas::wire::SchemaId;

    use agentgov_schemas::catalogue;

    use super::*;

    fn call(session_id: &str) -> ActionEvent<'_> {
        let data = b"{}";
        let arguments = Payload { data, sha256: Digest::of(data), media_type: "", redacted: false };
        ActionEvent {
            environment: "demo",
            occurred_at: Micros(0),
            tool: Some(ToolCall::new("look", "c", arguments)),
            ..ActionEvent::new(
                "e",
                catalogue::TOOL_INVOKED,
                SessionKey { tenant_id: "t", session_id },
                Source { id: "p", sequence: 0 },
                Agent::new("a"),
            )
        }
    }

    /// If the step returned `Ok`, the commit would leave the event without a verdict for ever.
    #[test]
    fn event_without_its_session_is_rejected_and_later_ones_are_judged() {
        let topology = Topology::embedded().unwrap();
        let stage = topology.stage("evaluator").unwrap();
        let mut evaluator = Evaluator::new(&topology, stage).unwrap();
        let mut out = Outputs::new(&topology, stage, |_, _| Ok::<_, MissingRole>(SchemaId(1))).unwrap();
        let mut sessions = evaluator.partition(0);
        let mut step = |sessions: &mut Sessions, session_id: &str, offset: i64| {
            let origin = Origin { topic: "actions", partition: 0, offset, logged_at: Millis(offset) };
            evaluator.step(sessions, &origin, &call(session_id), &mut out)
        };
        step(&mut sessions, "lost", 0).unwrap();
        sessions.corrupt("t", "lost");
        let reject = step(&mut sessions, "lost", 1).unwrap_err();
        assert_eq!((reject.reason, reject.undo), (RejectReason::Internal, false));
        step(&mut sessions, "other", 2).unwrap();
    }

    #[test]
    fn changed_entry_absent_from_the_session_is_an_error_and_writes_nothing() {
        let topology = Topology::embedded().unwrap();
        let stage = topology.stage("evaluator").unwrap();
        let mut out = Outputs::new(&topology, stage, |_, _| Ok::<_, MissingRole>(SchemaId(1))).unwrap();
        for change in [
            Change::Fact { kind: "k".into(), key: "x".into() },
            Change::Call { call_id: "c".into() },
            Change::Numbers { source: "p".into(), block: 0 },
            Change::Token { id: "i".into(), expires_at: Millis(0) },
        ] {
            let error = write_entry("t", "s", &Session::new(), &change, &mut out).unwrap_err();
            assert_eq!(Reject::from_output_error(&error).reason, RejectReason::Internal, "{change:?}");
        }
        assert_eq!(out.iter().count(), 0);
    }
}
