//! `agentgov-bench soak`: measures memory over time at full speed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use agentgov::cli::Global;
use agentgov::context;
use agentgov::failure::{Failure, OrExit as _};
use agentgov::print::outln;
use agentgov::progress::Progress;
use agentgov_bench::{Axis, Bench, Curve, Load, ObservedResult, Plot, Sample, Soak, Spread};
use agentgov_service::ExitCode;

use super::results::ResultsFolder;
use super::{BenchStack, Edits, draw, print_result, product};
use crate::cli;

/// Events of the run that measures the throughput.
const PROBE_EVENTS: u64 = 200_000;
/// File name of the plot.
pub const PLOT_FILE: &str = "soak-memory.svg";
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

pub fn soak(args: &cli::Soak, global: &Global) -> Result<ExitCode, Failure> {
    if let Some(folder) = &args.plots {
        context::create_folder(folder)?;
    }
    let product = product(args.env.agentgov.as_deref())?;
    let results = ResultsFolder::prepare(&args.env.results)?;
    let progress = Arc::new(Progress::new(global.json));
    let edits = Edits {
        session_ttl: args.session_ttl.clone(),
        alert_window: args.alert_window.clone(),
        ..Edits::default()
    };
    let bench_stack = BenchStack::start_with(&edits, args.env.data.as_ref(), global, &progress)?;
    let setup = bench_stack.setup(&product, args.env.seed)?;
    let mut bench = Bench::new(&setup).or_exit(ExitCode::Failed)?;
    let rate = match args.rate {
        Some(rate) => rate,
        None => {
            let step = progress.step("measuring the throughput");
            bench.pipeline(Load::of(PROBE_EVENTS), ObservedResult::Nothing).or_exit(ExitCode::Failed)?;
            let rate = bench
                .pipeline(Load::of(PROBE_EVENTS), ObservedResult::Nothing)
                .or_exit(ExitCode::Failed)?
                .rate();
            step.done(format!("{rate:.0} events/s"));
            rate
        }
    };
    let step = progress.counted(format!("{rate:.0} events/s"), args.seconds);
    let load = Load { rate: Some(rate), ..Load::of((rate * args.seconds as f64) as u64) };
    let soak = bench
        .soak(load, SAMPLE_INTERVAL, &|sample| step.at(sample.seconds as u64, args.seconds))
        .or_exit(ExitCode::Failed)?;
    step.done("");
    bench_stack.stack.env.stop().or_report(ExitCode::Failed)?;
    if let Some(folder) = &args.plots {
        draw(folder, PLOT_FILE, &plot(&soak))?;
    }
    if let Some(results) = results {
        results.write("soak", "soak", args, &soak)?;
    }
    print_result(&soak, global, print_report)
}

fn names(soak: &Soak) -> Vec<&String> {
    soak.samples.first().map(|sample| sample.resident.keys().collect()).unwrap_or_default()
}

/// Plots the memory of each process over time.
pub fn plot(soak: &Soak) -> Plot {
    let curves = names(soak).into_iter().map(|name| {
        let points = soak.samples.iter().filter_map(|sample| {
            let megabytes = *sample.resident.get(name)? as f64 / 1e6;
            Some((sample.seconds / 60.0, Spread { median: megabytes, least: megabytes, most: megabytes }))
        });
        Curve { name: name.clone(), points: points.collect() }
    });
    let axis = |label: &str| Axis { label: label.to_owned(), log: false };
    Plot {
        title: format!("Memory at {:.0} events/s", soak.run.rate()),
        x: axis("minutes"),
        y: axis("MB resident"),
        curves: curves.collect(),
    }
}

/// Prints the medians of each minute.
fn print_report(soak: &Soak) {
    outln!(
        "{} events in {:.0} s, {:.0} a second; MB resident, medians of each minute",
        soak.run.events,
        soak.run.seconds,
        soak.run.rate()
    );
    let names = names(soak);
    outln!("{:>6} {}", "minute", names.iter().map(|name| format!("{name:>12}")).collect::<String>());
    let mut minutes: BTreeMap<u64, Vec<&Sample>> = BTreeMap::new();
    for sample in &soak.samples {
        minutes.entry((sample.seconds / 60.0) as u64).or_default().push(sample);
    }
    for (minute, samples) in minutes {
        let cells = names.iter().map(|name| {
            let of = samples.iter().filter_map(|sample| sample.resident.get(*name));
            format!("{:>12.0}", Spread::of(of.map(|bytes| *bytes as f64 / 1e6)).median)
        });
        outln!("{:>6} {}", minute + 1, cells.collect::<String>());
    }
}
