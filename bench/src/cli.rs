//! The command line.

use std::path::PathBuf;

use agentgov::cli::{Command as ProductCommand, Global};
use agentgov::failure::Failure;
use agentgov::process::CommandLine;
use agentgov_service::ExitCode;
use agentgov_testenv::HelperCommand;
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::commands;

/// Measures the pipeline and breaks it: benchmarks and the fault harness.
#[derive(Debug, Parser)]
#[command(name = "agentgov-bench", version, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Where the stack is, and which topology applies.
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

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// How fast the pipeline is, what it costs, and how late its rows and alerts are; bare processes that move the same bytes
    /// run in turn with it, and say what the machine can do.
    Pipeline(Pipeline),
    /// The sink's work alone, rows per second of CPU: the log sink, a bare insert of the same rows, and others' programs in turn.
    Sink(Sink),
    /// How cost grows: throughput by processes of each stage, cost by open sessions or by policies, each from little to much.
    Growth(Growth),
    /// Whether memory stays where it is: the pipeline as fast as it goes for minutes, its memory looked at each second.
    Soak(Soak),
    /// How many instructions an event costs at each step, counted by valgrind's callgrind: the same on a busy machine. With
    /// `--check`, exit code 3 if a step costs more than the file says.
    Instructions(Instructions),
    /// Draws the results files of `growth` and `soak` as SVG.
    Plot(Plot),
    /// Two processes of each stage on a stack of their own, under load, while stages, producers and the stack are killed, stopped and
    /// scaled; then the audit. Exit code 3 if anything was lost, doubled or did not recover.
    Faults(Faults),
    /// A command of `agentgov`, in a process that obeys FAILPOINTS: the stages of `faults`.
    #[command(subcommand)]
    Armed(ProductCommand),
    /// A producer of `faults`, started by it.
    Produce(Produce),
    /// A process beside those of the product, started by the benchmarks.
    Part(Part),
    /// One step, started by `instructions`.
    Step(Step),
    /// The processes beside a stack's parts, started by the stack itself.
    #[command(subcommand)]
    Testenv(HelperCommand),
}

/// `instructions`.
#[derive(Debug, Args, Serialize)]
pub struct Instructions {
    /// Events of a count; twice as many are counted as well.
    #[arg(long, value_name = "N", default_value_t = 2_000)]
    pub events: usize,
    /// Compare with the figures in this file.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub check: Option<PathBuf>,
    /// How much more a step may cost, in percent.
    #[arg(long, value_name = "PERCENT", default_value_t = 3.0)]
    pub tolerance: f64,
    /// Write the figures into this file.
    #[arg(long, value_name = "FILE", conflicts_with = "check")]
    #[serde(skip)]
    pub write: Option<PathBuf>,
    /// Where the results go.
    #[command(flatten)]
    #[serde(skip)]
    pub results: Results,
}

/// Where the results go.
#[derive(Debug, Args)]
pub struct Results {
    /// Write the results, with machine, commit and date, as a JSON file into this folder, in place of the file of the last run.
    /// The folder is created if it does not exist.
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
    /// Its name.
    pub step: String,
    /// With how many events.
    #[arg(long, value_name = "N")]
    pub events: usize,
}

/// `pipeline`.
#[derive(Debug, Args, Serialize)]
pub struct Pipeline {
    /// Events of a round.
    #[arg(long, value_name = "N", default_value_t = 400_000)]
    pub events: u64,
    /// Rounds of each; at least five for figures that others should believe.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub rounds: usize,
    /// Events a second of the runs that measure latency; default: half of what the pipeline reached.
    #[arg(long, value_name = "N")]
    pub rate: Option<f64>,
    /// How long each of those runs is measured, after ten seconds that are not; 0: none.
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    pub latency_seconds: u64,
    /// How many of them, after one that is not counted.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub latency_rounds: usize,
    /// Processes of each stage.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub processes: usize,
    /// Sessions that are open side by side.
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub sessions: usize,
    /// Partitions of each topic of the log; default: as the topology says.
    #[arg(long, value_name = "N")]
    pub partitions: Option<u32>,
    /// Policies of the bundle: the example's, and as many more about other tools; default: the example's.
    #[arg(long, value_name = "N")]
    pub policies: Option<usize>,
    /// Where it runs.
    #[command(flatten)]
    #[serde(flatten)]
    pub ground: Ground,
    /// Where the results go.
    #[command(flatten)]
    #[serde(skip)]
    pub results: Results,
}

