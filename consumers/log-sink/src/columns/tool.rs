//! Table `tools`.

use agentgov_runtime::sink::native::Text;
use agentgov_schemas::governance::ToolEntry;

columns! {
    /// Columns of an entry of the tool registry.
    t: ToolEntry<'a> {
        "tenant_id": Text = t.tenant_id,
        "name": Text = t.name,
        "owner": Text = t.owner,
        "effect": Text = t.effect.as_str(),
        "description": Text = t.description,
        "pushed_by": Text = t.pushed_by,
    }
}
