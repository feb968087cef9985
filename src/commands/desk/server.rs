//! The MCP server of the demo: npm's server for files, or one that the caller names.

use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Stdio};

use agentgov_registry::{ServerLimits, list_server_tools};
use agentgov_service::ExitCode;

use crate::failure::{Failure, OrExit as _};
use crate::progress::Progress;

/// Package of npm, with its version.
pub const PACKAGE: &str = "@modelcontextprotocol/server-filesystem@2026.8.31";

/// Command line of the server, without the folder of files.
pub struct FileServer {
    command: Vec<OsString>,
    is_npm: bool,
}

impl FileServer {
    /// Returns the server that `given` starts; npm's if it is empty. Fails at once if npx is missing.
    pub fn find(given: &[OsString]) -> Result<Self, Failure> {
        if !given.is_empty() {
            return Ok(Self { command: given.to_vec(), is_npm: false });
        }
        let version = Command::new("npx").arg("--version").stdin(Stdio::null()).output();
        match version {
            Ok(output) if output.status.success() => {}
            Ok(output) => return Err(missing(&format!("one that ends with {}", output.status))),
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(missing("none")),
            Err(error) => return Err(missing(&error.to_string())),
        }
        let command = ["npx", "--yes", "--package", PACKAGE, "--", "mcp-server-filesystem"];
        Ok(Self { command: command.map(OsString::from).to_vec(), is_npm: true })
    }

    /// Fetches npm's server into npm's own cache, unless it is there.
    pub fn fetch(&self, progress: &Progress) -> Result<(), Failure> {
        if !self.is_npm {
            return Ok(());
        }
        let step = progress.step(format!("fetching {PACKAGE} with npx"));
        let output = Command::new("npx")
            .args(["--yes", "--package", PACKAGE, "--", "node", "--version"])
            .stdin(Stdio::null())
            .output()
            .or_exit(ExitCode::Failed)?;
        if !output.status.success() {
            return Err(Failure::report(
                ExitCode::TryAgain,
                format!(
                    "npx: expected {PACKAGE} from npm's registry, found an error ({}):\n{}",
                    output.status,
                    super::end_of(&String::from_utf8_lossy(&output.stderr))
                ),
            ));
        }
        step.done(format!("in npm's cache, Node.js {}", String::from_utf8_lossy(&output.stdout).trim()));
        Ok(())
    }

    /// Starts the server once, and returns the number of tools that it lists.
    pub fn probe(&self, folder: &Path) -> Result<usize, Failure> {
        let listed = list_server_tools(&self.command(folder), &ServerLimits::default());
        listed.map(|tools| tools.len()).map_err(|error| {
            Failure::new(ExitCode::Config, format!("the MCP server {}: {error}", self.name()))
        })
    }

    /// Returns the command line that serves the files of a folder.
    pub fn command(&self, folder: &Path) -> Vec<OsString> {
        self.command.iter().map(OsString::as_os_str).chain([OsStr::new(folder)]).map(OsString::from).collect()
    }

    /// Returns the name for the report.
    pub fn name(&self) -> String {
        if self.is_npm {
            return PACKAGE.to_owned();
        }
        let words = self.command.iter().map(|word| word.to_string_lossy());
        words.collect::<Vec<_>>().join(" ")
    }
}

fn missing(found: &str) -> Failure {
    Failure::new(
        ExitCode::Config,
        format!(
            "expected `npx` of Node.js 20 or later in PATH, found {found}: install Node.js (https://nodejs.org), which fetches \
             {PACKAGE} from npm; or name another MCP server for files: agentgov demo --desk -- COMMAND"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_server_gets_the_folder_as_its_last_argument() {
        let given = ["python3", "server.py"].map(OsString::from);
        let server = FileServer::find(&given).unwrap();
        assert_eq!(server.command(Path::new("/f")), ["python3", "server.py", "/f"]);
        assert_eq!(server.name(), "python3 server.py");
        // Fetches nothing.
        server.fetch(&Progress::new(true)).unwrap();
    }

    #[test]
    fn missing_npx_is_named_with_the_way_out() {
        let failure = missing("none");
        assert_eq!(failure.code, ExitCode::Config);
        assert!(
            failure.to_string().contains("expected `npx` of Node.js 20 or later in PATH, found none"),
            "{failure}"
        );
    }
}
