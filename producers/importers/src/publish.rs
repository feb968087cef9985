//! All of an import through a recorder, or nothing.

use std::time::{Duration, Instant};

use agentgov_sdk::{FlushError, RecordError, Recorder};

use crate::{Import, ImportError, Problem, Problems, RunLocation, Summary};

/// How long the brokers may acknowledge nothing at all before an import gives up waiting.
const STALLED: Duration = Duration::from_secs(60);
/// How often progress is looked at while the last events are on their way.
const LOOK: Duration = Duration::from_secs(1);

/// Why an import was not published, or not wholly.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The recorder writes as another source, or has written before: the numbers would not be those of an earlier run of
    /// the same import. Nothing was published.
    #[error("import: expected a new recorder with source id {expected}, found {found}")]
    OtherSource {
        /// [`Import::source_id`].
        expected: String,
        /// What the recorder is.
        found: String,
    },
    /// The topic would not take some events. Nothing was published.
    #[error("{} events cannot be published: {}", .0.problems.count(), .0.problems)]
    Refused(RefusedRuns),
    /// The file cannot be read any more, or has changed. What came before may be published.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// The recorder took no more. What it took before may be published: run the import again.
    #[error(
        "import of {file}, line {place}: {error}; run the import again: what is there already counts once"
    )]
    Record {
        /// The file.
        file: String,
        /// Where the run of the session begins that was being published.
        place: RunLocation,
        /// What the recorder said.
        error: Box<RecordError>,
    },
    /// Not everything is known to be durable.
    #[error("import of {file}: {error}; run the import again: what is there already counts once")]
    NotDurable {
        /// The file.
        file: String,
        /// What the recorder said.
        error: FlushError,
    },
}

/// What a recorder would not take of an import.
#[derive(Debug)]
pub struct RefusedRuns {
    /// Why not, with line and message.
    pub problems: Problems,
    /// The runs that it is of.
    pub places: Vec<RunLocation>,
    /// What is left without them.
    pub rest: Summary,
}

impl PublishError {
    /// True if the same import with the same recorder's options cannot succeed later.
    pub fn is_permanent(&self) -> bool {
        let of = |error: &RecordError| {
            matches!(
                error,
                RecordError::Invalid { .. } | RecordError::TooLarge { .. } | RecordError::Unencodable { .. }
            )
        };
        match self {
            Self::OtherSource { .. } | Self::Refused(_) => true,
            Self::Record { error, .. } => of(error),
            Self::NotDurable { error: FlushError::Closing { error, .. }, .. } => of(error),
            // A file that changes may stay as it is the next time.
            Self::Import(_) | Self::NotDurable { .. } => false,
        }
    }
}

/// Publishes an import: first asks the recorder whether it would take every event, then records them and closes the
/// source. When it returns `Ok`, every event and the closing one are durable. When it fails after it began, running the
/// same import again completes it: the events have the same source, numbers and sessions, and those that are there
/// already count once. `progress` is told how many events of how many are recorded.
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

/// Asks a recorder whether it would take every event. Publishes nothing.
pub fn check(import: &Import<'_>, recorder: &Recorder) -> Result<Option<RefusedRuns>, ImportError> {
    let mut refused =
        RefusedRuns { problems: Problems::default(), places: Vec::new(), rest: Summary::default() };
    for session in import.sessions() {
        let session = session?;
        let events = session.numbered();
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

/// Waits as long as something is acknowledged now and then.
fn close(import: &Import<'_>, recorder: &Recorder) -> Result<(), PublishError> {
    let (mut seen, mut since) = (recorder.stats().durable_through, Instant::now());
    loop {
        let error = match recorder.close(LOOK) {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        let durable = recorder.stats().durable_through;
        if durable > seen {
            (seen, since) = (durable, Instant::now());
        }
        if !matches!(error, FlushError::Unfinished { .. }) || since.elapsed() > STALLED {
            return Err(PublishError::NotDurable { file: import.file().to_owned(), error });
        }
    }
}
