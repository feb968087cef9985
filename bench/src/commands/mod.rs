//! Commands, one file each. A command starts its stack, calls the library, and prints.

mod decide;
mod decision_memory;
mod faults;
mod growth;
mod instructions;
mod pipeline;
mod policies;
mod results;
mod sink;
mod soak;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agentgov::cli::Global;
use agentgov::commands::example::{AGENT, AIRLINE, ENVIRONMENT, TENANT};
use agentgov::commands::pipeline::{OtherBundles, Pushed, Stack};
use agentgov::context;
use agentgov::failure::{Failure, OrExit as _};
use agentgov::print::json;
use agentgov::progress::Progress;
use agentgov_bench::{Plot, Setup};
use agentgov_service::ExitCode;
use agentgov_testenv::BackendKind;
use serde::Serialize;
use tempfile::NamedTempFile;

use crate::cli::Command;
use crate::failpoints;

/// This executable, even if its file was replaced after the start.
const CURRENT_EXECUTABLE: &str = "/proc/self/exe";

/// Changes to the topology for a benchmark.
#[derive(Debug, Default)]
struct Edits {
    /// Partitions of each topic that has more than one.
    partitions: Option<u32>,
    /// Time to live of a session.
    session_ttl: Option<String>,
    /// Time during which further violations belong to an open alert.
    alert_window: Option<String>,
}

impl Edits {
    fn is_empty(&self) -> bool {
        self.partitions.is_none() && self.session_ttl.is_none() && self.alert_window.is_none()
    }

    /// Returns the topology's text with the changes.
    fn apply(&self, text: &str) -> String {
        let lines = text.lines().map(|line| {
            let key = line.trim_start();
            if let (Some(partitions), Some(now)) = (self.partitions, key.strip_prefix("partitions: "))
                && now.split(' ').next() != Some("1")
            {
                return line.replace(key, &format!("partitions: {partitions}"));
            }
            let durations = [("ttl: ", &self.session_ttl), ("alert_window: ", &self.alert_window)];
            for (key, duration) in durations {
                if let (Some(duration), Some((before, after))) = (duration, line.split_once(key)) {
                    let rest = after.find([',', ' ', '}']).and_then(|at| after.get(at..)).unwrap_or_default();
                    return format!("{before}{key}{duration}{rest}");
                }
            }
            line.to_owned()
        });
        lines.collect::<Vec<_>>().join("\n") + "\n"
    }
}

/// A native stack, whose processes can be measured and killed, and the arguments of the stages on it.
struct BenchStack {
    stack: Stack,
    /// Arguments after `run STAGE`.
    stage_args: Vec<String>,
    /// The changed topology file, deleted on drop.
    _edited: Option<NamedTempFile>,
}

/// Returns the product's executable: `named`, or the one beside this executable.
fn product(named: Option<&Path>) -> Result<PathBuf, Failure> {
    let beside = || std::env::current_exe().map(|executable| executable.with_file_name("agentgov"));
    let program = match named {
        Some(program) => program.to_owned(),
        None => beside().or_exit(ExitCode::Failed)?,
    };
    if program.is_file() {
        return std::path::absolute(program).or_exit(ExitCode::Failed);
    }
    let message = format!(
        "expected the product's executable at {}; build it with `cargo build -p agentgov` in the same profile, or name one with \
         --agentgov PATH",
        program.display()
    );
    Err(Failure::new(ExitCode::Usage, message))
}

impl BenchStack {
    fn start(data: Option<&PathBuf>, global: &Global, progress: &Arc<Progress>) -> Result<Self, Failure> {
        Self::start_with(&Edits::default(), data, global, progress)
    }

    fn start_with(
        edits: &Edits,
        data: Option<&PathBuf>,
        global: &Global,
        progress: &Arc<Progress>,
    ) -> Result<Self, Failure> {
        let mut edited = None;
        let mut file = global.topology.clone();
        if !edits.is_empty() {
            let text = match &file {
                Some(file) => context::read_text(file)?,
                None => agentgov_schemas::topology::EMBEDDED.to_owned(),
            };
            let mut new = tempfile::Builder::new().suffix(".yaml").tempfile().or_exit(ExitCode::Failed)?;
            new.write_all(edits.apply(&text).as_bytes()).or_exit(ExitCode::Failed)?;
            file = Some(new.path().to_owned());
            edited = Some(new);
        }
        let topology = context::topology_from(file.as_deref())?;
        let pushed = Pushed::of(&AIRLINE, OtherBundles::Replace)?;
        let stack =
            Stack::start(topology, data.cloned(), Some(BackendKind::Native), &pushed, global, progress)?;
        let mut stage_args = Vec::new();
        if let Some(file) = file {
            stage_args.extend(["--topology".to_owned(), file.display().to_string()]);
        }
        Ok(Self { stack, stage_args, _edited: edited })
    }

