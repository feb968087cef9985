//! Readers of mappings, with known keys or with names as keys.

use std::collections::{BTreeMap, BTreeSet};

use serde_saphyr::Spanned;

use super::{FromNode, Node, Problems, Value, one_of, scalar::unexpected};

/// Reader of a mapping with known keys. Call [`Fields::take`] for each key, then [`Fields::end`].
#[derive(Debug)]
pub struct Fields<'n, 'p> {
    what: &'static str,
    node: &'n Node,
    entries: &'n [(Spanned<String>, Node)],
    known: Vec<&'static str>,
    problems: &'p mut Problems,
}

impl<'n, 'p> Fields<'n, 'p> {
    /// Creates a reader of `node`, which `what` describes in messages ("a topic"). Reports a node that is not a mapping and
    /// returns `None`.
    pub fn of(node: &'n Node, what: &'static str, problems: &'p mut Problems) -> Option<Self> {
        match &node.value {
            Value::Mapping(entries) => {
                report_duplicates(entries, problems);
                Some(Self { what, node, entries, known: Vec::new(), problems })
            }
            found => unexpected(node, problems, &format!("{what} (a mapping)"), found),
        }
    }

    /// Returns the value of `key`. Reports a missing or invalid value and returns `None`.
    pub fn take<T: FromNode>(&mut self, key: &'static str) -> Option<T> {
        self.known.push(key);
        let Some((_, node)) = self.entries.iter().find(|(found, _)| found.value == key) else {
            let value = T::absent();
            if value.is_none() {
                self.problems.add(self.node.at, format!("{} must have `{key}`", self.what));
            }
            return value;
        };
        T::from_node(node, self.problems)
    }

    /// Reports every key that was not taken.
    pub fn end(self) {
        for (key, _) in self.entries.iter().filter(|(key, _)| !self.known.contains(&key.value.as_str())) {
            self.problems.add(
                key.referenced,
                format!("unknown key `{}` of {}; expected {}", key.value, self.what, one_of(&self.known)),
            );
        }
    }
}

/// Implements [`FromNode`] for a struct with one key per field: `mapping!(Table, "a table", { from, what });`. A key is
/// optional if its type has a [`FromNode::absent`] value.
#[macro_export]
macro_rules! mapping {
    ($type:ident, $what:literal, { $($field:ident),+ $(,)? }) => {
        impl $crate::yaml::FromNode for $type {
            fn from_node(
                node: &$crate::yaml::Node,
                problems: &mut $crate::yaml::Problems,
            ) -> Option<Self> {
                let mut fields = $crate::yaml::Fields::of(node, $what, problems)?;
                $(let $field = fields.take(stringify!($field));)+
                fields.end();
                // After all fields, so that an error in one does not hide errors in the others.
                Some(Self { $($field: $field?),+ })
            }
        }
    };
}

/// Mapping with names as keys. A name with an invalid value has the value `None`: it exists, so that references to it are not
/// reported as further mistakes.
#[derive(Clone, Debug)]
pub struct Named<T>(pub BTreeMap<String, Option<Spanned<T>>>);

// A derived implementation would require `T: Default`.
impl<T> Default for Named<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: FromNode> FromNode for Named<T> {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        let Value::Mapping(entries) = &node.value else {
            return unexpected(node, problems, "a mapping of names", &node.value);
        };
        report_duplicates(entries, problems);
        let mut named = BTreeMap::new();
        for (key, node) in entries {
            let value = T::from_node(node, problems).map(|v| Spanned::new(v, key.referenced, key.defined));
            named.entry(key.value.clone()).or_insert(value);
        }
        Some(Self(named))
    }
}

impl<T: FromNode> FromNode for BTreeMap<String, Spanned<T>> {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        Named::from_node(node, problems)?.complete()
    }
}

impl<T> Named<T> {
    /// Returns the entries with a valid value.
    pub fn valid(&self) -> impl Iterator<Item = (&str, &Spanned<T>)> {
        self.0.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_ref()?)))
    }

    /// Returns the value of `name`, if it exists and is valid.
    pub fn get(&self, name: &str) -> Option<&T> {
        self.0.get(name)?.as_ref().map(|spanned| &spanned.value)
    }

    /// Returns true if `name` exists, with a valid or an invalid value.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Returns all entries, if all values are valid.
    pub fn complete(self) -> Option<BTreeMap<String, Spanned<T>>> {
        self.0.into_iter().map(|(name, value)| Some((name, value?))).collect()
    }
}

/// List without its invalid items, which are reported. An absent list is empty.
#[derive(Clone, Debug)]
pub struct PartialList<T> {
    /// The valid items.
    pub items: Vec<T>,
    /// True if every item was valid.
    pub is_complete: bool,
}

impl<T: FromNode> FromNode for PartialList<T> {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::List(items) => {
                let read: Vec<T> = items.iter().filter_map(|item| T::from_node(item, problems)).collect();
                Some(Self { is_complete: read.len() == items.len(), items: read })
            }
            found => unexpected(node, problems, "a list", found),
        }
    }

    fn absent() -> Option<Self> {
        Some(Self { items: Vec::new(), is_complete: true })
    }
}

fn report_duplicates(entries: &[(Spanned<String>, Node)], problems: &mut Problems) {
    let mut seen = BTreeSet::new();
    for (key, _) in entries {
        if !seen.insert(&key.value) {
            problems.add(key.referenced, format!("`{}` occurs twice; expected each key once", key.value));
        }
    }
}
