//! Table `rejects`.

use agentgov_runtime::sink::native::{Bytes, Int32, Int64, LoggedAt, Sha256, Text};
use agentgov_schemas::reject::Reject;

/// Returns tenant and session from the rejected record's key, `tenant/session` (see `agentgov_schemas::SessionKey`).
/// Empty if the key has another form: a rejected record can contain anything.
fn session<'a>(reject: &Reject<'a>) -> (&'a str, &'a str) {
    // Another column holds the key itself.
    std::str::from_utf8(reject.key).ok().and_then(|key| key.split_once('/')).unwrap_or_default()
}

columns! {
    /// Columns of a reject.
    r: Reject<'a> {
        "tenant_id": Text = session(r).0,
        "session_id": Text = session(r).1,
        "stage": Text = r.stage,
        "reason": Text = r.reason.as_str(),
        "detail": Text = r.detail,
        "origin_topic": Text = r.origin.topic,
        "origin_partition": Int32 = r.origin.partition,
        "origin_offset": Int64 = r.origin.offset,
        "origin_logged_at": LoggedAt = r.origin.logged_at,
        "rejected_key": Bytes = r.key,
        "rejected_size": Int64 = r.size,
        "rejected_sha256": Sha256 = r.sha256,
        "rejected_head": Bytes = r.head,
    }
}
