//! Evaluation bases, compared with the positions of tables that the verdicts name.

use std::collections::BTreeMap;

use crate::events::RecordPosition;
use crate::record::Fields;
use crate::report::{FindingKind, Report};

/// Positions of governance topics, in the order of the record.
type Positions = Vec<(String, i64)>;

/// Evaluation bases by partition of the topic of actions and first offset.
#[derive(Debug, Default)]
pub struct Bases(BTreeMap<i32, BTreeMap<i64, Positions>>);

/// Verdicts with the positions that they name. Consecutive verdicts mostly name equal ones, which are kept once.
#[derive(Debug, Default)]
pub struct NamedPositions {
    positions: Vec<Positions>,
    /// Position of each action with the index of its verdict's positions.
    verdicts: Vec<(RecordPosition, usize)>,
}

impl Bases {
    /// Adds a record of the topic of bases.
    pub fn add(&mut self, basis: Fields<'_>) {
        let partition = basis.number("partition").and_then(|partition| i32::try_from(partition).ok());
        let (Some(partition), Some(from)) = (partition, basis.number("from_offset")) else { return };
        self.0.entry(partition).or_default().insert(from, positions(basis).map(owned).collect());
    }

    /// Compares the verdicts with the bases of their actions.
    pub fn check(&self, named: &NamedPositions, report: &mut Report) {
        for ((partition, offset), index) in &named.verdicts {
            let Some(positions) = named.positions.get(*index) else { continue };
            let basis = self.0.get(partition).and_then(|bases| bases.range(..=offset).next_back());
            match basis {
                None => report.without_basis = report.without_basis.saturating_add(1),
                Some((_, basis)) if positions.iter().all(|position| basis.contains(position)) => {}
                Some((from, basis)) => report.add_in(FindingKind::OtherBasis, *partition, || {
                    format!(
                        "partition {partition} offset {offset}: the verdict names {}, the basis from offset {from} {}",
                        list(positions),
                        list(basis)
                    )
                }),
            }
        }
    }
}

impl NamedPositions {
    /// Adds the verdict on the action at `action`.
    pub fn add(&mut self, action: RecordPosition, verdict: Fields<'_>) {
        let is_equal = |last: &Positions| {
            positions(verdict).eq(last.iter().map(|(topic, offset)| (topic.as_str(), *offset)))
        };
        if !self.positions.last().is_some_and(is_equal) {
            self.positions.push(positions(verdict).map(owned).collect());
        }
        self.verdicts.push((action, self.positions.len().saturating_sub(1)));
    }
}

fn positions<'a>(record: Fields<'a>) -> impl Iterator<Item = (&'a str, i64)> {
    record.records("tables").filter_map(|table| Some((table.text("topic")?, table.number("next_offset")?)))
}

fn owned((topic, offset): (&str, i64)) -> (String, i64) {
    (topic.to_owned(), offset)
}

fn list(positions: &Positions) -> String {
    let listed: Vec<_> = positions.iter().map(|(topic, offset)| format!("{topic} {offset}")).collect();
    listed.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(agents: i64, bundles: i64) -> Positions {
        vec![("agents".to_owned(), agents), ("bundles".to_owned(), bundles)]
    }

    #[test]
    fn verdict_with_other_positions_than_its_basis_is_a_finding() {
        let with_keys = [at(2, 1), vec![("keys".to_owned(), 7)]].concat();
        let bases = Bases(BTreeMap::from([
            (0, BTreeMap::from([(0, at(1, 1)), (5, with_keys), (9, at(1, 1))])),
            (1, BTreeMap::from([(4, at(2, 1))])),
        ]));
        for (partition, offset, named, finding, without) in [
            (0, 0, at(1, 1), None, 0),
            (0, 4, at(1, 1), None, 0),
            (0, 4, at(2, 1), Some("partition 0 offset 4"), 0),
            (0, 5, at(2, 1), None, 0),
            (0, 8, at(1, 1), Some("partition 0 offset 8"), 0),
            (0, 9, at(1, 1), None, 0),
            (1, 3, at(2, 1), None, 1),
            (1, i64::MAX, at(2, 1), None, 0),
            (2, 3, at(2, 1), None, 1),
        ] {
            let named = NamedPositions { positions: vec![named], verdicts: vec![((partition, offset), 0)] };
            let mut report = Report::default();
            bases.check(&named, &mut report);
            let first = report.finding(FindingKind::OtherBasis).map(|found| found.first.clone());
            let first = first.as_deref().map(|first| first.split(':').next().unwrap().to_owned());
            assert_eq!((first.as_deref(), report.without_basis), (finding, without), "{partition}/{offset}");
        }
    }
}
