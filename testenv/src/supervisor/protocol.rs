//! Messages between the owner and its supervisor: one JSON value per line on the supervisor's stdin and stdout.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Process to start and supervise.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Launch {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    /// Variables added to the owner's environment.
    pub(crate) env: Vec<(String, String)>,
    pub(crate) folder: PathBuf,
    /// File that stdout and stderr are appended to.
    pub(crate) log: PathBuf,
    /// True for low priority.
    pub(crate) low_priority: bool,
}

/// Signal to a part's process group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Signal {
    Terminate,
    Kill,
    Pause,
    Resume,
}

/// Request of the owner. The end of the stream means that the owner ended or wants everything to end.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Request {
    /// The response is [`Notice::Started`] or [`Notice::Refused`] with the same id.
    Spawn {
        id: u64,
        launch: Launch,
    },
    Signal {
        pid: u32,
        signal: Signal,
    },
    /// Remove the containers with this label at the end.
    Containers {
        label: String,
    },
}

/// Notice of the supervisor. The end of the stream means that cleanup is complete.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Notice {
    /// First notice: the directory's lock is held; requests are accepted.
    Ready,
    /// Only notice: another process holds the lock.
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
