//! Examples that are embedded in the executable, so that it needs no other files.

use std::collections::BTreeMap;

use agentgov_policy::{Bundle, BundleFiles};
use agentgov_service::ExitCode;
use include_dir::{Dir, include_dir};

use crate::failure::Failure;

static AIRLINE_FILES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/examples/airline");
static DESK_FILES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/examples/desk");

/// Tenant of [`AIRLINE`].
pub const TENANT: &str = "airline";
/// Agent of [`AIRLINE`].
pub const AGENT: &str = "airline-service";
/// Environment of [`AIRLINE`].
pub const ENVIRONMENT: &str = "demo";

/// The agent that answers customers, with its recorded runs.
pub static AIRLINE: Example = Example {
    name: "airline",
    tenant: TENANT,
    agent: AGENT,
    environment: ENVIRONMENT,
    files: &AIRLINE_FILES,
};

/// The agent with an MCP server for files.
pub static DESK: Example = Example {
    name: "desk",
    tenant: "desk",
    agent: "desk-bot",
    environment: "production",
    files: &DESK_FILES,
};

/// An example: registry and bundle, and what they name.
#[derive(Debug)]
pub struct Example {
    /// Name of its folder.
    pub name: &'static str,
    /// Tenant that the example registers.
    pub tenant: &'static str,
    /// Agent that the example registers.
    pub agent: &'static str,
    /// Environment in which the example's bundle is active.
    pub environment: &'static str,
    files: &'static Dir<'static>,
}

impl Example {
    /// Returns the text of a file.
    pub fn text(&self, path: &str) -> Result<&'static str, Failure> {
        self.files.get_file(path).and_then(include_dir::File::contents_utf8).ok_or_else(|| {
            let message = format!(
                "expected examples/{}/{path} in this build, found none: build it from a complete source tree",
                self.name
            );
            Failure::new(ExitCode::Failed, message)
        })
    }

    /// Returns the files of the bundle.
    pub fn bundle_files(&self) -> BundleFiles {
        fn add(dir: &Dir<'_>, files: &mut BTreeMap<String, Vec<u8>>) {
            for file in dir.files() {
                if let Ok(path) = file.path().strip_prefix("bundle") {
                    files.insert(path.to_string_lossy().replace('\\', "/"), file.contents().to_vec());
                }
            }
            dir.dirs().for_each(|dir| add(dir, files));
        }
        let mut files = BTreeMap::new();
        if let Some(bundle) = self.files.get_dir("bundle") {
            add(bundle, &mut files);
        }
        BundleFiles(files)
    }

    /// Compiles the bundle.
    pub fn bundle(&self) -> Result<Bundle, Failure> {
        compiled(&self.bundle_files())
    }
}

/// Compiles the files of an example's bundle.
pub fn compiled(files: &BundleFiles) -> Result<Bundle, Failure> {
    Bundle::compile(files)
        .map_err(|problems| Failure::all(ExitCode::Config, "the example's bundle has errors:", problems))
}
