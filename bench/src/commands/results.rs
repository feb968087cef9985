//! Results files, with the machine and commit of the run, and their plots.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use agentgov::cli::Global;
use agentgov::context;
use agentgov::failure::{Failure, OrExit as _};
use agentgov::print::outln;
use agentgov_bench::Soak;
use agentgov_service::ExitCode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{cores, draw, growth, soak};
use crate::cli::{self, GrowthAxis};

/// Content of a results file.
#[derive(Debug, Serialize, Deserialize)]
struct ResultsFile<P, R> {
    /// Subcommand of the run.
    command: String,
    /// Parameters of the subcommand.
    parameters: P,
    /// Time of writing, in UTC.
    date: String,
    /// Commit of the work tree in the current folder; ends with `-dirty` if it has changes.
    commit: String,
    /// Profile of the build.
    profile: String,
    /// Machine of the run.
    machine: Machine,
    /// The measurements.
    report: R,
}

/// Properties of a machine that comparisons need, without anything that identifies it.
#[derive(Debug, Serialize, Deserialize)]
struct Machine {
    cpu: String,
    cores: usize,
    memory_bytes: u64,
    kernel: String,
}

/// Folder of results files.
#[derive(Debug)]
pub struct ResultsFolder {
    folder: PathBuf,
    commit: String,
}

impl ResultsFolder {
    /// Creates the folder and resolves the commit, before a long run. Returns `None` without `--results`.
    pub fn prepare(args: &cli::ResultsArgs) -> Result<Option<Self>, Failure> {
        let Some(folder) = &args.results else { return Ok(None) };
        context::create_folder(folder)?;
        Ok(Some(Self { folder: folder.clone(), commit: commit()? }))
    }

    /// Writes `NAME.json`, replacing an existing file.
    pub fn write(
        &self,
        name: &str,
        command: &str,
        parameters: impl Serialize,
        report: impl Serialize,
    ) -> Result<(), Failure> {
        let file_content = ResultsFile {
            command: command.to_owned(),
            parameters,
            date: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            commit: self.commit.clone(),
            profile: if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned(),
            machine: Machine::this(),
            report,
        };
        let text = serde_json::to_string_pretty(&file_content).or_exit(ExitCode::Failed)?;
        context::write(&self.folder.join(format!("{name}.json")), &format!("{text}\n"))
    }
}

impl Machine {
    fn this() -> Self {
        let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
        Self {
            cpu: value_of(&read("/proc/cpuinfo"), "model name").unwrap_or("unknown").to_owned(),
            cores: cores(),
            memory_bytes: kibibytes_of(&read("/proc/meminfo"), "MemTotal").map_or(0, |kib| kib * 1024),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }
}

/// Returns the value of the first line `KEY : VALUE`.
fn value_of<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.find(|(name, _)| name.trim() == key).map(|(_, value)| value.trim())
}

fn kibibytes_of(text: &str, key: &str) -> Option<u64> {
    value_of(text, key)?.strip_suffix(" kB")?.parse().ok()
}

fn commit() -> Result<String, Failure> {
    let git =
        Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]).output();
    let found = match git {
        Ok(output) if output.status.success() => {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    let message = format!(
        "expected the product's git work tree as the current folder, since --results records its commit; found {found}"
    );
    Err(Failure::new(ExitCode::Usage, message))
}

/// Runs `plot`: draws the results files of a folder.
pub fn plot(args: &cli::Plot, _: &Global) -> Result<ExitCode, Failure> {
    context::create_folder(&args.plots)?;
    let mut drawn = Vec::new();
    for by in [GrowthAxis::Processes, GrowthAxis::Sessions, GrowthAxis::Policies] {
        if let Some(points) = read::<Vec<growth::Point>>(&args.results, &growth::results_name(by))? {
            drawn.extend(growth::plots(by, &points));
        }
    }
    if let Some(soak) = read::<Soak>(&args.results, "soak")? {
        drawn.push((soak::PLOT_FILE, soak::plot(&soak)));
    }
    if drawn.is_empty() {
        let message = format!(
            "{}: expected growth-*.json or soak.json, as `growth --results` and `soak --results` write them, found neither",
            args.results.display()
        );
        return Err(Failure::new(ExitCode::Usage, message));
    }
    for (file, plot) in drawn {
        draw(&args.plots, file, &plot)?;
        outln!("{}", file);
    }
    Ok(ExitCode::Done)
}

/// Returns the report of a results file; `None` if the file does not exist.
fn read<R: DeserializeOwned>(folder: &Path, name: &str) -> Result<Option<R>, Failure> {
    let file = folder.join(format!("{name}.json"));
    if !file.exists() {
        return Ok(None);
    }
    let file_content: ResultsFile<serde_json::Value, R> = serde_json::from_slice(&context::read(&file)?)
        .map_err(|error| {
            let message = format!("{}: expected results of `{name}`, found {error}", file.display());
            Failure::new(ExitCode::Config, message)
        })?;
    Ok(Some(file_content.report))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use agentgov_bench::{Run, Sample};

    use super::*;

    #[test]
    fn results_file_holds_its_origin_and_plots_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let results =
            ResultsFolder { folder: folder.path().to_owned(), commit: "0123456789ab-dirty".to_owned() };
        let run = Run { events: 10, seconds: 2.0, usage: BTreeMap::new(), latency: None };
        let sample =
            |seconds| Sample { seconds, resident: BTreeMap::from([("evaluator".to_owned(), 1_000_000)]) };
        let measured = Soak { run, samples: vec![sample(0.0), sample(60.0)] };
        results.write("soak", "soak", serde_json::json!({"seconds": 60}), &measured).unwrap();

        let text = fs::read_to_string(folder.path().join("soak.json")).unwrap();
        let file_content: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(file_content["commit"], "0123456789ab-dirty");
        assert_eq!(file_content["parameters"]["seconds"], 60);
        assert!(file_content["machine"]["cores"].as_u64().unwrap() >= 1, "{text}");
        assert!(file_content["date"].as_str().unwrap().ends_with('Z'), "{text}");

        let read = read::<Soak>(folder.path(), "soak").unwrap().unwrap();
        assert_eq!(soak::plot(&read).svg().unwrap(), soak::plot(&measured).svg().unwrap());
        assert!(self::read::<Soak>(folder.path(), "absent").unwrap().is_none());
    }

    #[test]
    fn machine_is_read_from_proc() {
        assert_eq!(
            value_of("processor\t: 0\nmodel name\t: A CPU @ 2 GHz\n", "model name"),
            Some("A CPU @ 2 GHz")
        );
        assert_eq!(kibibytes_of("MemTotal:       16384 kB\nMemFree: 1 kB\n", "MemTotal"), Some(16_384));
        assert_eq!(kibibytes_of("", "MemTotal"), None);
    }
}
