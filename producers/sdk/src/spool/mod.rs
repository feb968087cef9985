//! The spool: a bounded write-ahead file of what Kafka has not acknowledged yet.
//!
//! ```text
//!   FOLDER/lock                        held while sources are claimed or made
//!   FOLDER/schema.json                 what the registry last said, for a start without it
//!   FOLDER/SOURCE/lock                 held by the process whose source it is, or that recovers it
//!   FOLDER/SOURCE/00000000000000000042.seg   records from sequence 42, until the next segment begins
//!
//!   record ──► append ──► Kafka's queue          start ──► claim the dead ──► publish again, close ──► remove
//!                 └─ trim: segments that are durable go
//! ```
//!
//! - [`format`]: the bytes
//! - [`folder`]: who owns what
//! - [`writer`], [`sync`]: the live source's
//! - [`found`]: what a dead source left
//! - [`recovery`]: publishing it
//! - [`schema`]: what the registry last said
//!
//! docs/adr/0007-the-spool.md says why it is so.

mod folder;
pub(crate) mod format;
mod found;
mod recovery;
mod schema;
mod sync;
mod writer;

use std::path::{Path, PathBuf};

pub(crate) use folder::Folder;
pub(crate) use format::{Header, Kind, Record};
pub(crate) use found::Found;
pub(crate) use recovery::{Recovery, Republish};
pub(crate) use schema::KnownSchema;
pub(crate) use writer::{AppendError, Appended, Spool, least_bytes};

/// Why a spool cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpoolError {
    /// The system refused.
    #[error("spool {path}: {doing}: {message}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        message: String,
    },
    /// A dead source's file is not what was written. Nothing of it was published or removed by this start.
    #[error(
        "spool {file}, byte {offset}: expected {expected}, found other bytes; the source's events are kept: restore the file, or move its folder away to start without them"
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Where in it.
        offset: usize,
        /// What should stand there.
        expected: String,
    },
    /// A dead source wrote to another topic than the topology names now.
    #[error(
        "spool {path}: expected events for topic {expected}, found some for {found}; start once with the old topology, or move the folder away to start without them"
    )]
    OtherTopic {
        /// The source's folder.
        path: PathBuf,
        /// The map's topic.
        expected: String,
        /// The spool's.
        found: String,
    },
}

fn io<'a>(path: &'a Path, doing: &'static str) -> impl Fn(std::io::Error) -> SpoolError + 'a {
    move |error| SpoolError::Io { path: path.to_owned(), doing, message: error.to_string() }
}

/// Reads any bytes as a segment: how many records it holds, and what ends it early, in words. For fuzzing.
#[doc(hidden)]
pub fn read_any_segment(bytes: &[u8]) -> (usize, Option<String>) {
    let mut records = 0;
    let mut segment = match format::Segment::open(bytes) {
        Ok(segment) => segment,
        Err(broken) => return (0, Some(format!("{broken:?}"))),
    };
    loop {
        match segment.next() {
            Ok(Some(_)) => records += 1,
            Ok(None) => return (records, None),
            Err(broken) => return (records, Some(format!("{broken:?}"))),
        }
    }
}
