//! Exploration of a model within its bounds.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::hash::Hash;

use stateright::{Checker as _, Expectation, HasDiscoveries, Model};

/// Result of an exploration.
#[derive(Clone, Debug)]
pub struct Exploration {
    /// Number of distinct states.
    pub states: usize,
    /// Length of the shortest path to the farthest state.
    pub depth: usize,
    /// Violated properties, each with the shortest path to a violation, one action per line.
    pub violated: BTreeMap<&'static str, Vec<String>>,
    /// Properties that should hold sometimes but never do: the model does not behave as intended.
    pub unreached: Vec<&'static str>,
}

impl fmt::Display for Exploration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} states, {} steps deep", self.states, self.depth)?;
        for (name, path) in &self.violated {
            writeln!(f, "violated: {name}")?;
            path.iter().enumerate().try_for_each(|(n, action)| writeln!(f, "{:4}. {action}", n + 1))?;
        }
        self.unreached.iter().try_for_each(|name| writeln!(f, "never held: {name}"))
    }
}

/// Explores every state of `model` within its bounds.
pub fn explore<M>(model: M) -> Exploration
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq + Send + Sync,
{
    run(model, HasDiscoveries::All)
}

/// Explores `model`, nearest states first, until a property is violated. Properties that should hold sometimes may not
/// have held yet.
pub fn find_counterexample<M>(model: M) -> Exploration
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq + Send + Sync,
{
    run(model, HasDiscoveries::AnyFailures)
}

fn run<M>(model: M, until: HasDiscoveries) -> Exploration
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq + Send + Sync,
{
    let properties = model.properties();
    // With one thread the search is ordered by distance, so that a counterexample is a shortest one, and always the
    // same.
    let checker = model.checker().threads(1).finish_when(until).spawn_bfs().join();
    let mut found = checker.discoveries();
    let mut violated = BTreeMap::new();
    let mut unreached = Vec::new();
    for property in properties {
        match (property.expectation, found.remove(property.name)) {
            (Expectation::Sometimes, None) => unreached.push(property.name),
            (Expectation::Sometimes, Some(_)) | (_, None) => {}
            (_, Some(path)) => {
                let actions = path.into_actions().iter().map(|action| format!("{action:?}")).collect();
                violated.insert(property.name, actions);
            }
        }
    }
    // The checker counts the initial state as a step.
    let depth = checker.max_depth().saturating_sub(1);
    Exploration { states: checker.unique_state_count(), depth, violated, unreached }
}
