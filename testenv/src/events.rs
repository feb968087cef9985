//! Progress events of a start.

use std::time::Duration;

use crate::options::BackendKind;
use crate::part::Part;

/// Step of a start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The backend was selected.
    Chosen {
        /// The backend.
        backend: BackendKind,
        /// Variables that determined it, by precedence; empty for the default.
        because: Vec<&'static str>,
    },
    /// The start continues in spite of a problem.
    Warning {
        /// Problem, path and consequence.
        message: String,
    },
    /// The part is not in the cache; its download starts.
    Downloading {
        /// The part.
        part: Part,
        /// Coordinates or image.
        what: String,
        /// Size of the download in bytes, if known.
        bytes: Option<u64>,
    },
    /// Progress of a download, where it can be measured.
    Downloaded {
        /// The part.
        part: Part,
        /// Bytes so far.
        bytes: u64,
    },
    /// The part was verified and stored in the cache.
    Installed {
        /// The part.
        part: Part,
    },
    /// The part starts.
    Starting {
        /// The part.
        part: Part,
    },
    /// The part responds.
    Ready {
        /// The part.
        part: Part,
        /// Duration of its start.
        after: Duration,
    },
}
