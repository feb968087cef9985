//! Fault harness: stage processes on a native stack under load, a seeded schedule of overlapping faults, and an audit at
//! the end.
//!
//! ```text
//!   Schedule (seed) ──► main loop ──► StageProcesses: SIGKILL, SIGSTOP/SIGCONT, also at failpoints; scaling of stages
//!                           ├───────► decision points: SIGKILL and restart on the same spool, SIGSTOP/SIGCONT, also at failpoints
//!                           ├───────► Producers: SIGKILL and restart on the same spool
//!                           ├───────► Proxy in front of ClickHouse: cut and stalled inserts, lost responses; FullStore
//!                           └───────► broker, engine, registry: SIGKILL and restart, each in its own thread
//!   producers: processes whose sources write sessions, close and are replaced ──► the log
//!   callers: ask a decision before each call, retry at the other decision point, record the call ──► the log
//!   suspensions: suspend and resume the agents of the callers ──► governance topics
//!   foreign client: transactions, odd headers, claims of any size, invalid events ──► the log
//!   afterwards: agentgov_audit, until no work is pending; the answers against the log and the suspensions ──► Outcome
//! ```
//!
//! - [`run`], [`Setup`]: a run of the harness
//! - [`schedule`], [`ScheduleParams`], [`Step`], [`Fault`]: the schedule, determined by its seed
//! - [`Failpoint`], [`FailpointStop`], [`InsertFault`]: failpoints at which a process ends or stops, and faults of inserts
//! - [`produce`], [`Produce`]: a producer process, started by the harness
//! - [`ForeignClientReport`]: records of a foreign client, and whether they are rows
//! - [`DecisionReport`]: answers of the decision points, compared with the log and the suspensions
//! - [`Outcome`], [`UnexpectedExits`], [`FaultsError`]: result of a run

mod callers;
mod decision_points;
mod decisions;
mod exits;
mod foreign_client;
mod full_store;
mod outcome;
mod plants;
mod producer;
mod producers;
mod proxy;
mod run;
mod schedule;
mod session;
mod stage_processes;
mod suspensions;
mod table;

pub use decision_points::DECISION_POINTS;
pub use decisions::DecisionReport;
pub use exits::UnexpectedExits;
pub use foreign_client::ForeignClientReport;
pub use outcome::{FaultsError, Outcome};
pub use plants::{
    PLANT_ALTER_DECISION, PLANT_COMMIT_FIRST, PLANT_DOUBLE_DECISION, PLANT_FORGET_DECISION,
    PLANT_LATE_SUSPENSION, PLANT_NO_TAIL_READ, PLANT_REUSE_TOKEN, PLANTS,
};
pub use producer::{Produce, produce};
pub use producers::PRODUCERS;
pub use proxy::{InsertFault, PLANT_NO_DRAIN};
pub use run::{Failpoint, Setup, run};
pub use schedule::{FailpointStop, Fault, ScheduleParams, Step, schedule};
