//! The fault harness: real stage processes on a native stack, load throughout, a seeded schedule of faults that overlap, and the
//! audit when all is over.
//!
//! ```text
//!   Schedule (seed) ──► main loop ──► Fleet: SIGKILL, SIGSTOP/SIGCONT, more and fewer processes of a stage
//!                           └───────► broker, engine: SIGKILL and a start again, each in a thread of its own
//!                           └───────► Producers: SIGKILL and a start again on the same spool
//!   producers: processes whose sources write sessions, close and are replaced ──► the log
//!   afterwards: agentgov_audit, until nothing is left to be done ──► Outcome
//! ```
//!
//! - [`run`], [`Setup`]: all of it
//! - [`schedule`], [`Step`], [`Fault`]: what is done and when; the same seed makes the same schedule
//! - [`produce`], [`Produce`]: a producer's process, which the harness starts
//! - [`Outcome`], [`FaultsError`]: what came of it, or why nothing did

mod fleet;
mod outcome;
mod produce;
mod producers;
mod run;
mod schedule;
mod session;

pub use outcome::{FaultsError, Outcome};
pub use produce::{Produce, produce};
pub use run::{Setup, run};
pub use schedule::{Fault, Step, schedule};
