//! Command line of `agentgov-bench`.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;

use agentgov::cli::{Command as ProductCommand, Global};
use agentgov::failure::Failure;
use agentgov::process::CommandLine;
use agentgov_service::ExitCode;
use agentgov_testenv::HelperCommand;
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::commands;

/// Benchmarks of the pipeline, and the fault harness.
#[derive(Debug, Parser)]
#[command(name = "agentgov-bench", version, arg_required_else_help = true)]
pub struct Cli {
    /// Command to run.
    #[command(subcommand)]
    pub command: Command,
    /// Addresses of the stack, and the topology.
    #[command(flatten)]
    pub global: Global,
}

impl CommandLine for Cli {
    fn global(&self) -> &Global {
        &self.global
    }

    fn run(self) -> Result<ExitCode, Failure> {
        commands::dispatch(self.command, &self.global)
    }
}

/// Commands of `agentgov-bench`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measure throughput, CPU and latency of the pipeline, in turn with bare processes that move the same bytes.
    Pipeline(Pipeline),
    /// Measure rows per CPU-second of the log-sink, a bare insert of the same rows, and other programs, in turn.
    Sink(Sink),
    /// Measure throughput by processes of each stage, and cost by open sessions or policies.
    Growth(Growth),
    /// Measure memory each second while the pipeline runs at full speed for minutes.
    Soak(Soak),
    /// Measure decision points: decisions over HTTP, by a bundle alone beside OPA and Cedar, and how soon a result or a
    /// suspension counts.
    Decide(Decide),
    /// Measure the memory of a decision point with many open sessions, and its growth while it answers questions.
    DecisionMemory(DecisionMemory),
    /// Count the instructions of each step of an event with valgrind's callgrind; other load has no effect. With `--check`,
    /// exit code 3: a step costs more than in the file.
    Instructions(Instructions),
    /// Draw the results files of `growth` and `soak` as SVG.
    Plot(Plot),
    /// Kill, pause and scale stages, producers and the parts of a stack under load, then audit the log. Exit code 3: a
    /// record was lost or doubled, or a part did not recover.
    Faults(Faults),
    /// Run a command of `agentgov` that obeys FAILPOINTS; started by `faults`.
    #[command(subcommand)]
    Armed(ProductCommand),
    /// Run a producer; started by `faults`.
    Produce(Produce),
    /// Run a worker process; started by the benchmarks.
    Worker(Worker),
    /// Run one step; started by `instructions`.
    Step(Step),
    /// Internal processes of a local stack, started by the stack itself.
    #[command(subcommand)]
    Testenv(HelperCommand),
}

/// `instructions`.
#[derive(Debug, Args, Serialize)]
pub struct Instructions {
    /// Events of the first count; the second count has twice as many.
    #[arg(long, value_name = "N", default_value_t = 2_000)]
    pub events: usize,
    /// Compare with the figures of this file.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub check: Option<PathBuf>,
    /// Tolerated increase of a step, in percent.
    #[arg(long, value_name = "PERCENT", default_value_t = 3.0)]
    pub tolerance: f64,
    /// Write the figures to this file.
    #[arg(long, value_name = "FILE", conflicts_with = "check")]
    #[serde(skip)]
    pub write: Option<PathBuf>,
    /// Destination of the results.
    #[command(flatten)]
    #[serde(skip)]
    pub results: ResultsArgs,
}

/// Destination of the results.
#[derive(Debug, Args)]
pub struct ResultsArgs {
    /// Write the results, with machine, commit and date, as a JSON file into this folder, replacing the file of the last
    /// run. The folder is created if it does not exist.
    #[arg(long, value_name = "DIR")]
    pub results: Option<PathBuf>,
}

/// `plot`.
#[derive(Debug, Args)]
pub struct Plot {
    /// Folder of the results files.
    #[arg(long, value_name = "DIR")]
    pub results: PathBuf,
    /// Folder of the plots; created if it does not exist.
    #[arg(long, value_name = "DIR")]
    pub plots: PathBuf,
}

/// `step`.
#[derive(Debug, Args)]
pub struct Step {
    /// Name of the step.
    pub step: String,
    /// Number of events.
    #[arg(long, value_name = "N")]
    pub events: usize,
}

/// `pipeline`.
#[derive(Debug, Args, Serialize)]
pub struct Pipeline {
    /// Events of a round.
    #[arg(long, value_name = "N", default_value_t = 400_000)]
    pub events: u64,
    /// Rounds of each contender; at least five for reliable figures.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub rounds: usize,
    /// Events per second of the latency runs [default: half of the measured throughput].
    #[arg(long, value_name = "N")]
    pub rate: Option<f64>,
    /// Measured seconds of a latency run, after ten seconds of warm-up; 0: no latency runs.
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    pub latency_seconds: u64,
    /// Latency rounds, after one warm-up round.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub latency_rounds: usize,
    /// Processes of each stage.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub processes: usize,
    /// Concurrently open sessions.
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub sessions: usize,
    /// Partitions of each topic of the log [default: those of the topology].
    #[arg(long, value_name = "N")]
    pub partitions: Option<u32>,
    /// Policies of the bundle: those of the example, and generated ones about other tools [default: those of the example].
    #[arg(long, value_name = "N")]
    pub policies: Option<usize>,
    /// Load, stack and executable.
    #[command(flatten)]
    #[serde(flatten)]
    pub env: BenchEnv,
}

