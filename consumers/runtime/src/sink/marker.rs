//! How an insert says whose it is: a comment in front of it, `/* sink:TP:CLAIM,TP:CLAIM */`, that shows in
//! `system.processes` from the moment its headers are received.

use std::collections::BTreeMap;

const OPEN: &str = "/* sink:";
const CLOSE: &str = " */";

/// Who may write: a random number for each topic-partition, by its name. What is claimed has no `:`, `,` or `*` in its
/// name: Kafka's topics have none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims(BTreeMap<String, u64>);

impl Claims {
    /// Fresh claims, none of them 0: that is what an unclaimed name answers.
    pub fn random(names: impl IntoIterator<Item = String>) -> Self {
        Self(names.into_iter().map(|name| (name, fastrand::u64(1..))).collect())
    }

    /// The claim on `name`.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.0.get(name).copied()
    }

    /// Names and claims.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(name, claim)| (name.as_str(), *claim))
    }

    /// The comment for an insert under these claims.
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

/// The names that the marker in front of `query` names; none if it has no marker.
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
    fn a_marker_names_exactly_its_partitions() {
        let claims = Claims::random(["agent.actions/1", "agent.actions/12"].map(String::from));
        let query = format!("{} INSERT INTO actions FORMAT Native", claims.marker());
        assert_eq!(names_in(&query).collect::<Vec<_>>(), ["agent.actions/1", "agent.actions/12"]);
        assert!(claims.iter().all(|(_, claim)| claim != 0));
    }

    #[test]
    fn other_queries_name_nothing() {
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
