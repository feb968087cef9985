//! Everything that can keep the stack from running, in words for the person who wanted it.

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::part::Part;
use crate::stack::MissingTools;

/// Why the stack, or an operation on it, failed.
#[derive(Debug, Error)]
pub enum Error {
    /// `AGENTGOV_BACKEND` names no backend.
    #[error("expected AGENTGOV_BACKEND to be external, docker or native, found '{found}'")]
    UnknownBackend {
        /// Its value.
        found: String,
    },
    /// An external stack is configured in part only.
    #[error(
        "the external stack lacks {}: give all of AGENTGOV_KAFKA, AGENTGOV_SCHEMA_REGISTRY and AGENTGOV_CLICKHOUSE, or kafka, \
         schema_registry and clickhouse in the file that AGENTGOV_STACK names, or none of them to have a stack started",
        .missing.join(" and ")
    )]
    ExternalIncomplete {
        /// The variables that are not set.
        missing: Vec<&'static str>,
    },
    /// The file of the external stack's addresses cannot be used.
    #[error("AGENTGOV_STACK names {path}, which cannot be used: {reason}")]
    ExternalFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A part of the external stack does not answer.
    #[error(
        "the external {part} at {address} does not answer: {reason}; start it, or correct its address; to have a stack \
         started instead, unset AGENTGOV_KAFKA, AGENTGOV_SCHEMA_REGISTRY, AGENTGOV_CLICKHOUSE and AGENTGOV_STACK"
    )]
    Unreachable {
        /// The part.
        part: Part,
        /// Where it was looked for.
        address: String,
        /// What happened instead.
        reason: String,
    },
    /// Programs that the native backend needs are missing.
    #[error(transparent)]
    MissingTools(#[from] MissingTools),
    /// The native backend does not exist for this platform.
    #[error(
        "the native backend runs on x86-64 Linux only, this is {found}: have a Docker engine running, or set \
         AGENTGOV_KAFKA, AGENTGOV_SCHEMA_REGISTRY and AGENTGOV_CLICKHOUSE"
    )]
    Platform {
        /// This platform.
        found: String,
    },
    /// A download failed.
    #[error("downloading the {part} failed: `{command}` ended with {status}; its last lines:\n{tail}")]
    Download {
        /// The part.
        part: Part,
        /// The command.
        command: String,
        /// How it ended.
        status: String,
        /// The end of its output.
        tail: String,
    },
    /// A downloaded file is not the one that stack.lock names.
    #[error(
        "{file} of the {part} is not the file that stack.lock names: expected {expected}, found {found}; if the \
         registry that served it is to be trusted, regenerate the lock with `agentgov testenv lock`"
    )]
    Digest {
        /// The part.
        part: Part,
        /// The file's name.
        file: String,
        /// Size and digest in the lock; "no such file" for one too many.
        expected: String,
        /// What was downloaded.
        found: String,
    },
    /// stack.toml or stack.lock does not parse.
    #[error("{file} does not parse: {reason}")]
    LockFile {
        /// The file.
        file: String,
        /// Where and why.
        reason: String,
    },
    /// A part ended before it was ready, or while it was needed.
    #[error("the {part} ended ({status}) before it was ready; the end of {}:\n{tail}", .log.display())]
    PartDied {
        /// The part.
        part: Part,
        /// How it ended.
        status: String,
        /// Its log.
        log: PathBuf,
        /// The last lines of the log.
        tail: String,
    },
    /// A part runs but does not answer in time.
    #[error("the {part} was not ready within {seconds} s: {last}; the end of {}:\n{tail}", .log.display())]
    PartLate {
        /// The part.
        part: Part,
        /// The deadline.
        seconds: u64,
        /// What the last attempt to talk to it gave.
        last: String,
        /// Its log.
        log: PathBuf,
        /// The last lines of the log.
        tail: String,
    },
    /// The process that looks after the parts failed.
    #[error("the supervisor ({helper}) {what}; expected an executable that runs `testenv supervisor`")]
    Supervisor {
        /// The executable.
        helper: PathBuf,
        /// What went wrong.
        what: String,
    },
    /// No helper executable was found.
    #[error(
        "found no helper executable ({looked_for}); build one with `cargo build -p agentgov-testenv`, or name one in \
         AGENTGOV_HELPER"
    )]
    Helper {
        /// The places that were looked at.
        looked_for: String,
    },
    /// The helper's process did not turn into a part.
    #[error("cannot run {command:?}: {source}")]
    Become {
        /// The part's command line.
        command: Vec<std::ffi::OsString>,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The engine server failed.
    #[error("{reason}")]
    Engine {
        /// The server's error.
        reason: String,
    },
    /// This executable has no docker backend.
    #[error(
        "this executable was built without the docker backend; build it with the feature `docker`, which is on by default, or \
         choose AGENTGOV_BACKEND=native"
    )]
    NoDocker,
    /// Docker refused or failed.
    #[error("docker: {what}: {reason}")]
    Docker {
        /// What was to be done.
        what: String,
        /// What Docker said; the container's log where there is one.
        reason: String,
    },
    /// The operation needs a part as a process of this machine.
    #[error("{operation} needs the native backend, this stack is {backend}: set AGENTGOV_BACKEND=native")]
    NativeOnly {
        /// The operation.
        operation: &'static str,
        /// The backend in use.
        backend: crate::BackendKind,
    },
    /// The data directory is in use.
    #[error("{} is in use by another stack: stop that one, or choose another directory", .path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// A file operation failed.
    #[error("cannot {what} {}: {source}", .path.display())]
    Io {
        /// What was to be done, as a verb.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
}

impl Error {
    /// For `map_err` on file operations.
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { what, path, source }
    }
}
