//! Requests for a person's approval of one call, with their decisions. Policies do not see them; the kernel lets an approval
//! stand for a rule that asks.

use std::collections::BTreeMap;

use agentgov_schemas::state::{ApprovalState, StoredApproval};
use agentgov_schemas::verdict::{ApprovalFinding, DecisionCause};
use agentgov_schemas::{Digest, Millis, OpenEnum};

use super::Change;

/// Maximum number of approvals that a session keeps: open ones, and decided or used ones until they expire.
pub const MAX_APPROVALS: usize = 64;
/// Time for which an expired approval is kept, in milliseconds. Append times of a partition can decrease, and an approval that
/// is removed must stay expired.
const EXPIRY_MARGIN: i64 = 60_000;
/// Memory of an approval besides its texts, in bytes.
const APPROVAL_OVERHEAD: usize = 2 * size_of::<(String, Approval)>();

/// A request for a person's approval of one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    /// Deployment environment of the call.
    pub environment: String,
    /// The agent that wants to call the tool.
    pub agent: String,
    /// Name of the tool.
    pub tool: String,
    /// SHA-256 of the bytes of the arguments.
    pub arguments: Digest,
    /// Person or service on whose behalf the agent asked.
    pub actor: Option<String>,
    /// First millisecond at which it is expired, by `logged_at`.
    pub expires_at: Millis,
    /// Whether a person has decided, and how.
    pub state: ApprovalState,
    /// The approver and the id of the key, once it is decided.
    pub decided_by: Option<(String, String)>,
    /// Reason why the last decision about it does not count.
    pub fault: Option<ApprovalFault>,
    /// Offset of the call that used it.
    pub used_at: Option<i64>,
}

/// Reason why a decision about an approval does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApprovalFault {
    /// The reason.
    pub finding: ApprovalFinding,
    /// Claim or fault that the reason is about.
    pub cause: Option<DecisionCause>,
}

impl Approval {
    /// Returns true if the approval is expired at `now`.
    pub fn is_expired(&self, now: Millis) -> bool {
        now >= self.expires_at
    }

    fn as_entry<'a>(&'a self, id: &'a str) -> StoredApproval<'a> {
        StoredApproval {
            id,
            environment: &self.environment,
            agent: &self.agent,
            tool: &self.tool,
            arguments: self.arguments,
            actor: self.actor.as_deref(),
            expires_at: self.expires_at,
            state: self.state.into(),
            approver: self.decided_by.as_ref().map(|(approver, _)| approver.as_str()),
            key_id: self.decided_by.as_ref().map(|(_, key_id)| key_id.as_str()),
            finding: self.fault.map(|fault| fault.finding.into()),
            cause: self.fault.and_then(|fault| fault.cause).map(OpenEnum::from),
            used_at: self.used_at,
        }
    }

    fn from_entry(entry: &StoredApproval<'_>) -> Self {
        let decided_by = entry.approver.zip(entry.key_id);
        Self {
            environment: entry.environment.to_owned(),
            agent: entry.agent.to_owned(),
            tool: entry.tool.to_owned(),
            arguments: entry.arguments,
            actor: entry.actor.map(str::to_owned),
            expires_at: entry.expires_at,
            // A state that this build does not know must not let a call through.
            state: entry.state.known().unwrap_or(ApprovalState::Refused),
            decided_by: decided_by.map(|(approver, key_id)| (approver.to_owned(), key_id.to_owned())),
            fault: entry.finding.map(|finding| ApprovalFault {
                finding: finding.known().unwrap_or(ApprovalFinding::Forged),
                cause: entry.cause.and_then(OpenEnum::known),
            }),
            used_at: entry.used_at,
        }
    }
}

/// Approvals of a session by id.
#[derive(Clone, Debug, Default)]
pub(super) struct Approvals(BTreeMap<String, Approval>);

impl Approvals {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn get(&self, id: &str) -> Option<&Approval> {
        self.0.get(id)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Approval)> {
        self.0.iter().map(|(id, approval)| (id.as_str(), approval))
    }

    /// Returns how many approvals records logged at `now` may add.
    pub fn room(&self, now: Millis) -> usize {
        let kept = self.0.values().filter(|approval| !is_forgotten(approval, now)).count();
        MAX_APPROVALS.saturating_sub(kept)
    }

    /// Adds a request that is logged at `now`. Removes approvals that expired before. Changes nothing for a known id, an
    /// expired request, or without room.
    pub fn add(&mut self, id: &str, approval: Approval, now: Millis, changes: &mut Vec<Change>) {
        if self.0.contains_key(id) || approval.is_expired(now) || self.room(now) == 0 {
            return;
        }
        self.0.retain(|id, approval| {
            let is_forgotten = is_forgotten(approval, now);
            if is_forgotten {
                changes.push(Change::ApprovalRemoved { id: id.clone() });
            }
            !is_forgotten
        });
        self.0.insert(id.to_owned(), approval);
        changes.push(Change::Approval { id: id.to_owned() });
    }

