//! The evaluator: reads actions and emits verdicts. It keeps the state of each session and evaluates each action against
//! the policies of the active bundle.
//!
//! ```text
//!   action ─► remove expired sessions ─► Kernel::step(session, action) ─► verdict, if the event type is judged
//!                                                                      └─► changed entries ─► changelog
//!   governance.agents, governance.tools, governance.bundles, governance.keys ─► global tables
//!   a token on the action ─► verified by the keys, compared with action and verdict ─► prior_decision of the verdict
//!   a changed table, limit or version ─► evaluation basis, from which offset on
//!   a bundle that does not load ─► an alert and `not ready`; the last good bundle stays active
//! ```

mod basis;
mod bundle_alerts;
mod evaluator;
mod keys;
mod prior_decision;
mod refused_answer;
mod replica;
mod sessions;
mod stepped;

pub use evaluator::Evaluator;
pub use keys::PROGRESS as PROGRESS_KEY;
pub use replica::{Action, Replica, UndecodableRecord};
pub use sessions::Sessions;
pub use stepped::SessionRef;
