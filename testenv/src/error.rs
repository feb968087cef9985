//! Errors of a stack, with instructions for the user.

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::part::Part;
use crate::stack::MissingTools;

/// Advice for a machine without the native backend.
pub(crate) const USE_CONTAINERS: &str = if cfg!(feature = "docker") {
    "start a Docker engine"
} else {
    "start a Docker engine and build with `--features docker`"
};

/// Failure of the stack or of an operation on it.
#[derive(Debug, Error)]
pub enum Error {
    /// `AGENTGOV_BACKEND` names no backend.
    #[error("expected AGENTGOV_BACKEND to be external, docker or native, found '{found}'")]
    UnknownBackend {
        /// Value of the variable.
        found: String,
    },
    /// An external stack is only partly configured.
    #[error(
        "the external stack lacks {}: set all of AGENTGOV_KAFKA, AGENTGOV_SCHEMA_REGISTRY and AGENTGOV_CLICKHOUSE, or kafka, \
         schema_registry and clickhouse in the file that AGENTGOV_STACK names, or none of them to start a stack",
        .missing.join(" and ")
    )]
    ExternalIncomplete {
        /// Variables that are not set.
        missing: Vec<&'static str>,
    },
    /// The file of the external stack's addresses is invalid.
    #[error("AGENTGOV_STACK names {path}, which cannot be used: {reason}")]
    ExternalFile {
        /// The file.
        path: PathBuf,
        /// Reason.
        reason: String,
    },
    /// A part of the external stack does not respond.
    #[error(
        "the external {part} at {address} does not respond: {reason}; start it, or correct its address; to start a \
         stack instead, unset AGENTGOV_KAFKA, AGENTGOV_SCHEMA_REGISTRY, AGENTGOV_CLICKHOUSE and AGENTGOV_STACK"
    )]
    Unreachable {
        /// The part.
        part: Part,
        /// Address of the part.
        address: String,
        /// Outcome of the probe.
        reason: String,
    },
    /// Programs that the native backend needs are missing.
    #[error(transparent)]
    MissingTools(#[from] MissingTools),
    /// The native backend does not exist for this platform.
    #[error(
        "the native backend runs on x86-64 Linux only, this is {found}: {USE_CONTAINERS}, or set \
         AGENTGOV_KAFKA, AGENTGOV_SCHEMA_REGISTRY and AGENTGOV_CLICKHOUSE"
    )]
    Platform {
        /// The current platform.
        found: String,
    },
    /// A download failed.
    #[error("downloading the {part} failed: `{command}` ended with {status}; its last lines:\n{tail}")]
    Download {
        /// The part.
        part: Part,
        /// Command line.
        command: String,
        /// Exit status.
        status: String,
        /// Last lines of its output.
        tail: String,
    },
    /// A downloaded file differs from stack.lock.
    #[error(
        "{file} of the {part} is not the file that stack.lock names: expected {expected}, found {found}; if the \
         registry that served it is trusted, regenerate the lock with `agentgov testenv lock`"
    )]
    Digest {
        /// The part.
        part: Part,
        /// File name.
        file: String,
        /// Size and digest in the lock; "no such file" for an unlisted file.
        expected: String,
        /// Size and digest of the download.
        found: String,
    },
    /// stack.toml or stack.lock is invalid.
    #[error("cannot parse {file}: {reason}")]
    LockFile {
        /// The file.
        file: String,
        /// Position and reason.
        reason: String,
    },
    /// A part ended before it was ready.
    #[error("the {part} ended ({status}) before it was ready; the end of {}:\n{tail}", .log.display())]
    PartDied {
        /// The part.
        part: Part,
        /// Exit status.
        status: String,
        /// Log file.
        log: PathBuf,
        /// Last lines of the log.
        tail: String,
    },
    /// A part runs but does not respond before the deadline.
    #[error("the {part} was not ready within {seconds} s: {last}; the end of {}:\n{tail}", .log.display())]
    PartLate {
        /// The part.
        part: Part,
        /// Deadline in seconds.
        seconds: u64,
        /// Outcome of the last probe.
        last: String,
        /// Log file.
        log: PathBuf,
        /// Last lines of the log.
        tail: String,
    },
    /// The supervisor of the parts failed.
    #[error("the supervisor ({helper}) {what}; expected an executable that runs `testenv supervisor`")]
    Supervisor {
        /// The executable.
        helper: PathBuf,
        /// Failed operation.
        what: String,
    },
    /// No helper executable was found.
    #[error(
        "expected a helper executable, found none of {searched}; build one with `cargo build -p agentgov-testenv`, or name one in \
         AGENTGOV_HELPER"
    )]
    Helper {
        /// Paths that were searched.
        searched: String,
    },
    /// The helper process could not execute a part.
    #[error("cannot run {command:?}: {source}")]
    Become {
        /// Command line of the part.
        command: Vec<std::ffi::OsString>,
        /// Error of the system.
        source: std::io::Error,
    },
    /// The engine server failed.
    #[error("{reason}")]
    Engine {
        /// Error of the server.
        reason: String,
    },
    /// This executable was built without the docker backend.
    #[error(
        "this executable was built without the docker backend: build it with `--features docker`, or choose \
         AGENTGOV_BACKEND=native"
    )]
    NoDocker,
    /// A Docker operation failed.
    #[error("docker: {what}: {reason}")]
    Docker {
        /// Operation.
        what: String,
        /// Error of Docker, with the container's log if there is one.
        reason: String,
    },
    /// The operation requires a part that runs as a process of this machine.
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
        /// Operation, as a verb.
        what: &'static str,
        /// File or directory.
        path: PathBuf,
        /// Error of the system.
        source: std::io::Error,
    },
}

impl Error {
    /// Converts an error of a file operation, for `map_err`.
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { what, path, source }
    }
}
