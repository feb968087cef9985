//! Detects names that are probably misspelt: mentioned in one place only, and similar to a known name.

use std::collections::{BTreeMap, BTreeSet};

use agentgov_schemas::yaml::Problem;

/// Kind of a named entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum NameKind {
    Tool,
    Role,
    Agent,
}

impl NameKind {
    pub(crate) const ALL: [Self; 3] = [Self::Tool, Self::Role, Self::Agent];

    /// Returns the entity type in policies.
    pub(crate) const fn entity_type(self) -> &'static str {
        match self {
            Self::Tool => "Tool",
            Self::Role => "Role",
            Self::Agent => "Agent",
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Tool => "tool",
            Self::Role => "role",
            Self::Agent => "agent",
        }
    }
}

/// Declared and mentioned names.
#[derive(Debug, Default)]
pub(crate) struct Mentions {
    declared: BTreeSet<(NameKind, String)>,
    /// Policies and test files that mention each name, with the place.
    mentioned: BTreeMap<(NameKind, String), BTreeMap<String, Problem>>,
}

impl Mentions {
    /// Adds a name that tools.yaml declares.
    pub(crate) fn declare(&mut self, kind: NameKind, name: &str) {
        self.declared.insert((kind, name.to_owned()));
    }

    /// Adds a mention of a name by a policy or a test file.
    pub(crate) fn add(&mut self, kind: NameKind, name: &str, by: &str, place: Problem) {
        let mentioned_by = self.mentioned.entry((kind, name.to_owned())).or_default();
        mentioned_by.entry(by.to_owned()).or_insert(place);
    }

    /// Returns a warning for each undeclared name that only one policy or file mentions and that resembles another name.
    pub(crate) fn suspicious(&self) -> Vec<Problem> {
        let mut warnings = Vec::new();
        for kind in NameKind::ALL {
            let of_kind = self.mentioned.iter().filter(|((of, _), _)| *of == kind);
            let (known, suspicious): (Vec<_>, Vec<_>) =
                of_kind.partition(|(name, by)| by.len() > 1 || self.declared.contains(name));
            let declared = self.declared.iter().filter(|(of, _)| *of == kind);
            let known: BTreeSet<&str> =
                known.iter().map(|(name, _)| *name).chain(declared).map(|(_, name)| name.as_str()).collect();
            for ((_, name), by) in suspicious {
                let (Some(near), Some(place)) = (nearest(name, known.iter().copied()), by.values().next())
                else {
                    continue;
                };
                let message =
                    format!("the {} `{name}` is mentioned nowhere else; did you mean `{near}`?", kind.word());
                warnings.push(Problem { message, ..place.clone() });
            }
        }
        warnings
    }
}

/// Maximum length of a compared name: the cost is the product of the lengths.
const MAX_COMPARED: usize = 128;

/// Returns the most similar known name with at most one edit for each four letters. Names that differ only in digits are considered
/// intentional.
pub(crate) fn nearest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let length = name.chars().count();
    if !(3..=MAX_COMPARED).contains(&length) {
        return None;
    }
    let without_digits = |text: &str| text.replace(|c: char| c.is_ascii_digit(), "");
    let stem = without_digits(name);
    let most = (length / 4).max(1);
    known
        .filter(|other| other.chars().count().abs_diff(length) <= most)
        .filter(|other| *other != name && without_digits(other) != stem)
        .map(|other| (strsim::osa_distance(name, other), other))
        .filter(|(distance, _)| *distance <= most)
        .min()
        .map(|(_, other)| other)
}

/// Returns "; did you mean `x`?" if a similar name is known, else an empty text.
pub(crate) fn hint<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> String {
    nearest(name, known).map_or_else(String::new, |near| format!("; did you mean `{near}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_name_differs_by_at_most_one_letter_in_four() {
        let known = ["pay", "refund", "get_user", "worker-1", "cancel_reservation"];
        for (name, expected) in [
            ("payy", Some("pay")),
            ("pya", Some("pay")),
            ("pay", None),
            ("pa", None),
            ("buy", None),
            ("refnud", Some("refund")),
            ("get_users", Some("get_user")),
            ("worker-2", None),
            ("wroker-1", Some("worker-1")),
            ("cancel_reservations", Some("cancel_reservation")),
            ("cancel_booking", None),
            (&"pay".repeat(1_000), None),
        ] {
            assert_eq!(nearest(name, known.into_iter()), expected, "{name}");
        }
    }
}
