//! The spool: a bounded write-ahead log of events that Kafka has not acknowledged.
//!
//! ```text
//!   FOLDER/lock                        locked while sources are claimed or created
//!   FOLDER/schema.json                 cached schema id, for a start without the schema registry
//!   FOLDER/SOURCE/lock                 locked by the process that owns the source or recovers it
//!   FOLDER/SOURCE/00000000000000000042.seg   records from sequence 42 to the start of the next segment
//!
//!   record ──► append ──► producer queue         start ──► claim dead sources ──► publish, close ──► remove
//!                 └─ remove durable segments
//! ```
//!
//! - [`format`]: encoding of segments and records
//! - [`folder`]: locks and ownership
//! - [`writer`], [`sync`]: segments of the live sources
//! - [`dead_source`]: reading the segments of a dead source
//! - [`recovery`]: publishing dead sources
//! - [`schema`]: the cached schema id
//!
//! docs/adr/0007-the-spool.md has the reasons for this design.

mod dead_source;
mod folder;
pub(crate) mod format;
mod recovery;
mod schema;
mod sync;
mod writer;

use std::path::{Path, PathBuf};

pub(crate) use dead_source::DeadSource;
pub(crate) use folder::{SourceFolder, SpoolFolder};
pub(crate) use format::{RecordKind, SegmentHeader, SpoolRecord};
pub(crate) use recovery::Recovery;
pub(crate) use schema::CachedSchemaId;
pub(crate) use sync::Syncer;
pub(crate) use writer::{AppendError, AppendOutcome, Spool, min_spool_bytes};

/// A spool that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpoolError {
    /// The operating system returned an error.
    #[error("spool {path}: {operation}: {message}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The failed operation.
        operation: &'static str,
        /// Error of the operating system.
        message: String,
    },
    /// A file of a dead source is damaged. This start has published and removed none of the source's events.
    #[error(
        "spool {file}, byte {offset}: expected {expected}, found other bytes; the source's events are kept: restore the file, or move its folder away to start without them"
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Offset of the damage in the file.
        offset: usize,
        /// Expected content at the offset.
        expected: String,
    },
    /// A dead source has events for a topic other than the topology's.
    #[error(
        "spool {path}: expected events for topic {expected}, found events for {found}; start once with the old topology, or move the folder away to start without them"
    )]
    OtherTopic {
        /// The source's folder.
        path: PathBuf,
        /// The topology's topic.
        expected: String,
        /// The topic in the spool.
        found: String,
    },
}

fn io<'a>(path: &'a Path, operation: &'static str) -> impl Fn(std::io::Error) -> SpoolError + 'a {
    move |error| SpoolError::Io { path: path.to_owned(), operation, message: error.to_string() }
}

/// Reads any bytes as a segment, for fuzzing. Returns the number of its records, and the error that ends it early.
#[doc(hidden)]
pub fn read_any_segment(bytes: &[u8]) -> (usize, Option<String>) {
    let mut records = 0;
    let mut segment = match format::SegmentReader::open(bytes) {
        Ok(segment) => segment,
        Err(error) => return (0, Some(format!("{error:?}"))),
    };
    loop {
        match segment.next_record() {
            Ok(Some(_)) => records += 1,
            Ok(None) => return (records, None),
            Err(error) => return (records, Some(format!("{error:?}"))),
        }
    }
}
