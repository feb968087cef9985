//! Downloads a part's files with the clients of the package registries.

use std::cell::Cell;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::lock::Source;
use super::tools::Tools;
use crate::Error;
use crate::files::{size_below, tail};
use crate::part::Part;

/// Bytes between two progress reports. Maven fills the user's repository first, so that no progress shows before the end.
const REPORT_BYTES: u64 = 1 << 20;
/// Interval of size checks during a download.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Downloads `source` into the existing empty folder `to`. `staging` holds logs and scratch files.
pub(super) fn fetch(
    part: Part,
    source: &Source,
    tools: &Tools,
    staging: &Path,
    to: &Path,
    progress: &dyn Fn(u64),
) -> Result<(), Error> {
    let mut command = match source {
        Source::MavenTree(artifacts) => {
            let pom = staging.join("pom.xml");
            std::fs::write(&pom, pom_of(artifacts)).map_err(Error::io("write", &pom))?;
            let mut command = maven(tools, "dependency:copy-dependencies", "outputDirectory", to);
            command.arg("-DincludeScope=runtime").arg("-f").arg(pom);
            command
        }
        Source::MavenArchive(coordinates) => {
            let mut command = maven(tools, "dependency:copy", "outputDirectory", to);
            command.arg(format!("-Dartifact={coordinates}"));
            command
        }
        Source::NpmArchive(package) => {
            let mut command = Command::new(&tools.npm);
            command.args(["pack", package, "--ignore-scripts", "--loglevel=error"]);
            // npm's own cache would keep a permanent second copy and hide the progress.
            command.arg("--cache").arg(staging.join("npm")).arg("--pack-destination").arg(to);
            command
        }
    };
    command.current_dir(staging);
    let reported = Cell::new(0);
    run(part, command, &staging.join("download.log"), &|| {
        let bytes = size_below(staging);
        if bytes >= reported.get() + REPORT_BYTES {
            reported.set(bytes);
            progress(bytes);
        }
    })
}

fn maven(tools: &Tools, goal: &str, property: &str, to: &Path) -> Command {
    let mut command = Command::new(&tools.maven);
    let mut destination = std::ffi::OsString::from(format!("-D{property}="));
    destination.push(to);
    command.args(["--batch-mode", "--no-transfer-progress", goal]).arg(destination);
    command
}

fn run(part: Part, mut command: Command, log: &PathBuf, tick: &dyn Fn()) -> Result<(), Error> {
    let output = File::create(log).map_err(Error::io("create", log))?;
    let errors = output.try_clone().map_err(Error::io("open", log))?;
    let program = PathBuf::from(command.get_program());
    let mut child = command
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .spawn()
        .map_err(Error::io("run", &program))?;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(Error::io("wait for", &program))? {
            break status;
        }
        tick();
        std::thread::sleep(POLL_INTERVAL);
    };
    if status.success() {
        return Ok(());
    }
    Err(Error::Download {
        part,
        command: format!("{command:?}"),
        status: status.to_string(),
        tail: tail(log),
    })
}

/// Returns a Maven project that only depends on the artifacts.
fn pom_of(artifacts: &[String]) -> String {
    let dependency = |coordinates: &String| {
        let mut fields = coordinates.split(':');
        let mut field = |tag: &str| format!("<{tag}>{}</{tag}>", fields.next().unwrap_or_default());
        format!("<dependency>{}{}{}</dependency>", field("groupId"), field("artifactId"), field("version"))
    };
    let dependencies: String = artifacts.iter().map(dependency).collect();
    format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><modelVersion>4.0.0</modelVersion>\
         <groupId>agentgov</groupId><artifactId>stack</artifactId><version>1</version><packaging>pom</packaging>\
         <dependencies>{dependencies}</dependencies></project>"
    )
}
