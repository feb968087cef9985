//! Table `tools`.

use agentgov_runtime::sink::native::{List, Sha256, Text};
use agentgov_schemas::governance::ToolEntry;

use super::NO_DIGEST;

columns! {
    /// Columns of an entry of the tool registry.
    t: ToolEntry<'a> {
        "tenant_id": Text = t.tenant_id,
        "name": Text = t.name,
        "owner": Text = t.owner,
        "effect": Text = t.effect.as_str(),
        "description": Text = t.description,
        "pushed_by": Text = t.pushed_by,
        "server": Text = t.server,
        "data_classes": List<Text> = &mut t.data_classes.iter().copied(),
        "definition": Text = t.definition,
        "definition_digest": Sha256 = t.definition_digest.unwrap_or(NO_DIGEST),
        "state": Text = t.state.as_str(),
        "reason": Text = t.reason,
    }
}