    /// Returns the setup of a benchmark with stages of `product`.
    fn setup(&self, product: &Path, seed: u64) -> Result<Setup<'_>, Failure> {
        Ok(Setup {
            env: &self.stack.env,
            endpoints: &self.stack.endpoints,
            topology: &self.stack.topology,
            stage_args: self.stage_args.clone(),
            tenant: TENANT,
            agent: AGENT,
            environment: ENVIRONMENT,
            product: product.to_owned(),
            bench: PathBuf::from(CURRENT_EXECUTABLE),
            recordings: agentgov_bench::create_recordings_folder(self.stack.env.logs())
                .or_exit(ExitCode::Failed)?,
            seed,
        })
    }
}

/// Prints the report as JSON or as text.
fn print_result<T: Serialize>(
    report: &T,
    global: &Global,
    print_report: impl FnOnce(&T),
) -> Result<ExitCode, Failure> {
    if global.json {
        json(report)?;
    } else {
        print_report(report);
    }
    Ok(ExitCode::Done)
}

/// Draws a plot into an existing folder.
fn draw(folder: &Path, file: &str, plot: &Plot) -> Result<(), Failure> {
    context::write(&folder.join(file), &plot.svg().or_exit(ExitCode::Failed)?)
}

/// Returns the number of cores available to this process.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Runs a command.
pub fn dispatch(command: Command, global: &Global) -> Result<ExitCode, Failure> {
    match command {
        Command::Pipeline(args) => pipeline::pipeline(&args, global),
        Command::Sink(args) => sink::sink(&args, global),
        Command::Growth(args) => growth::growth(&args, global),
        Command::Decide(args) => decide::decide(&args, global),
        Command::Soak(args) => soak::soak(&args, global),
        Command::DecisionMemory(args) => decision_memory::decision_memory(&args, global),
        Command::Instructions(args) => instructions::instructions(&args, global),
        Command::Plot(args) => results::plot(&args, global),
        Command::Faults(args) => faults::faults(&args, global),
        Command::Armed(command) => {
            let _scenario = failpoints::arm();
            agentgov::commands::dispatch(command, global)
        }
        Command::Produce(args) => faults::produce(args, global),
        Command::Worker(args) => pipeline::worker(&args, global),
        Command::Step(args) => instructions::step(&args, global),
        Command::Testenv(command) => {
            agentgov_testenv::run_helper(command).or_exit(ExitCode::Failed).map(|()| ExitCode::Done)
        }
    }
}

#[cfg(test)]
mod tests {
    use agentgov_schemas::topology::{EMBEDDED, Topology};

    use super::*;

    #[test]
    fn edits_change_only_their_own_settings() {
        let before = Topology::embedded().unwrap();
        let edits = Edits {
            partitions: Some(3),
            session_ttl: Some("2m".to_owned()),
            alert_window: Some("30s".to_owned()),
        };
        let after = Topology::parse("edited", &edits.apply(EMBEDDED)).unwrap();
        for (name, topic) in &before.topics {
            let expected = if topic.value.partitions.value == 1 { 1 } else { 3 };
            assert_eq!(after.topics[name].value.partitions.value, expected, "{name}");
        }
        let ttl = |topology: &Topology| {
            topology
                .stages
                .values()
                .find_map(|stage| stage.value.session.as_ref().map(|s| s.value.ttl.0.as_secs()))
        };
        assert_eq!((ttl(&before), ttl(&after)), (Some(7 * 86_400), Some(120)));
        let window = |topology: &Topology| {
            topology
                .stages
                .values()
                .find_map(|stage| stage.value.alert_window.as_ref().map(|window| window.value.0.as_secs()))
        };
        assert_eq!((window(&before), window(&after)), (Some(3_600), Some(30)));
        assert_eq!(Edits::default().apply(EMBEDDED), EMBEDDED);
    }
}
