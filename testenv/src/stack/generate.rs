//! Regenerates stack.lock from stack.toml.

use std::path::Path;

use super::cache::download;
use super::digest;
use super::lock::{Lock, Locked, Wanted, Wish};
use super::tools::{Needs, Tools};
use crate::Error;
use crate::events::Event;
use crate::part::Part;

const HEAD: &str = "# Generated from stack.toml by `agentgov testenv lock`; do not edit.\n\n";

/// Downloads everything that `folder`/stack.toml names and writes `folder`/stack.lock with sizes and digests. The
/// next build of this crate goes by it.
pub fn lock(folder: &Path, progress: &dyn Fn(Event)) -> Result<(), Error> {
    let path = folder.join("stack.toml");
    let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    let wish = Wish::parse(&text)?;
    let tools = Tools::find(Needs { maven: true, npm: true })?;
    let resolve = |part, wanted| resolve(part, wanted, &tools, progress);
    let lock = Lock {
        broker: resolve(Part::Broker, wish.broker)?,
        registry: resolve(Part::Registry, wish.registry)?,
        engine: resolve(Part::Engine, wish.engine)?,
    };
    let path = folder.join("stack.lock");
    let text = toml::to_string(&lock)
        .map_err(|error| Error::LockFile { file: path.display().to_string(), reason: error.to_string() })?;
    std::fs::write(&path, format!("{HEAD}{text}")).map_err(Error::io("write", &path))
}

fn resolve(part: Part, wanted: Wanted, tools: &Tools, progress: &dyn Fn(Event)) -> Result<Locked, Error> {
    progress(Event::Downloading { part, what: wanted.source.describe(), bytes: None });
    let staging = tempfile::tempdir().map_err(Error::io("make a folder in", &std::env::temp_dir()))?;
    let tick = |bytes| progress(Event::Downloaded { part, bytes });
    let files = download(part, &wanted.source, tools, staging.path(), &tick)?;
    Ok(Locked { image: wanted.image, source: wanted.source, file: digest::describe(&files)? })
}
