//! The alerter: verdicts in, alerts out.
//!
//! ```text
//!   verdict ─► findings ─► a window is open for (tenant, session, policy)?
//!                            no  ─► a new alert, revision 0, window opened
//!                            yes ─► the same alert id, the next revision
//! ```
//!
//! Nothing waits for a window to close, and windows close by `logged_at`: the same verdicts give the same alerts.

mod alerter;
mod findings;
mod windows;

pub use alerter::Alerter;
