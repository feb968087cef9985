//! The choice between the backends, and the one that needs no start.

mod choice;
pub(crate) mod external;

pub(crate) use choice::{Choice, choose, deciding};
