//! Table `keys`.

use agentgov_runtime::sink::native::Text;
use agentgov_schemas::governance::KeyEntry;

columns! {
    /// Columns of a published key, or of its revocation.
    k: KeyEntry<'a> {
        "kid": Text = k.kid,
        "kind": Text = k.kind.as_str(),
        "name": Text = k.name,
        "tenant_id": Text = k.tenant_id.unwrap_or_default(),
        "public_key": Text = k.public_key,
        "state": Text = k.state.as_str(),
        "reason": Text = k.reason,
        "pushed_by": Text = k.pushed_by,
    }
}
