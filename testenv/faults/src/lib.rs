//! The fault harness: real stage processes on a native stack, load throughout, a seeded schedule of faults that overlap, and the
//! audit when all is over.
//!
//! ```text
//!   Schedule (seed) ──► main loop ──► Fleet: SIGKILL, SIGSTOP/SIGCONT, at edges too; more and fewer processes of a stage
//!                           ├───────► Producers: SIGKILL and a start again on the same spool
//!                           ├───────► Proxy before ClickHouse: inserts cut, stalled, answers lost; Store: full for a while
//!                           └───────► broker, engine, registry: SIGKILL and a start again, each in a thread of its own
//!   producers: processes whose sources write sessions, close and are replaced ──► the log
//!   a stranger: transactions, odd headers, claims of any size, bytes that are no event ──► the log
//!   afterwards: agentgov_audit, until nothing is left to be done ──► Outcome
//! ```
//!
//! - [`run`], [`Setup`]: all of it
//! - [`schedule`], [`Scene`], [`Step`], [`Fault`]: what is done and when; the same seed makes the same schedule
//! - [`Edge`], [`AtEdge`], [`Meddling`]: where a process ends or stops in the middle, and what happens to an insert on its way
//! - [`produce`], [`Produce`]: a producer's process, which the harness starts
//! - [`Strangers`]: what a stranger's producer did beside them, and whether each of its records is a row
//! - [`Outcome`], [`Ended`], [`FaultsError`]: what came of it, or why nothing did

mod ended;
mod fleet;
mod full;
mod outcome;
mod plants;
mod produce;
mod producers;
mod proxy;
mod run;
mod schedule;
mod session;
mod strangers;

pub use ended::Ended;
pub use outcome::{FaultsError, Outcome};
pub use plants::{PLANT_COMMIT_FIRST, PLANT_NO_TAIL_READ, PLANTS};
pub use produce::{Produce, produce};
pub use producers::PRODUCERS;
pub use proxy::{Meddling, PLANT_NO_DRAIN};
pub use run::{Edge, Setup, run};
pub use schedule::{AtEdge, Fault, Scene, Step, schedule};
pub use strangers::Strangers;
