//! Regenerates stack.lock from stack.toml.

use std::path::Path;

use super::cache::download;
use super::digest;
use super::lock::{Lock, LockedPart, RequestedPart, StackManifest};
use super::tools::{RequiredTools, Tools};
use crate::Error;
use crate::events::Event;
use crate::part::Part;

const HEAD: &str = "# Generated from stack.toml by `agentgov testenv lock`; do not edit.\n\n";

/// Downloads everything that `folder`/stack.toml names and writes `folder`/stack.lock with sizes and digests. The next
/// build of this crate uses it.
pub fn lock(folder: &Path, progress: &dyn Fn(Event)) -> Result<(), Error> {
    let path = folder.join("stack.toml");
    let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    let manifest = StackManifest::parse(&text)?;
    let tools = Tools::find(RequiredTools { maven: true, npm: true })?;
    let resolve = |part, requested| resolve(part, requested, &tools, progress);
    let lock = Lock {
        broker: resolve(Part::Broker, manifest.broker)?,
        registry: resolve(Part::Registry, manifest.registry)?,
        engine: resolve(Part::Engine, manifest.engine)?,
    };
    let path = folder.join("stack.lock");
    let text = toml::to_string(&lock)
        .map_err(|error| Error::LockFile { file: path.display().to_string(), reason: error.to_string() })?;
    std::fs::write(&path, format!("{HEAD}{text}")).map_err(Error::io("write", &path))
}

fn resolve(
    part: Part,
    requested: RequestedPart,
    tools: &Tools,
    progress: &dyn Fn(Event),
) -> Result<LockedPart, Error> {
    progress(Event::Downloading { part, what: requested.source.describe(), bytes: None });
    let staging = tempfile::tempdir().map_err(Error::io("create a folder in", &std::env::temp_dir()))?;
    let tick = |bytes| progress(Event::Downloaded { part, bytes });
    let files = download(part, &requested.source, tools, staging.path(), &tick)?;
    Ok(LockedPart { image: requested.image, source: requested.source, file: digest::describe(&files)? })
}
