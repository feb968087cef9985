//! Cedar schema of a bundle, generated from the types of its derived values.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use agentgov_enrichment::ValueType;

/// Path of the schema in a bundle.
pub const SCHEMA_FILE: &str = "schema.cedarschema";

/// Attributes of the context of every action. Derived values must not have these names.
pub(crate) const CONTEXT: &[(&str, &str)] = &[
    ("actor?", "{ id: String, kind: String }"),
    ("environment", "String"),
    ("message?", "{ has_text: Bool, tool_calls: Long }"),
    ("session", "{ events: Long, tool_calls: Long }"),
    ("tenant", "String"),
    ("time?", "datetime"),
];

/// Generates the schema for derived values of these types. The output is deterministic.
pub(crate) fn generate(types: &BTreeMap<String, ValueType>) -> String {
    let mut text = String::from(
        "// Generated from tools.yaml by `agentgov policy check --write`. What policies may look at.\n\n\
         entity Role;\n\
         entity Agent in [Role] { owner?: String, state: String };\n\
         entity Effect;\n\
         entity Tool in [Effect] { effect: String };\n\n\
         type Call = {\n",
    );
    for (name, declared) in CONTEXT {
        let _ = writeln!(text, "  {name}: {declared},");
    }
    text.push_str("  // derived values\n");
    for (name, declared) in types {
        let _ = writeln!(text, "  {name}?: {declared},");
    }
    text.push_str(
        "};\n\n\
         action act;\n\
         action \"tool.invoked\", \"tool.retried\" in [act] appliesTo {\n  \
           principal: [Agent],\n  resource: [Tool],\n  context: Call,\n};\n",
    );
    text
}

/// Returns the names of [`CONTEXT`].
pub(crate) fn reserved() -> Vec<&'static str> {
    CONTEXT.iter().map(|(name, _)| name.trim_end_matches('?')).collect()
}
