//! The benchmark of the pipeline: realistic load, the pipeline's processes and bare ones in turn, and what each costs.
//!
//! - [`Setup`], [`Bench`]: a stack, and runs on it
//! - [`Load`], [`Run`]: how much is published, and what it took
//! - [`Backlog`], [`Rival`]: the sink's work alone, by the log sink and by somebody else's program
//! - [`Floor`], [`Tape`]: bare processes that move the same bytes, so that a figure means something on any machine
//! - [`Report`]: rounds of all, medians and shares
//! - [`Plot`]: curves as SVG
//! - [`Step`], [`step`], [`instructions`]: what one event costs at each step, in instructions
//! - [`Part`], [`work`]: what the bench's own processes do

mod error;
mod floor;
mod hops;
mod kafka;
mod latency;
mod part;
mod plot;
mod process;
mod report;
mod run;
mod sessions;
mod sink;
mod steps;
mod store;
mod tape;

pub use error::BenchError;
pub use floor::copy::BareCopy;
pub use floor::insert::{BareInsert, Blocks};
pub use floor::publish::BarePublish;
pub use hops::{Hop, Hops};
pub use latency::{Alerts, Latency, Percentiles, WARM_UP_SECONDS, Watched};
pub use part::{Part, Places, Publish, Published, work};
pub use plot::{Axis, Curve, Plot};
pub use process::Usage;
pub use report::{Contender, PIPELINE, Report, SinkContender, SinkReport, Spread};
pub use run::{Bench, Floor, Load, Run, Sample, Setup, Soak, Tape, tapes};
pub use sink::{Backlog, Rival};
pub use steps::{Step, StepError, instructions, step};
pub use store::Store;
