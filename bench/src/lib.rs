//! Benchmarks of the pipeline under realistic load, in turn with bare processes.
//!
//! - [`Setup`], [`Bench`]: a stack, and runs on it
//! - [`Load`], [`Run`]: load and result of a run
//! - [`Backlog`], [`Competitor`]: the log-sink's work alone, by the log-sink and by other programs
//! - [`Baseline`], [`Recording`]: bare processes that move the same bytes, for figures that are comparable between machines
//! - [`AccessSet`], [`KnownProbe`], [`closed_loop`], [`DecideReport`]: measurements of decision points
//! - [`DecisionMemory`]: memory of a decision point with many open sessions
//! - [`Report`]: medians and ratios over rounds
//! - [`Plot`]: curves as SVG
//! - [`Step`], [`step`], [`instructions`]: instructions per event of each step
//! - [`WorkerTask`], [`run_worker`]: worker processes of the benchmark

mod baseline;
mod decide;
mod decision_memory;
mod error;
mod kafka;
mod latency;
mod plot;
mod process;
mod recording;
mod report;
mod run;
mod sessions;
mod sink;
mod stage_latency;
mod steps;
mod store;
mod worker;

pub use baseline::copy::BareCopy;
pub use baseline::insert::{BareInsert, Blocks};
pub use baseline::publish::BarePublish;
pub use decide::{
    AccessSet, Client, ConstantServer, DecideReport, DecideRound, HookProbe, HttpFigures, KnownProbe, Pair,
    Questions, Ratios, RunningServer, RunningStages, Start, closed_loop,
};
pub use decision_memory::{DecisionLoad, DecisionMemory, MemorySample};
pub use error::BenchError;
pub use latency::{Alerts, Latency, ObservedResult, Percentiles, WARM_UP_SECONDS};
pub use plot::{Axis, Curve, Plot};
pub use process::Usage;
pub use report::{Contender, PIPELINE, Report, SinkContender, SinkReport, Spread};
pub use run::{Baseline, Bench, Load, Recording, Run, Sample, Setup, Soak, create_recordings_folder};
pub use sessions::{InterruptedSession, Scripts};
pub use sink::{Backlog, Competitor};
pub use stage_latency::{StageLatencies, StageLatency};
pub use steps::{Step, StepError, instructions, step};
pub use store::Store;
pub use worker::{PublishResult, PublishTask, WorkerContext, WorkerTask, run_worker};
