//! `tools.yaml` as it is written.

use agentgov_schemas::yaml::{Fields, FromNode, Named, Node, Problems};
use agentgov_schemas::{mapping, words};
use serde_saphyr::Spanned;

use super::ValueType;

/// The file.
pub(super) struct ToolsFile {
    pub(super) default: Entry,
    pub(super) tools: Option<Named<Entry>>,
}
mapping!(ToolsFile, "tools.yaml", { default, tools });

/// The default entry, or that of a tool.
pub(super) struct Entry {
    pub(super) effect: Effect,
    pub(super) states: Vec<StatesEntry>,
    pub(super) refers: Option<Named<Spanned<String>>>,
    pub(super) derived: Option<Named<DerivedEntry>>,
}
mapping!(Entry, "a tool", { effect, states, refers, derived });

/// A fact that a result states.
pub(super) struct StatesEntry {
    pub(super) fact: Spanned<String>,
    pub(super) key: Spanned<String>,
    pub(super) when: Option<Spanned<String>>,
}
mapping!(StatesEntry, "a fact that is stated", { fact, key, when });

/// A derived value.
pub(super) struct DerivedEntry {
    pub(super) value_type: ValueType,
    pub(super) value: Spanned<String>,
}

impl FromNode for DerivedEntry {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        let mut fields = Fields::of(node, "a derived value", problems)?;
        let value_type = fields.take("type");
        let value = fields.take("value");
        fields.end();
        Some(Self { value_type: value_type?, value: value? })
    }
}

/// What calling a tool does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Looks, and changes nothing.
    Read,
    /// Changes something that can be changed back.
    Write,
    /// Changes something that cannot.
    Destructive,
    /// Acts outside the systems that the tools belong to.
    External,
}
words!(Effect { "read" => Read, "write" => Write, "destructive" => Destructive, "external" => External });

impl Effect {
    /// Every effect.
    pub const ALL: [Self; 4] = [Self::Read, Self::Write, Self::Destructive, Self::External];

    /// The word that files use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Destructive => "destructive",
            Self::External => "external",
        }
    }
}
