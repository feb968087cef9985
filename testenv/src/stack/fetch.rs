//! Downloads a part's files with the registries' own clients.

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

/// Bytes between two reports. Maven fills the user's repository first, so that nothing shows before its end.
const STEP: u64 = 1 << 20;
/// How often the size of a running download is looked at.
const TICK: Duration = Duration::from_millis(200);

/// Downloads `source` into the folder `to`, which exists and is empty. `staging` takes logs and scratch files.
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
            // Its own cache would keep a second copy for good, and hide how far the download is.
            command.arg("--cache").arg(staging.join("npm")).arg("--pack-destination").arg(to);
            command
        }
    };
    command.current_dir(staging);
    let told = Cell::new(0);
    run(part, command, &staging.join("download.log"), &|| {
        let bytes = size_below(staging);
        if bytes >= told.get() + STEP {
            told.set(bytes);
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
        std::thread::sleep(TICK);
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

/// A project that depends on the artifacts and is nothing else.
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