/// What benches that publish sessions have in common.
#[derive(Debug, Args, Serialize)]
pub struct Ground {
    /// The same seed makes the same sessions.
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,
    /// Keep data and logs here; default: a temporary folder that is removed at the end.
    #[arg(long, value_name = "DIR")]
    #[serde(skip)]
    pub data: Option<PathBuf>,
    /// The product's executable, whose stages run; default: `agentgov` beside this one.
    #[arg(long, value_name = "PATH")]
    #[serde(skip)]
    pub agentgov: Option<PathBuf>,
}

/// `growth`.
#[derive(Debug, Args, Serialize)]
pub struct Growth {
    /// What there is more of.
    #[arg(long, value_name = "WHAT")]
    pub by: GrowthAxis,
    /// Events of a run; with more open sessions than that, as many as sessions.
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    pub events: u64,
    /// Rounds, each on a stack of its own.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub rounds: usize,
    /// Draw into this folder, which is made if it is not there.
    #[arg(long, value_name = "DIR")]
    #[serde(skip)]
    pub plots: Option<PathBuf>,
    /// Where it runs.
    #[command(flatten)]
    #[serde(flatten)]
    pub ground: Ground,
    /// Where the results go.
    #[command(flatten)]
    #[serde(skip)]
    pub results: Results,
}

/// What `growth` has more and more of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum GrowthAxis {
    /// Processes of each stage: 1, 2, 4.
    Processes,
    /// Open sessions: 1,000 to 1,000,000.
    Sessions,
    /// Policies: the example's 13 to 10,000, the added ones about other tools, then about every tool.
    Policies,
}

impl GrowthAxis {
    /// Its name.
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
    /// How long.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub seconds: u64,
    /// Events a second; default: as many as the pipeline has just done.
    #[arg(long, value_name = "N")]
    pub rate: Option<f64>,
    /// How long a session is remembered after its last event; default: as the topology says. Sessions are memory: what is still
    /// remembered grows with the days.
    #[arg(long, value_name = "DURATION")]
    pub session_ttl: Option<String>,
    /// How long further violations of a policy in a session belong to an open alert; default: as the topology says. An alert is
    /// remembered as long.
    #[arg(long, value_name = "DURATION")]
    pub alert_window: Option<String>,
    /// Draw into this folder, which is made if it is not there.
    #[arg(long, value_name = "DIR")]
    #[serde(skip)]
    pub plots: Option<PathBuf>,
    /// Where it runs.
    #[command(flatten)]
    #[serde(flatten)]
    pub ground: Ground,
    /// Where the results go.
    #[command(flatten)]
    #[serde(skip)]
    pub results: Results,
}

/// `sink`.
#[derive(Debug, Args, Serialize)]
pub struct Sink {
    /// Events in the topic.
    #[arg(long, value_name = "N", default_value_t = 500_000)]
    pub events: u64,
    /// Rounds of each; at least five for figures that others should believe.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub rounds: usize,
    /// A folder with others' programs, each in a folder of its own (bench/rivals in the sources).
    #[arg(long, value_name = "DIR")]
    #[serde(skip)]
    pub rivals: Option<PathBuf>,
    /// Where it runs.
    #[command(flatten)]
    #[serde(flatten)]
    pub ground: Ground,
    /// Where the results go.
    #[command(flatten)]
    #[serde(skip)]
    pub results: Results,
}

/// `part`.
#[derive(Debug, Args)]
pub struct Part {
    /// Where the tapes are.
    #[arg(long, value_name = "DIR")]
    pub tapes: PathBuf,
    /// What it is to do, as JSON.
    pub what: String,
}

/// `faults`.
#[derive(Debug, Args)]
pub struct Faults {
    /// How often a process is killed (SIGKILL).
    #[arg(long, value_name = "N", default_value_t = 40)]
    pub kills: usize,
    /// The same seed makes the same schedule.
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,
    /// Keep data and logs here; default: a temporary folder that is removed at the end.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Plant a mistake in the stages, to see that it is found: sink::no-drain and others.
    #[arg(long, value_name = "MISTAKE")]
    pub plant: Vec<String>,
}

/// `produce`.
#[derive(Debug, Args)]
pub struct Produce {
    /// Whose sessions it writes.
    #[arg(long)]
    pub tenant: String,
    /// Who acts in them.
    #[arg(long)]
    pub agent: String,
    /// Where.
    #[arg(long)]
    pub environment: String,
    /// The spool's folder.
    #[arg(long, value_name = "DIR")]
    pub spool: PathBuf,
    /// What the sessions are made from.
    #[arg(long, value_name = "S")]
    pub seed: u64,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
