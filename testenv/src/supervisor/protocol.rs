//! What the owner and its supervisor say to each other: one JSON value a line, on the supervisor's stdin and stdout.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A process to be started and looked after.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Launch {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    /// Added to the environment of the owner.
    pub(crate) env: Vec<(String, String)>,
    pub(crate) folder: PathBuf,
    /// Takes stdout and stderr; appended to.
    pub(crate) log: PathBuf,
    /// Others come first where cores are short.
    pub(crate) gives_way: bool,
}

/// What can be sent to a part's process group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Signal {
    Terminate,
    Kill,
    Pause,
    Resume,
}

/// From the owner. The end of the stream means that the owner ended, or wants the end of everything.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Request {
    /// Answered by [`Notice::Started`] or [`Notice::Refused`] with the same id.
    Spawn {
        id: u64,
        launch: Launch,
    },
    Signal {
        pid: u32,
        signal: Signal,
    },
    /// At the end, remove the containers that carry this label.
    Containers {
        label: String,
    },
}

/// From the supervisor. The end of the stream means that it is done.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Notice {
    /// The first notice: it holds the directory's lock, and takes requests.
    Ready,
    /// The first and last notice: somebody else holds the lock.
    Busy,
    Started {
        id: u64,
        pid: u32,
    },
    Refused {
        id: u64,
        reason: String,
    },
    Exited {
        pid: u32,
        status: String,
    },
}
