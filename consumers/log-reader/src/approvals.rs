//! Requests for approvals, with the decisions about them. No signature is verified here.

use clickhouse::Row;
use serde::{Deserialize, Serialize};

use crate::{LogReader, LoggedBytes, ReadError, logged};

/// Maximum number of requests that a listing returns: the latest.
const MAX_LISTED: usize = 1_000;

/// Request for an approval: `approval.asked`.
#[derive(Clone, Debug, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct AskedApproval {
    /// Id of the approval.
    #[serde(deserialize_with = "logged::text")]
    pub id: String,
    /// The tenant.
    #[serde(deserialize_with = "logged::text")]
    pub tenant_id: String,
    /// Deployment environment of the call.
    #[serde(deserialize_with = "logged::text")]
    pub environment: String,
    /// The session.
    #[serde(deserialize_with = "logged::text")]
    pub session_id: String,
    /// The agent that wants to call the tool.
    #[serde(deserialize_with = "logged::text")]
    pub agent_id: String,
    /// Person or service on whose behalf the agent asked; empty if the caller named none.
    #[serde(deserialize_with = "logged::text")]
    pub actor_id: String,
    /// Name of the tool.
    #[serde(deserialize_with = "logged::text")]
    pub tool: String,
    /// Id of the call; empty if the caller named none.
    #[serde(deserialize_with = "logged::text")]
    pub call_id: String,
    /// Arguments of the call.
    pub arguments: LoggedBytes,
    /// Why a person is asked.
    #[serde(deserialize_with = "logged::text")]
    pub comment: String,
    /// `logged_at` of the request, in milliseconds.
    pub asked_at: i64,
    /// First millisecond at which the approval is expired.
    pub expires_at: i64,
}

/// Decision about an approval: `approval.decided`.
#[derive(Clone, Debug, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct ApprovalDecision {
    /// Id of the approval.
    #[serde(deserialize_with = "logged::text")]
    pub id: String,
    /// The tenant.
    #[serde(deserialize_with = "logged::text")]
    pub tenant_id: String,
    /// The session.
    #[serde(deserialize_with = "logged::text")]
    pub session_id: String,
    /// Reason of the decision, in the words of the approver. Not signed.
    #[serde(deserialize_with = "logged::text")]
    pub reason: String,
    /// The decision as it was signed.
    #[serde(deserialize_with = "logged::text")]
    pub token: String,
    /// `logged_at` of the decision, in milliseconds.
    pub decided_at: i64,
}

/// Call that relied on an approval, according to its verdict.
#[derive(Clone, Debug, PartialEq, Eq, Row, Serialize, Deserialize)]
pub struct ApprovedCall {
    /// Id of the approval.
    #[serde(deserialize_with = "logged::text")]
    pub id: String,
    /// The tenant.
    #[serde(deserialize_with = "logged::text")]
    pub tenant_id: String,
    /// The session.
    #[serde(deserialize_with = "logged::text")]
    pub session_id: String,
    /// Index of the call in its session.
    pub call: i32,
}

/// Requests to read. An empty text selects each.
#[derive(Clone, Copy, Debug, Default)]
pub struct ApprovalFilter<'a> {
    /// Id of the approval.
    pub id: &'a str,
    /// The tenant.
    pub tenant_id: &'a str,
    /// The session.
    pub session_id: &'a str,
    /// Only requests that expire after this time, in milliseconds.
    pub expires_after: i64,
}

impl ApprovalFilter<'_> {
    fn sql(&self) -> String {
        format!(
            "type = 'approval.asked' AND length(approval_id) = 36 AND approval_expires_at IS NOT NULL
             AND toUnixTimestamp64Milli(assumeNotNull(approval_expires_at)) > {}
             AND (? = '' OR approval_id = ?) AND (? = '' OR tenant_id = ?) AND (? = '' OR session_id = ?)",
            self.expires_after
        )
    }

    const fn values(&self) -> [&str; 6] {
        [self.id, self.id, self.tenant_id, self.tenant_id, self.session_id, self.session_id]
    }
}

impl LogReader {
    /// Returns the latest requests for approvals, oldest first. Of several requests with an id in a session, the first counts.
    ///
    /// # Errors
    /// If ClickHouse cannot be read.
    pub fn asked_approvals(&self, filter: &ApprovalFilter<'_>) -> Result<Vec<AskedApproval>, ReadError> {
        let sql = format!(
            "SELECT * FROM (
               SELECT approval_id AS id, toString(tenant_id) AS tenant_id, toString(environment) AS environment,
                      session_id, toString(agent_id) AS agent_id, actor_id, toString(tool_name) AS tool, call_id,
                      approval_arguments AS arguments, approval_comment AS comment,
                      toUnixTimestamp64Milli(logged_at) AS asked_at,
                      toUnixTimestamp64Milli(assumeNotNull(approval_expires_at)) AS expires_at
               FROM {actions} WHERE {filter}
               ORDER BY asked_at DESC, id LIMIT {MAX_LISTED})
             ORDER BY asked_at, id LIMIT 1 BY tenant_id, session_id, id",
            actions = self.tables.actions,
            filter = filter.sql(),
        );
        self.rows(&sql, &filter.values())
    }

    /// Returns the decisions about the requests, in the order of the log.
    ///
    /// # Errors
    /// If ClickHouse cannot be read.
    pub fn approval_decisions(
        &self,
        filter: &ApprovalFilter<'_>,
    ) -> Result<Vec<ApprovalDecision>, ReadError> {
        let sql = format!(
            "SELECT approval_id AS id, toString(tenant_id) AS tenant_id, session_id, approval_comment AS reason,
                    approval_token AS token, toUnixTimestamp64Milli(logged_at) AS decided_at
             FROM {actions} WHERE type = 'approval.decided'
               AND (tenant_id, session_id, approval_id) IN
                   (SELECT tenant_id, session_id, approval_id FROM {actions} WHERE {filter})
             ORDER BY partition, offset",
            actions = self.tables.actions,
            filter = filter.sql(),
        );
        self.rows(&sql, &filter.values())
    }

    /// Returns the calls that relied on the requests' approvals.
    ///
    /// # Errors
    /// If ClickHouse cannot be read.
    pub fn approved_calls(&self, filter: &ApprovalFilter<'_>) -> Result<Vec<ApprovedCall>, ReadError> {
        let sql = format!(
            "SELECT approval_id AS id, toString(tenant_id) AS tenant_id, session_id, ifNull(call_index, -1) AS call
             FROM {verdicts} WHERE approval_finding = 'granted'
               AND (tenant_id, session_id, approval_id) IN
                   (SELECT tenant_id, session_id, approval_id FROM {actions} WHERE {filter})",
            verdicts = self.tables.verdicts,
            actions = self.tables.actions,
            filter = filter.sql(),
        );
        self.rows(&sql, &filter.values())
    }
}
