//! Syntax of `tools.yaml`.

use agentgov_schemas::governance::ToolEffect;
use agentgov_schemas::yaml::{Fields, FromNode, Named, Node, PartialList, Problems};
use serde_saphyr::Spanned;

use super::ValueType;

/// Parsed file. Fields with mistakes are left out, so that the others are still checked.
pub(super) struct ToolsFile {
    pub(super) default: Option<Entry>,
    pub(super) tools: Named<Entry>,
}

impl FromNode for ToolsFile {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        let mut fields = Fields::of(node, "tools.yaml", problems)?;
        let default = fields.take("default");
        let tools = fields.take::<Option<_>>("tools").flatten().unwrap_or_default();
        fields.end();
        Some(Self { default, tools })
    }
}

/// Entry of a tool, or the default entry. Fields with mistakes are left out.
pub(super) struct Entry {
    pub(super) effect: Option<ToolEffect>,
    pub(super) states: PartialList<FactRuleEntry>,
    pub(super) refers: Named<Spanned<String>>,
    pub(super) derived: Named<DerivedEntry>,
}

impl FromNode for Entry {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        let mut fields = Fields::of(node, "a tool", problems)?;
        let effect = fields.take("effect");
        let states = fields.take("states").unwrap_or(PartialList { items: Vec::new(), is_complete: false });
        let refers = fields.take::<Option<_>>("refers").flatten().unwrap_or_default();
        let derived = fields.take::<Option<_>>("derived").flatten().unwrap_or_default();
        fields.end();
        Some(Self { effect, states, refers, derived })
    }
}

/// Rule that makes a result a fact. Fields with mistakes are left out.
pub(super) struct FactRuleEntry {
    pub(super) fact: Option<Spanned<String>>,
    pub(super) key: Option<Spanned<String>>,
    pub(super) when: Option<Spanned<String>>,
}

impl FromNode for FactRuleEntry {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        let mut fields = Fields::of(node, "a fact that is stated", problems)?;
        let fact = fields.take("fact");
        let key = fields.take("key");
        let when = fields.take("when").flatten();
        fields.end();
        Some(Self { fact, key, when })
    }
}

/// Derived value. Fields with mistakes are left out.
pub(super) struct DerivedEntry {
    pub(super) value_type: Option<ValueType>,
    pub(super) value: Option<Spanned<String>>,
}

impl FromNode for DerivedEntry {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        let mut fields = Fields::of(node, "a derived value", problems)?;
        let value_type = fields.take("type");
        let value = fields.take("value");
        fields.end();
        Some(Self { value_type, value })
    }
}
