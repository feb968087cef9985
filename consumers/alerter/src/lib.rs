//! The alerter: reads verdicts and emits alerts.
//!
//! ```text
//!   verdict ─► findings ─► is a window open for (tenant, session, policy)?
//!                            no  ─► opens a window: new alert id, revision 0
//!                            yes ─► same alert id, next revision
//! ```
//!
//! An alert is emitted at once, not when its window closes. Windows close by `logged_at` and not by a clock, so that the
//! same verdicts give the same alerts.

mod alerter;
mod findings;
mod windows;

pub use alerter::Alerter;
