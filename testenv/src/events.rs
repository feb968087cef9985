//! What a start tells its caller on the way.

use std::time::Duration;

use crate::options::BackendKind;
use crate::part::Part;

/// A step of a start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The backend is chosen.
    Chosen {
        /// The backend.
        backend: BackendKind,
        /// The variables that decided it, in the order in which they count; none: it is the default.
        because: Vec<&'static str>,
    },
    /// Something works otherwise than it should, and the start goes on.
    Warning {
        /// What, where, and what comes of it.
        message: String,
    },
    /// The part is not in the cache and is being downloaded.
    Downloading {
        /// The part.
        part: Part,
        /// What is downloaded: coordinates, or an image.
        what: String,
        /// Size in bytes of the whole download; `None` where unknown.
        bytes: Option<u64>,
    },
    /// Bytes that have arrived so far, where that can be seen.
    Downloaded {
        /// The part.
        part: Part,
        /// Bytes so far.
        bytes: u64,
    },
    /// The part is verified and in the cache.
    Installed {
        /// The part.
        part: Part,
    },
    /// The part is being started.
    Starting {
        /// The part.
        part: Part,
    },
    /// The part answers.
    Ready {
        /// The part.
        part: Part,
        /// Time since its start.
        after: Duration,
    },
}
