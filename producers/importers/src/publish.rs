//! All of an import through a recorder, or nothing.

use std::time::{Duration, Instant};

use agentgov_sdk::{FlushError, RecordError, Recorder};

use crate::{Import, Problem, Summary};

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
    #[error("{} events cannot be published: {}", .0.len(), .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Refused(Vec<Problem>),
    /// The recorder took no more. What it took before may be published: run the import again.
    #[error(
        "import of {file}, line {line}: {error}; run the import again: what is there already counts once"
    )]
    Record {
        /// The file.
        file: String,
        /// The line of the session that was being published.
        line: u64,
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
    check_events(import, recorder)?;
    let total = import.summary().events;
    let mut done = 0;
    for session in import.sessions() {
        for event in session.events() {
            recorder.record(&event).map_err(|error| PublishError::Record {
                file: import.file().to_owned(),
                line: session.line(),
                error: Box::new(error),
            })?;
            done += 1;
        }
        progress(done, total);
    }
    close(import, recorder)?;
    Ok(import.summary())
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

fn check_events(import: &Import<'_>, recorder: &Recorder) -> Result<(), PublishError> {
    let mut problems = Vec::new();
    for session in import.sessions() {
        let refused = session
            .events()
            .iter()
            .filter_map(|event| recorder.check(event).err())
            .map(|error| Problem {
                file: import.file().to_owned(),
                line: session.line(),
                message: error.to_string(),
            })
            .collect::<Vec<_>>();
        problems.extend(refused);
    }
    if problems.is_empty() { Ok(()) } else { Err(PublishError::Refused(problems)) }
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
