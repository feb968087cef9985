//! Publishes all events of an import through a recorder, or none.

use std::time::{Duration, Instant};

use agentgov_sdk::{FlushError, RecordError, Recorder};

use crate::{Import, ImportError, Problem, Problems, RunLocation, Summary};

/// Time without an acknowledgement after which an import fails.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Interval at which progress is checked while the last events are in flight.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// An import that is not published, or only partly.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The recorder has another source id, or has recorded events before: the sequence numbers would differ from those of an
    /// earlier run of the import. Nothing was published.
    #[error("import: expected a new recorder with source id {expected}, found {found}")]
    OtherSource {
        /// [`Import::source_id`].
        expected: String,
        /// Source id of the recorder, and its number of events.
        found: String,
    },
    /// The recorder rejects some events. Nothing was published.
    #[error("{} events cannot be published: {}", .0.problems.count(), .0.problems)]
    Refused(RefusedRuns),
    /// The file cannot be read any more, or has changed. Earlier events may be published.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// The recorder rejected an event. Earlier events may be published: repeat the import.
    #[error(
        "import of {file}, line {place}: {error}; repeat the import: events that are already in the topic count once"
    )]
    Record {
        /// The file.
        file: String,
        /// Location of the session's run.
        place: RunLocation,
        /// Error of the recorder.
        error: Box<RecordError>,
    },
    /// Some events may not be durable.
    #[error("import of {file}: {error}; repeat the import: events that are already in the topic count once")]
    NotDurable {
        /// The file.
        file: String,
        /// Error of the recorder.
        error: FlushError,
    },
}

/// Runs of an import that a recorder rejects.
#[derive(Debug)]
pub struct RefusedRuns {
    /// The reasons, with line and message.
    pub problems: Problems,
    /// Locations of the runs.
    pub places: Vec<RunLocation>,
    /// Counts of the remaining runs.
    pub rest: Summary,
}

impl PublishError {
    /// Returns true if a repetition with the same options cannot succeed.
    pub fn is_permanent(&self) -> bool {
        let of = |error: &RecordError| {
            matches!(
                error,
                RecordError::Invalid { .. }
                    | RecordError::IdTooLong { .. }
                    | RecordError::TooLarge { .. }
                    | RecordError::Unencodable { .. }
            )
        };
        match self {
            Self::OtherSource { .. } | Self::Refused(_) => true,
            Self::Record { error, .. } => of(error),
            Self::NotDurable { error: FlushError::Closing { error, .. }, .. } => of(error),
            // The next repetition may find a file that no longer changes.
            Self::Import(_) | Self::NotDurable { .. } => false,
        }
    }
}

/// Publishes an import: checks all events with the recorder, then records them and closes the source. `Ok` means that every
/// event and the closing event are durable. After a failure, a repetition completes the import: the events have the same
/// source, sequence numbers and sessions, and count once. Calls `progress` with the number of recorded events and the total.
///
/// The recorder must be new, with the import's tenant, environment and [`Import::source_id`], and should wait when full.
pub fn publish(
    import: &Import<'_>,
    recorder: &Recorder,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Summary, PublishError> {
    check_source(import, recorder)?;
    if let Some(refused) = check(import, recorder)? {
        return Err(PublishError::Refused(refused));
    }
    let total = import.summary().events;
    let mut done = 0;
    for session in import.sessions() {
        let session = session?;
        for event in session.events() {
            recorder.record(&event).map_err(|error| PublishError::Record {
                file: import.file().to_owned(),
                place: session.place(),
                error: Box::new(error),
            })?;
            done += 1;
        }
        progress(done, total);
    }
    close(import, recorder)?;
    Ok(import.summary())
}

/// Checks all events with a recorder. Publishes nothing.
pub fn check(import: &Import<'_>, recorder: &Recorder) -> Result<Option<RefusedRuns>, ImportError> {
    let mut refused =
        RefusedRuns { problems: Problems::default(), places: Vec::new(), rest: Summary::default() };
    for session in import.sessions() {
        let session = session?;
        let events = session.events_with_message();
        let mut is_refused = false;
        for (message, event) in &events {
            let Err(error) = recorder.check(event) else { continue };
            is_refused = true;
            let at = message.map(|index| format!("messages[{index}]: ")).unwrap_or_default();
            refused.problems.push(|| Problem {
                file: import.file().to_owned(),
                line: session.place().line,
                message: format!("{at}{}: {error}", event.r#type),
            });
        }
        if is_refused {
            refused.places.push(session.place());
        } else {
            refused.rest.add(events.iter().map(|(_, event)| event));
        }
    }
    Ok(Some(refused).filter(|refused| !refused.places.is_empty()))
}

fn check_source(import: &Import<'_>, recorder: &Recorder) -> Result<(), PublishError> {
    let expected = import.source_id();
    let accepted = recorder.stats().accepted;
    if recorder.source_id() == expected && accepted == 0 {
        return Ok(());
    }
    let found = format!("{} after {accepted} events", recorder.source_id());
    Err(PublishError::OtherSource { expected, found })
}

/// Closes the source. Waits as long as further events are acknowledged.
fn close(import: &Import<'_>, recorder: &Recorder) -> Result<(), PublishError> {
    let (mut seen, mut since) = (recorder.stats().durable_through, Instant::now());
    loop {
        let error = match recorder.close(POLL_INTERVAL) {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        let durable = recorder.stats().durable_through;
        if durable > seen {
            (seen, since) = (durable, Instant::now());
        }
        if !matches!(error, FlushError::Unfinished { .. }) || since.elapsed() > STALL_TIMEOUT {
            return Err(PublishError::NotDurable { file: import.file().to_owned(), error });
        }
    }
}
