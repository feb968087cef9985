//! How mappings are read: those with known keys, and those whose keys are names.

use std::collections::{BTreeMap, BTreeSet};

use serde_saphyr::Spanned;

use super::{FromNode, Node, Problems, Value, one_of, scalar::wrong};

/// A mapping whose keys are known. Take each, then [`Fields::end`].
#[derive(Debug)]
pub struct Fields<'n, 'p> {
    what: &'static str,
    node: &'n Node,
    entries: &'n [(Spanned<String>, Node)],
    known: Vec<&'static str>,
    problems: &'p mut Problems,
}

impl<'n, 'p> Fields<'n, 'p> {
    /// The fields of `node`, which should be `what` ("a topic"). `None`: it is no mapping, which has been reported.
    pub fn of(node: &'n Node, what: &'static str, problems: &'p mut Problems) -> Option<Self> {
        match &node.value {
            Value::Mapping(entries) => {
                report_doubles(entries, problems);
                Some(Self { what, node, entries, known: Vec::new(), problems })
            }
            found => wrong(node, problems, &format!("{what} (a mapping)"), found),
        }
    }

    /// The value of `key`. `None`: it is missing or wrong, which has been reported.
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

/// Reads a struct from a mapping with one key per field: `mapping!(Table, "a table", { from, what });`. A key may be left
/// out if its type has a [`FromNode::absent`] value.
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
                // Only now: an error in one field must not hide those of the next.
                Some(Self { $($field: $field?),+ })
            }
        }
    };
}

/// A mapping whose keys are names. One whose value is wrong is there without its value: it exists, so nothing that
/// refers to it is a second mistake.
#[derive(Clone, Debug)]
pub struct Named<T>(pub BTreeMap<String, Option<Spanned<T>>>);

// Not derived: a derive would ask for `T: Default`.
impl<T> Default for Named<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: FromNode> FromNode for Named<T> {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        let Value::Mapping(entries) = &node.value else {
            return wrong(node, problems, "a mapping of names", &node.value);
        };
        report_doubles(entries, problems);
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
    /// Those whose value is right.
    pub fn valid(&self) -> impl Iterator<Item = (&str, &Spanned<T>)> {
        self.0.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_ref()?)))
    }

    /// The value of `name`, if it is there and right.
    pub fn get(&self, name: &str) -> Option<&T> {
        self.0.get(name)?.as_ref().map(|spanned| &spanned.value)
    }

    /// True if `name` is there, right or wrong.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// All of them, if all are right.
    pub fn complete(self) -> Option<BTreeMap<String, Spanned<T>>> {
        self.0.into_iter().map(|(name, value)| Some((name, value?))).collect()
    }
}

/// A list without the items that are wrong, each of which is reported. One that is left out is empty.
#[derive(Clone, Debug)]
pub struct PartialList<T> {
    /// Those that are right.
    pub items: Vec<T>,
    /// True if none was wrong.
    pub is_complete: bool,
}

impl<T: FromNode> FromNode for PartialList<T> {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::List(items) => {
                let read: Vec<T> = items.iter().filter_map(|item| T::from_node(item, problems)).collect();
                Some(Self { is_complete: read.len() == items.len(), items: read })
            }
            found => wrong(node, problems, "a list", found),
        }
    }

    fn absent() -> Option<Self> {
        Some(Self { items: Vec::new(), is_complete: true })
    }
}

fn report_doubles(entries: &[(Spanned<String>, Node)], problems: &mut Problems) {
    let mut seen = BTreeSet::new();
    for (key, _) in entries {
        if !seen.insert(&key.value) {
            problems.add(key.referenced, format!("`{}` stands twice; expected each key once", key.value));
        }
    }
}