/// Load, stack, executable and results of a benchmark.
#[derive(Debug, Args, Serialize)]
pub struct BenchEnv {
    /// Seed of the sessions.
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,
    /// Folder for data and logs [default: a temporary folder, removed at the end].
    #[arg(long, value_name = "DIR")]
    #[serde(skip)]
    pub data: Option<PathBuf>,
    /// Executable whose stages run [default: `agentgov` beside this one].
    #[arg(long, value_name = "PATH")]
    #[serde(skip)]
    pub agentgov: Option<PathBuf>,
    /// Destination of the results.
    #[command(flatten)]
    #[serde(skip)]
    pub results: ResultsArgs,
}

/// `growth`.
#[derive(Debug, Args, Serialize)]
pub struct Growth {
    /// Quantity to increase.
    #[arg(long, value_name = "WHAT")]
    pub by: GrowthAxis,
    /// Events of a run; at least one per open session.
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    pub events: u64,
    /// Rounds, each on a new stack.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub rounds: usize,
    /// Folder for plots; created if it does not exist.
    #[arg(long, value_name = "DIR")]
    #[serde(skip)]
    pub plots: Option<PathBuf>,
    /// Load, stack and executable.
    #[command(flatten)]
    #[serde(flatten)]
    pub env: BenchEnv,
}

/// Quantity that `growth` increases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum GrowthAxis {
    /// Processes of each stage: 1, 2, 4.
    Processes,
    /// Open sessions: 1,000 to 1,000,000.
    Sessions,
    /// Policies: from the example's 13 to 10,000; the added ones apply to other tools, then to every tool.
    Policies,
}

impl GrowthAxis {
    /// Returns the name of the axis.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Processes => "processes",
            Self::Sessions => "sessions",
            Self::Policies => "policies",
        }
    }
}

/// `soak`.
#[derive(Debug, Args, Serialize)]
pub struct Soak {
    /// Duration of the soak.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub seconds: u64,
    /// Events per second [default: measured before the soak].
    #[arg(long, value_name = "N")]
    pub rate: Option<f64>,
    /// Time to live of a session after its last event [default: that of the topology]. Memory of sessions grows with it.
    #[arg(long, value_name = "DURATION")]
    pub session_ttl: Option<String>,
    /// Time during which further violations belong to an open alert [default: that of the topology]. Alerts stay in memory
    /// that long.
    #[arg(long, value_name = "DURATION")]
    pub alert_window: Option<String>,
    /// Folder for plots; created if it does not exist.
    #[arg(long, value_name = "DIR")]
    #[serde(skip)]
    pub plots: Option<PathBuf>,
    /// Load, stack and executable.
    #[command(flatten)]
    #[serde(flatten)]
    pub env: BenchEnv,
}

/// `decide`.
#[derive(Debug, Args, Serialize)]
pub struct Decide {
    /// Rounds of each contender; at least five for reliable figures.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub rounds: usize,
    /// Seconds of each measurement within a round.
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0)]
    pub seconds: f64,
    /// Events that are in the log before the measurements.
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    pub events: u64,
    /// Open sessions of these events; the state that a process restores at its start.
    #[arg(long, value_name = "N", default_value_t = 50_000)]
    pub sessions: usize,
    /// Executable of Open Policy Agent [default: `opa` in the PATH; without it, nothing is compared with OPA].
    #[arg(long, value_name = "PATH", env = "AGENTGOV_OPA")]
    #[serde(skip)]
    pub opa: Option<PathBuf>,
    /// Load, stack and executable.
    #[command(flatten)]
    #[serde(flatten)]
    pub env: BenchEnv,
}

/// `decision-memory`.
#[derive(Debug, Args, Serialize)]
pub struct DecisionMemory {
    /// Open sessions.
    #[arg(long, value_name = "N", default_value = "1000000")]
    pub sessions: NonZeroUsize,
    /// Duration of the questions.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub seconds: u64,
    /// Questions per second.
    #[arg(long, value_name = "N", default_value = "100")]
    pub rate: NonZeroU32,
    /// Load, stack and executable.
    #[command(flatten)]
    #[serde(flatten)]
    pub env: BenchEnv,
}

/// `sink`.
#[derive(Debug, Args, Serialize)]
pub struct Sink {
    /// Events in the topic.
    #[arg(long, value_name = "N", default_value_t = 500_000)]
    pub events: u64,
    /// Rounds of each contender; at least five for reliable figures.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub rounds: usize,
    /// Folder of competitors, each in its own folder (bench/competitors in the sources).
    #[arg(long, value_name = "DIR")]
    #[serde(skip)]
    pub competitors: Option<PathBuf>,
    /// Load, stack and executable.
    #[command(flatten)]
    #[serde(flatten)]
    pub env: BenchEnv,
}

/// `worker`.
#[derive(Debug, Args)]
pub struct Worker {
    /// Folder of the recordings.
    #[arg(long, value_name = "DIR")]
    pub recordings: PathBuf,
    /// Task of the worker, as JSON.
    pub task: String,
}

/// `faults`.
#[derive(Debug, Args)]
pub struct Faults {
    /// Scheduled SIGKILLs.
    #[arg(long, value_name = "N", default_value_t = 40)]
    pub kills: usize,
    /// Seed of the schedule.
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,
    /// Folder for data and logs [default: a temporary folder, removed at the end].
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Plant a mistake in the stages that the audit must find, e.g. sink::no-drain.
    #[arg(long, value_name = "MISTAKE")]
    pub plant: Vec<String>,
}

/// `produce`.
#[derive(Debug, Args)]
pub struct Produce {
    /// Tenant of the sessions.
    #[arg(long)]
    pub tenant: String,
    /// Agent of the sessions.
    #[arg(long)]
    pub agent: String,
    /// Deployment environment of the sessions.
    #[arg(long)]
    pub environment: String,
    /// Folder of the spool.
    #[arg(long, value_name = "DIR")]
    pub spool: PathBuf,
    /// Seed of the sessions.
    #[arg(long, value_name = "S")]
    pub seed: u64,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
