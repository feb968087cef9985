//! `agentgov-bench growth`: measures throughput and cost at growing numbers of processes, sessions or policies.

use std::sync::Arc;

use agentgov::cli::Global;
use agentgov::commands::pipeline::Stack;
use agentgov::context;
use agentgov::failure::{Failure, OrExit as _};
use agentgov::print::outln;
use agentgov::progress::Progress;
use agentgov_bench::{Axis, Bench, Curve, Load, ObservedResult, Plot, Run, Spread, Usage};
use agentgov_service::ExitCode;
use serde::{Deserialize, Serialize};

use super::policies::{self, EVERY_TOOL, OTHER_TOOLS};
use super::results::ResultsFolder;
use super::{BenchStack, draw, print_result, product};
use crate::cli::{self, GrowthAxis};

const PROCESSES: [usize; 3] = [1, 2, 4];
const SESSIONS: [usize; 4] = [1_000, 10_000, 100_000, 1_000_000];
const POLICIES: [usize; 4] = [13, 100, 1_000, 10_000];
/// Policies about every tool are all evaluated for each call, so that their number is limited.
const POLICIES_ABOUT_EVERY_TOOL: [usize; 3] = [13, 100, 1_000];
/// Maximum number of policy evaluations in a run, which bounds its duration.
const MAX_EVALUATIONS: u64 = 100_000_000;

/// Measurements at one setting.
#[derive(Debug, Serialize, Deserialize)]
pub struct Point {
    /// Name of the curve.
    curve: String,
    /// Value of the setting.
    at: usize,
    /// One run per round.
    rounds: Vec<Run>,
}

pub fn growth(args: &cli::Growth, global: &Global) -> Result<ExitCode, Failure> {
    if let Some(folder) = &args.plots {
        context::create_folder(folder)?;
    }
    let product = product(args.env.agentgov.as_deref())?;
    let results = ResultsFolder::prepare(&args.env.results)?;
    let progress = Arc::new(Progress::new(global.json));
    let mut points: Vec<Point> = settings(args.by)
        .into_iter()
        .map(|(curve, at)| Point { curve: curve.to_owned(), at, rounds: Vec::new() })
        .collect();
    for round in 0..args.rounds {
        // Each round starts a new stack and measures in ascending order, since data of earlier sessions would change the
        // result.
        let bench_stack = BenchStack::start(args.env.data.as_ref(), global, &progress)?;
        let setup = bench_stack.setup(&product, args.env.seed + round as u64)?;
        let mut bench = Bench::new(&setup).or_exit(ExitCode::Failed)?;
        // Warms up caches, and creates the tables' first parts.
        bench
            .pipeline(Load::of(args.events.min(50_000)), ObservedResult::Nothing)
            .or_exit(ExitCode::Failed)?;
        for point in &mut points {
            let step = progress.step(format!(
                "round {} of {}: {} {}{}",
                round + 1,
                args.rounds,
                point.at,
                args.by.as_str(),
                point.curve
            ));
            let run = run_point(&mut bench, &bench_stack.stack, args, point)?;
            step.done(format!("{:.1} k/s", run.rate() / 1e3));
            point.rounds.push(run);
        }
        drop(bench);
        bench_stack.stack.env.stop().or_report(ExitCode::Failed)?;
    }
    if let Some(folder) = &args.plots {
        for (file, plot) in plots(args.by, &points) {
            draw(folder, file, &plot)?;
        }
    }
    if let Some(results) = results {
        results.write(&results_name(args.by), "growth", args, &points)?;
    }
    print_result(&points, global, |points| print_report(args, points))
}

/// Returns the name of the results file.
pub fn results_name(by: GrowthAxis) -> String {
    format!("growth-{}", by.as_str())
}

/// Returns curves and settings, each curve in ascending order.
fn settings(by: GrowthAxis) -> Vec<(&'static str, usize)> {
    match by {
        GrowthAxis::Processes => PROCESSES.map(|n| ("", n)).to_vec(),
        GrowthAxis::Sessions => SESSIONS.map(|n| ("", n)).to_vec(),
        GrowthAxis::Policies => {
            let every = POLICIES_ABOUT_EVERY_TOOL.map(|n| (EVERY_TOOL, n));
            // The largest bundle comes last, since every stage that starts after it compiles it.
            let (largest, other) = POLICIES
                .map(|n| (OTHER_TOOLS, n))
                .split_last()
                .map_or((None, Vec::new()), |(last, rest)| (Some(*last), rest.to_vec()));
            other.into_iter().chain(every).chain(largest).collect()
        }
    }
}

