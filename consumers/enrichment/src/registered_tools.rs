//! Table of the registered tools and servers, folded from governance.tools.

use std::collections::BTreeMap;

use agentgov_schemas::Digest;
use agentgov_schemas::governance::{ToolEffect, ToolEntry, ToolState, server_of};

/// Registry data of a tool that verdicts depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegisteredTool {
    /// Effect of a call; `None` if that of the bundle counts.
    pub effect: Option<ToolEffect>,
    /// Digest of the accepted definition.
    pub definition: Option<Digest>,
    /// State in the registry.
    pub state: ToolState,
}

/// Tools and servers of a tenant by name.
#[derive(Clone, Debug, Default)]
struct TenantTools {
    tools: BTreeMap<String, RegisteredTool>,
    servers: BTreeMap<String, ToolState>,
}

/// Global table of tools and servers. The last entry of each wins.
#[derive(Clone, Debug, Default)]
pub struct ToolTable {
    tenants: BTreeMap<String, TenantTools>,
    next_offset: i64,
}

impl ToolTable {
    /// Creates an empty table.
    pub const fn new() -> Self {
        Self { tenants: BTreeMap::new(), next_offset: 0 }
    }

    /// Applies the record at `offset` of the topic. A tool whose effect or state this build does not know counts as suspended.
    pub fn fold(&mut self, entry: &ToolEntry<'_>, offset: i64) {
        let tenant = self.tenants.entry(entry.tenant_id.to_owned()).or_default();
        let state = entry.state.known().unwrap_or(ToolState::Suspended);
        if entry.name.is_empty() {
            tenant.servers.insert(entry.server.to_owned(), state);
        } else {
            let effect = entry.effect.known();
            let is_known = effect.is_some() || entry.effect.as_str().is_empty();
            let state = if is_known { state } else { ToolState::Suspended };
            let tool = RegisteredTool { effect, definition: entry.definition_digest, state };
            tenant.tools.insert(entry.name.to_owned(), tool);
        }
        self.skip(offset);
    }

    /// Skips the record at `offset`, which could not be decoded.
    pub fn skip(&mut self, offset: i64) {
        self.next_offset = self.next_offset.max(offset.saturating_add(1));
    }

    /// Returns the tool if it is registered. `name` is the name that calls use.
    pub fn get(&self, tenant_id: &str, name: &str) -> Option<&RegisteredTool> {
        self.tenants.get(tenant_id)?.tools.get(name)
    }

    /// Returns whether the server of the tool is suspended.
    pub fn is_server_suspended(&self, tenant_id: &str, tool: &str) -> bool {
        let state = server_of(tool).and_then(|server| self.tenants.get(tenant_id)?.servers.get(server));
        state == Some(&ToolState::Suspended)
    }

    /// Returns the names of a tenant's tools, sorted.
    pub fn names(&self, tenant_id: &str) -> impl Iterator<Item = &str> {
        self.tenants.get(tenant_id).into_iter().flat_map(|tenant| tenant.tools.keys().map(String::as_str))
    }

    /// Returns the next offset to fold. Verdicts record it as the position of the table.
    pub const fn next_offset(&self) -> i64 {
        self.next_offset
    }
}

#[cfg(test)]
mod tests {
    use agentgov_schemas::OpenEnum;

    use super::*;

    #[test]
    fn fold_of_several_entries_keeps_the_last_of_each_tenants_tool_and_server() {
        let mut table = ToolTable::default();
        let digest = Digest::of(b"{}");
        let tool = ToolEntry { effect: ToolEffect::Read.into(), ..ToolEntry::new("acme", "files/read") };
        table.fold(&tool, 3);
        table.fold(&ToolEntry { definition_digest: Some(digest), ..tool.clone() }, 4);
        let expected = RegisteredTool {
            effect: Some(ToolEffect::Read),
            definition: Some(digest),
            state: ToolState::Active,
        };
        assert_eq!(table.get("acme", "files/read"), Some(&expected));
        assert_eq!(table.get("other", "files/read"), None, "another tenant's tool of the same name");
        assert_eq!((table.names("acme").collect::<Vec<_>>(), table.next_offset()), (vec!["files/read"], 5));

        let server = |state: ToolState| ToolEntry {
            server: "files",
            state: state.into(),
            ..ToolEntry::new("acme", "")
        };
        table.fold(&server(ToolState::Suspended), 5);
        let suspended = |tool| table.is_server_suspended("acme", tool);
        assert_eq!(
            ["files/read", "files/a/b", "files", "other/read", ""].map(suspended),
            [true, true, false, false, false]
        );
        assert!(!table.is_server_suspended("other", "files/read"));
        assert_eq!(table.get("acme", ""), None, "a server is no tool");
        table.fold(&server(ToolState::Active), 6);
        assert!(!table.is_server_suspended("acme", "files/read"));
    }

    #[test]
    fn tool_that_a_later_version_describes_counts_as_suspended() {
        let entry = || ToolEntry::new("acme", "pay");
        for (entry, effect, state) in [
            (entry(), None, ToolState::Active),
            (ToolEntry { effect: OpenEnum::from_name("shrug"), ..entry() }, None, ToolState::Suspended),
            (ToolEntry { state: OpenEnum::from_name("paused"), ..entry() }, None, ToolState::Suspended),
        ] {
            let mut table = ToolTable::default();
            table.fold(&entry, 0);
            assert_eq!(table.get("acme", "pay"), Some(&RegisteredTool { effect, definition: None, state }));
        }
    }
}
