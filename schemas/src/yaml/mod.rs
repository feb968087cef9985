//! YAML files that people write, read whole: every mistake of a file at once, each with its place.
//!
//! serde stops at its first error. So a file is parsed into a tree of [`Node`]s that know where they stand, and typed
//! values are read from that tree by [`FromNode`], which reports and goes on. A struct is read by naming its fields:
//!
//! ```
//! use agentgov_schemas::{mapping, yaml};
//!
//! struct Agent { name: String, roles: Vec<String> }
//! mapping!(Agent, "an agent", { name, roles });
//!
//! let read = yaml::parse::<Agent>("agents.yaml", "name: 7\nrole: [clerk]\n");
//! let problems: Vec<String> = read.err().unwrap().iter().map(ToString::to_string).collect();
//! assert_eq!(problems, [
//!     "agents.yaml:1:7: expected text, found the number 7; put it in quotes if it is meant as text",
//!     "agents.yaml:2:1: unknown key `role` of an agent; expected name or roles",
//! ]);
//! ```

mod fields;
mod node;
mod problem;
mod scalar;

pub use fields::{Fields, Named, PartialList};
pub use node::{Node, Value};
pub use problem::{Problem, Problems};
pub use scalar::one_of;
pub use serde_saphyr::Location;

/// A value that can be read from a [`Node`].
pub trait FromNode: Sized {
    /// Reads the value. `None`: what is wrong has been reported to `problems`.
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self>;

    /// The value of a key that is not there; `None`: the key must be there.
    fn absent() -> Option<Self> {
        None
    }
}

/// Reads the whole of `text` as one `T`. `file` is what problems name.
pub fn parse<T: FromNode>(file: &str, text: &str) -> Result<T, Vec<Problem>> {
    let (value, problems) = read(file, text);
    problems.finish(value)
}

/// Reads what can be read of `text`, beside its problems, so that a later phase checks it in the same run.
pub fn read<T: FromNode>(file: &str, text: &str) -> (Option<T>, Problems) {
    let mut problems = Problems::new(file);
    let value = Node::parse(text, &mut problems).and_then(|root| T::from_node(&root, &mut problems));
    (value, problems)
}
