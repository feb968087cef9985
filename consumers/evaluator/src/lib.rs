//! The evaluator: reads actions and emits verdicts. It keeps the state of each session and evaluates each action against
//! the policies of the active bundle.
//!
//! ```text
//!   action ─► remove expired sessions ─► Kernel::step(session, action) ─► verdict, if the event type is judged
//!                                                                      └─► changed entries ─► changelog
//!   governance.agents, governance.bundles ─► global tables
//!   a bundle that does not load ─► an alert and `not ready`; the last good bundle stays active
//! ```

mod bundle_alerts;
mod evaluator;
mod keys;
mod replica;
mod sessions;

pub use evaluator::Evaluator;
pub use keys::PROGRESS as PROGRESS_KEY;
pub use replica::{Action, Replica, UndecodableRecord};
pub use sessions::Sessions;
