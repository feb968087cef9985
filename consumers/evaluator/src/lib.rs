//! The evaluator: actions in, verdicts out. It knows what each session knows, and judges each action by the policies.
//!
//! ```text
//!   action ─► expired sessions go ─► Kernel::step(session, action) ─► verdict, if the type is judged
//!                                                                 └─► changes ─► changelog
//!   governance.agents, governance.bundles ─► tables
//!   a bundle that does not load ─► an alert, and not ready; the last good one goes on judging
//! ```

mod evaluator;
mod keys;
mod refusals;
mod sessions;

pub use evaluator::Evaluator;
pub use sessions::Sessions;
