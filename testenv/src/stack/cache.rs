//! User's cache of verified parts: `~/.cache/agentgov/stack/<part>-<digest of its lock entry>/`.
//!
//! A folder appears atomically: it is filled elsewhere and renamed. Concurrent starts wait for each other.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::fetch::fetch;
use super::lock::{Lock, LockedPart, Source};
use super::tools::{RequiredTools, Tools};
use super::unpack::unpack;
use super::{MissingTools, digest};
use crate::Error;
use crate::events::Event;
use crate::files::sizes_below;
use crate::part::Part;

/// Marker with the sizes of all files of a verified folder.
const MARKER: &str = ".complete.json";

/// Verified folders of the parts.
#[derive(Debug, Clone)]
pub(crate) struct Installed {
    /// Java executable for the broker and the registry.
    pub(crate) java: PathBuf,
    folders: BTreeMap<Part, PathBuf>,
}

impl Installed {
    /// Returns the folder of the part's files.
    pub(crate) fn folder(&self, part: Part) -> PathBuf {
        self.folders.get(&part).cloned().unwrap_or_default()
    }
}

/// Downloads missing parts. Needs no network if none is missing.
pub(crate) fn install(lock: &Lock, progress: &(dyn Fn(Event) + Sync)) -> Result<Installed, Error> {
    let is_missing = |root: &Path, part: Part| !is_complete(&folder_in(root, lock, part));
    let root = usable_root(|root| Part::ALL.into_iter().any(|part| is_missing(root, part)), progress)?;
    let folder = |part: Part| folder_in(&root, lock, part);
    let missing: Vec<Part> = Part::ALL.into_iter().filter(|part| is_missing(&root, *part)).collect();
    let tools = tools_for(lock, &missing)?;
    // Concurrent Mavens may conflict in the user's repository; npm can run beside Maven.
    let (npm, maven): (Vec<Part>, Vec<Part>) =
        missing.into_iter().partition(|part| matches!(lock.part(*part).source, Source::NpmArchive(_)));
    let all = |parts: Vec<Part>| {
        parts
            .into_iter()
            .try_for_each(|part| install_part(part, lock.part(part), &tools, &folder(part), progress))
    };
    let (first, second) = std::thread::scope(|scope| {
        let beside = scope.spawn(|| all(npm));
        let maven = all(maven);
        (beside.join(), maven)
    });
    second?;
    first.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    Ok(Installed {
        java: tools.java,
        folders: Part::ALL.into_iter().map(|part| (part, folder(part))).collect(),
    })
}

fn tools_for(lock: &Lock, missing: &[Part]) -> Result<Tools, MissingTools> {
    let any = |wanted: fn(&Source) -> bool| missing.iter().any(|part| wanted(&lock.part(*part).source));
    Tools::find(RequiredTools {
        maven: any(|source| matches!(source, Source::MavenTree(_) | Source::MavenArchive(_))),
        npm: any(|source| matches!(source, Source::NpmArchive(_))),
    })
}

/// Returns XDG_CACHE_HOME/agentgov/stack, or ~/.cache/agentgov/stack.
pub(crate) fn root() -> Result<PathBuf, Error> {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let base = base.or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
    let root = base.unwrap_or_else(std::env::temp_dir).join("agentgov/stack");
    std::fs::create_dir_all(&root).map_err(Error::io("create the cache", &root))?;
    Ok(root)
}

fn folder_in(root: &Path, lock: &Lock, part: Part) -> PathBuf {
    root.join(format!("{part}-{}", lock.part(part).digest()))
}

