//! Claim marker of an insert: a comment before the statement, `/* sink:TP:CLAIM,TP:CLAIM */`. It shows in
//! `system.processes` from the moment the server receives the headers.

use std::collections::BTreeMap;

const OPEN: &str = "/* sink:";
const CLOSE: &str = " */";

/// Claims: a random number by topic-partition name. A name must not contain `:`, `,` or `*`; no name of a Kafka topic
/// does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims(BTreeMap<String, u64>);

impl Claims {
    /// Creates random claims. None is 0, which the server returns for an unclaimed name.
    pub fn random(names: impl IntoIterator<Item = String>) -> Self {
        Self(names.into_iter().map(|name| (name, fastrand::u64(1..))).collect())
    }

    /// Returns the claim on `name`.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.0.get(name).copied()
    }

    /// Iterates over names and claims.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(name, claim)| (name.as_str(), *claim))
    }

    /// Returns the comment for an insert under these claims.
    pub fn marker(&self) -> String {
        let listed: Vec<_> = self.iter().map(|(name, claim)| format!("{name}:{claim}")).collect();
        format!("{OPEN}{}{CLOSE}", listed.join(","))
    }
}

impl FromIterator<(String, u64)> for Claims {
    fn from_iter<I: IntoIterator<Item = (String, u64)>>(claims: I) -> Self {
        Self(claims.into_iter().collect())
    }
}

/// Returns the names in the marker at the start of `query`; none without a marker.
pub fn names_in(query: &str) -> impl Iterator<Item = &str> {
    let listed =
        query.trim_start().strip_prefix(OPEN).and_then(|rest| rest.split_once(CLOSE)).map(|(list, _)| list);
    listed
        .into_iter()
        .flat_map(|list| list.split(','))
        .filter_map(|item| item.rsplit_once(':'))
        .map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marker_names_exactly_its_partitions() {
        let claims = Claims::random(["agent.actions/1", "agent.actions/12"].map(String::from));
        let query = format!("{} INSERT INTO actions FORMAT Native", claims.marker());
        assert_eq!(names_in(&query).collect::<Vec<_>>(), ["agent.actions/1", "agent.actions/12"]);
        assert!(claims.iter().all(|(_, claim)| claim != 0));
    }

    #[test]
    fn queries_without_a_marker_name_nothing() {
        for query in [
            "",
            "INSERT INTO actions FORMAT Native",
            "SELECT '/* sink:agent.actions/1:5 */'",
            "/* sink:agent.actions/1:5",
            "/* sink: */ INSERT",
            "/* sinking:agent.actions/1:5 */ INSERT",
        ] {
            assert_eq!(names_in(query).count(), 0, "{query}");
        }
    }
}