fn run_point(
    bench: &mut Bench<'_>,
    stack: &Stack,
    args: &cli::Growth,
    point: &Point,
) -> Result<Run, Failure> {
    let load = Load::of(args.events);
    let load = match args.by {
        GrowthAxis::Processes => Load { processes: point.at, ..load },
        // Each session gets one event before the measurement and one during it.
        GrowthAxis::Sessions => {
            Load { open_sessions: point.at, events: load.events.max(point.at as u64), ..load }
        }
        GrowthAxis::Policies => {
            policies::push(stack, point.at, &point.curve)?;
            let each = if point.curve == EVERY_TOOL { point.at as u64 } else { 1 };
            Load { events: load.events.min(MAX_EVALUATIONS / each), ..load }
        }
    };
    bench.pipeline(load, ObservedResult::Nothing).or_exit(ExitCode::Failed)
}

/// Returns the usage of a stage's processes, named `evaluator`, or `evaluator-0` and so on.
fn usage_of<'r>(run: &'r Run, stage: &'r str) -> impl Iterator<Item = &'r Usage> {
    run.usage
        .iter()
        .filter(move |(name, _)| {
            name.strip_prefix(stage).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        })
        .map(|(_, usage)| usage)
}

/// Returns a stage's CPU-seconds per million events, all its processes together.
fn cpu_of(run: &Run, stage: &str) -> f64 {
    usage_of(run, stage).map(|usage| usage.cpu_s).sum::<f64>() / run.events as f64 * 1e6
}

/// Returns the maximum resident megabytes of a single process of a stage.
fn megabytes_of(run: &Run, stage: &str) -> f64 {
    usage_of(run, stage).map(|usage| usage.rss_bytes as f64 / 1e6).fold(f64::NAN, f64::max)
}

fn spread(point: &Point, value: impl Fn(&Run) -> f64) -> Spread {
    Spread::of(point.rounds.iter().map(value))
}

fn curve(name: &str, points: &[Point], of: &str, value: impl Fn(&Run) -> f64) -> Curve {
    let points = points.iter().filter(|point| point.curve == of);
    Curve {
        name: name.to_owned(),
        points: points.map(|point| (point.at as f64, spread(point, &value))).collect(),
    }
}

/// Returns the plots of an axis with their file names.
pub fn plots(by: GrowthAxis, points: &[Point]) -> Vec<(&'static str, Plot)> {
    let plot = |title: &str, x: &str, (y, log): (&str, bool), curves| Plot {
        title: title.to_owned(),
        x: Axis { label: x.to_owned(), log: true },
        y: Axis { label: y.to_owned(), log },
        curves,
    };
    let cpu = "CPU-seconds a million events";
    match by {
        GrowthAxis::Processes => vec![(
            "growth-processes.svg",
            plot(
                "Throughput",
                "processes of each stage",
                ("events/s", false),
                vec![curve("pipeline", points, "", Run::rate)],
            ),
        )],
        GrowthAxis::Sessions => vec![
            (
                "growth-sessions.svg",
                plot(
                    "Cost of open sessions",
                    "open sessions",
                    (cpu, false),
                    vec![
                        curve("all processes", points, "", Run::cpu_per_million),
                        curve("evaluator", points, "", |run| cpu_of(run, "evaluator")),
                        curve("broker", points, "", |run| cpu_of(run, "broker")),
                    ],
                ),
            ),
            (
                "growth-sessions-memory.svg",
                plot(
                    "Memory of open sessions",
                    "open sessions",
                    ("MB resident at most", true),
                    vec![curve("evaluator", points, "", |run| megabytes_of(run, "evaluator"))],
                ),
            ),
        ],
        GrowthAxis::Policies => vec![(
            "growth-policies.svg",
            plot(
                "Cost of policies: the evaluator",
                "policies",
                (cpu, true),
                vec![
                    curve("the added ones are about other tools", points, OTHER_TOOLS, |run| {
                        cpu_of(run, "evaluator")
                    }),
                    curve("the added ones are about every tool", points, EVERY_TOOL, |run| {
                        cpu_of(run, "evaluator")
                    }),
                ],
            ),
        )],
    }
}

fn print_report(args: &cli::Growth, points: &[Point]) {
    let by = args.by.as_str();
    outln!(
        "{:>10} {:>26} {:>22} {:>22} {:>16}",
        by,
        "events/s",
        "CPU-s a million, all",
        "evaluator",
        "evaluator, MB"
    );
    let wide = |spread: Spread, digits: usize| {
        format!("{:.digits$} ({:.digits$} to {:.digits$})", spread.median, spread.least, spread.most)
    };
    for point in points {
        outln!(
            "{:>10} {:>26} {:>22} {:>22} {:>16.0}{}",
            point.at,
            wide(spread(point, Run::rate), 0),
            wide(spread(point, Run::cpu_per_million), 1),
            wide(spread(point, |run| cpu_of(run, "evaluator")), 1),
            spread(point, |run| megabytes_of(run, "evaluator")).most,
            point.curve
        );
    }
}
