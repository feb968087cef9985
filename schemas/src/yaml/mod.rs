//! Reading of YAML files that people write. All mistakes of a file are reported at once, each with its location.
//!
//! serde stops at the first error. Therefore a file is parsed into a tree of [`Node`]s with locations, and [`FromNode`] reads
//! typed values from that tree, reports mistakes and continues. [`mapping!`](crate::mapping) reads a struct by its fields:
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
mod token_digest;

pub use fields::{Fields, Named, PartialList};
pub use node::{Node, Value};
pub use problem::{Problem, Problems};
pub use scalar::one_of;
pub use serde_saphyr::Location;
pub use token_digest::TokenDigest;

/// Type that can be read from a [`Node`].
pub trait FromNode: Sized {
    /// Reads the value. Reports mistakes to `problems` and returns `None`.
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self>;

    /// Returns the value for a key that is absent; `None` if the key is required.
    fn absent() -> Option<Self> {
        None
    }
}

/// Reads `text` as one `T`. `file` is the name of the file in problems.
pub fn parse<T: FromNode>(file: &str, text: &str) -> Result<T, Vec<Problem>> {
    let (value, problems) = read(file, text);
    problems.finish(value)
}

/// Reads the valid parts of `text` and returns them with the problems, so that a later phase can check them in the same run.
pub fn read<T: FromNode>(file: &str, text: &str) -> (Option<T>, Problems) {
    let mut problems = Problems::new(file);
    let value = Node::parse(text, &mut problems).and_then(|root| T::from_node(&root, &mut problems));
    (value, problems)
}
