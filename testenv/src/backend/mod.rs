//! Selection of the backend, and the external backend.

mod choice;
pub(crate) mod external;

pub(crate) use choice::{SelectedBackend, deciding_variables, select_backend};