/// Returns the cache, or, with a warning, a private temporary folder if the cache cannot be created or must be written and
/// cannot.
fn usable_root(
    is_written: impl Fn(&Path) -> bool,
    progress: &(dyn Fn(Event) + Sync),
) -> Result<PathBuf, Error> {
    let error = match root() {
        Ok(root) if !is_written(&root) => return Ok(root),
        Ok(root) => match tempfile::tempfile_in(&root) {
            Ok(_) => return Ok(root),
            Err(error) => Error::io("write to the cache", &root)(error),
        },
        Err(error) => error,
    };
    let uid = rustix::process::getuid().as_raw();
    let instead = std::env::temp_dir().join(format!("agentgov-cache-{uid}"));
    // A folder of another user, or one with open permissions, may contain anything.
    let made = std::fs::DirBuilder::new().mode(0o700).create(&instead);
    let ours = std::fs::symlink_metadata(&instead)
        .is_ok_and(|found| found.is_dir() && found.uid() == uid && found.mode() & 0o077 == 0);
    if made.is_err() && !ours {
        return Err(error);
    }
    let message =
        format!("{error}; downloads are kept in {}; XDG_CACHE_HOME names another place", instead.display());
    progress(Event::Warning { message });
    Ok(instead)
}

fn install_part(
    part: Part,
    locked: &LockedPart,
    tools: &Tools,
    folder: &Path,
    progress: &(dyn Fn(Event) + Sync),
) -> Result<(), Error> {
    let guard = folder.with_extension("lock");
    let file = File::create(&guard).map_err(Error::io("create", &guard))?;
    file.lock().map_err(Error::io("lock", &guard))?;
    if is_complete(folder) {
        return Ok(());
    }
    progress(Event::Downloading { part, what: locked.source.describe(), bytes: Some(locked.size()) });
    let parent = folder.parent().unwrap_or(folder);
    let staging = tempfile::Builder::new().prefix(".staging-").tempdir_in(parent);
    let staging = staging.map_err(Error::io("create a folder in", parent))?;
    // The client's own copies are counted too, hence the cap.
    let report_bytes = |bytes: u64| progress(Event::Downloaded { part, bytes: bytes.min(locked.size()) });
    let content = download(part, &locked.source, tools, staging.path(), &report_bytes)?;
    digest::verify(part, &locked.file, &digest::describe(&content)?)?;
    let content = unpack(&locked.source, &content, staging.path())?;
    write_marker(&content)?;
    if folder.exists() {
        std::fs::remove_dir_all(folder).map_err(Error::io("remove the damaged", folder))?;
    }
    std::fs::rename(&content, folder).map_err(Error::io("rename the download to", folder))?;
    progress(Event::Installed { part });
    Ok(())
}

/// Downloads into a new folder below `staging`.
pub(super) fn download(
    part: Part,
    source: &Source,
    tools: &Tools,
    staging: &Path,
    progress: &dyn Fn(u64),
) -> Result<PathBuf, Error> {
    let to = staging.join("download");
    std::fs::create_dir(&to).map_err(Error::io("create", &to))?;
    fetch(part, source, tools, staging, &to, progress)?;
    Ok(to)
}

fn write_marker(content: &Path) -> Result<(), Error> {
    let marker = content.join(MARKER);
    let sizes = sizes_below(content).map_err(Error::io("list", content))?;
    let text = serde_json::to_vec(&sizes).unwrap_or_default();
    std::fs::write(&marker, text).map_err(Error::io("write", &marker))
}

/// Checks cheaply that the marker exists and that every file has its verified size.
fn is_complete(folder: &Path) -> bool {
    let marker = std::fs::read(folder.join(MARKER)).unwrap_or_default();
    let Ok(sizes) = serde_json::from_slice::<BTreeMap<PathBuf, u64>>(&marker) else { return false };
    !sizes.is_empty()
        && sizes.iter().all(|(path, size)| {
            std::fs::metadata(folder.join(path)).is_ok_and(|found| found.is_file() && found.len() == *size)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_is_complete_only_with_all_files() {
        let folder = tempfile::tempdir().unwrap();
        let jar = folder.path().join("lib/a.jar");
        std::fs::create_dir(folder.path().join("lib")).unwrap();
        std::fs::write(&jar, "abc").unwrap();
        assert!(!is_complete(folder.path()), "no marker yet");
        write_marker(folder.path()).unwrap();
        assert!(is_complete(folder.path()));
        std::fs::write(&jar, "ab").unwrap();
        assert!(!is_complete(folder.path()), "a truncated file");
        std::fs::remove_file(&jar).unwrap();
        assert!(!is_complete(folder.path()), "a missing file");
    }
}