    /// Changes an approval.
    pub fn update(&mut self, id: &str, change: impl FnOnce(&mut Approval), changes: &mut Vec<Change>) {
        if let Some(approval) = self.0.get_mut(id) {
            change(approval);
            changes.push(Change::Approval { id: id.to_owned() });
        }
    }

    pub fn restore(&mut self, entry: &StoredApproval<'_>) {
        self.0.insert(entry.id.to_owned(), Approval::from_entry(entry));
    }

    pub fn remove(&mut self, id: &str) {
        self.0.remove(id);
    }

    /// Returns the approval as the changelog has it.
    pub fn entry(&self, id: &str) -> Option<StoredApproval<'_>> {
        self.0.get_key_value(id).map(|(id, approval)| approval.as_entry(id))
    }

    pub fn tombstones(&self) -> impl Iterator<Item = Change> {
        self.0.keys().map(|id| Change::ApprovalRemoved { id: id.clone() })
    }

    /// Returns the estimated memory of the approvals, in bytes.
    pub fn memory_bytes(&self) -> usize {
        let texts = |(id, approval): (&String, &Approval)| {
            let Approval { environment, agent, tool, actor, decided_by, .. } = approval;
            let decided_by =
                decided_by.as_ref().map_or(0, |(approver, key_id)| approver.len() + key_id.len());
            let actor = actor.as_ref().map_or(0, String::len);
            id.len() + environment.len() + agent.len() + tool.len() + actor + decided_by
        };
        self.0.iter().map(|entry| texts(entry) + APPROVAL_OVERHEAD).sum()
    }
}

/// Returns true if the approval can be removed at `now`.
const fn is_forgotten(approval: &Approval, now: Millis) -> bool {
    approval.expires_at.0.saturating_add(EXPIRY_MARGIN) <= now.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn approval(expires_at: i64) -> Approval {
        Approval {
            environment: "production".to_owned(),
            agent: "bot".to_owned(),
            tool: "pay".to_owned(),
            arguments: Digest::of(b"{}"),
            actor: None,
            expires_at: Millis(expires_at),
            state: ApprovalState::Open,
            decided_by: None,
            fault: None,
            used_at: None,
        }
    }

    fn add(approvals: &mut Approvals, id: &str, expires_at: i64, now: i64) -> Vec<Change> {
        let mut changes = Vec::new();
        approvals.add(id, approval(expires_at), Millis(now), &mut changes);
        changes
    }

    #[test]
    fn known_and_expired_requests_change_nothing() {
        let mut approvals = Approvals::default();
        assert_eq!(add(&mut approvals, "a", 100, 0), [Change::Approval { id: "a".into() }]);
        assert_eq!(add(&mut approvals, "a", 900, 1), [], "the first record counts");
        assert_eq!(approvals.get("a").unwrap().expires_at, Millis(100));
        assert_eq!(add(&mut approvals, "b", 100, 100), [], "expired when it was logged");
    }

    #[test]
    fn full_session_has_no_room_until_approvals_are_forgotten() {
        let mut approvals = Approvals::default();
        for i in 0..MAX_APPROVALS {
            add(&mut approvals, &i.to_string(), 1_000, 0);
        }
        assert_eq!((approvals.room(Millis(60_999)), approvals.room(Millis(61_000))), (0, MAX_APPROVALS));
        assert_eq!(add(&mut approvals, "more", 200_000, 60_999), []);
        let changes = add(&mut approvals, "more", 200_000, 61_000);
        assert_eq!(changes.len(), MAX_APPROVALS + 1);
        assert_eq!(approvals.tombstones().count(), 1);
    }

    #[test]
    fn restored_approval_is_the_written_one() {
        let whole = Approval {
            actor: Some("ada".to_owned()),
            state: ApprovalState::Granted,
            decided_by: Some(("grace".to_owned(), "kid".to_owned())),
            fault: Some(ApprovalFault {
                finding: ApprovalFinding::Forged,
                cause: Some(DecisionCause::BadSignature),
            }),
            used_at: Some(7),
            ..approval(100)
        };
        for written in [approval(100), whole] {
            let mut approvals = Approvals::default();
            approvals.restore(&written.as_entry("a"));
            assert_eq!(approvals.get("a"), Some(&written));
            approvals.remove("a");
            assert!(approvals.is_empty());
        }
        let open = approval(1);
        let unknown = StoredApproval { state: OpenEnum::from_name("later"), ..open.as_entry("a") };
        assert_eq!(Approval::from_entry(&unknown).state, ApprovalState::Refused, "never granted");
    }
}
