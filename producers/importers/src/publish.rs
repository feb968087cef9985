//! Publishes all events of an import through a recorder, or none.

use std::error::Error;
use std::time::{Duration, Instant};

use agentgov_sdk::{Event, FlushError, Receipt, RecordError, Recorder, ToolCall};

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
    /// A call was not decided, so it was not recorded. Earlier events may be published.
    #[error(
        "import of {file}, line {place}: {error}; earlier events are published, so repeat the import with another start time"
    )]
    Undecided {
        /// The file.
        file: String,
        /// Location of the session's run.
        place: RunLocation,
        /// Error of the decider.
        error: Box<dyn Error + Send + Sync>,
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
            Self::Import(_) | Self::Undecided { .. } | Self::NotDurable { .. } => false,
        }
    }
}

/// Decides each call of an import before it is recorded.
pub trait CallDecider {
    /// Maximum size of a token.
    const MAX_TOKEN_BYTES: usize;

    /// Decides a call. Returns the token that the call's event carries; `None` if the call remains undecided. `after` is the
    /// last recorded event of the session.
    ///
    /// # Errors
    /// If the import cannot continue.
    fn decide(
        &mut self,
        call: &Event<'_>,
        after: Option<Receipt>,
    ) -> Result<Option<String>, Box<dyn Error + Send + Sync>>;
}

/// Decider of [`publish`]: no call is decided.
struct Undecided;

impl CallDecider for Undecided {
    const MAX_TOKEN_BYTES: usize = 0;

    fn decide(
        &mut self,
        _: &Event<'_>,
        _: Option<Receipt>,
    ) -> Result<Option<String>, Box<dyn Error + Send + Sync>> {
        Ok(None)
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
    publish_decided(import, recorder, &mut Undecided, progress)
}

/// Publishes an import as [`publish`] does, and has each call decided before it is recorded. The events are the same, apart from
/// the tokens.
pub fn publish_decided<D: CallDecider>(
    import: &Import<'_>,
    recorder: &Recorder,
    decider: &mut D,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Summary, PublishError> {
    check_source(import, recorder)?;
    // Stands for the tokens, which are not known yet.
    let token = "-".repeat(D::MAX_TOKEN_BYTES);
    if let Some(refused) = check_with_token(import, recorder, Some(token.as_str()).filter(|t| !t.is_empty()))?
    {
        return Err(PublishError::Refused(refused));
    }
    let total = import.summary().events;
    let mut done = 0;
    for session in import.sessions() {
        let session = session?;
        let (file, place) = (|| import.file().to_owned(), session.place());
        let mut after = None;
        for event in session.events() {
            let token = match event.tool {
                Some(_) => decider.decide(&event, after).map_err(|error| PublishError::Undecided {
                    file: file(),
                    place,
                    error,
                })?,
                None => None,
            };
            let recorded = recorder.record(&with_token(event, token.as_deref()));
            after = Some(recorded.map_err(|error| PublishError::Record {
                file: file(),
                place,
                error: Box::new(error),
            })?);
            done += 1;
        }
        progress(done, total);
    }
    close(import, recorder)?;
    Ok(import.summary())
}

/// Returns the event with a token, if it is a call.
fn with_token<'a>(event: Event<'a>, token: Option<&'a str>) -> Event<'a> {
    Event { tool: event.tool.map(|tool| ToolCall { decision_token: token, ..tool }), ..event }
}

/// Checks all events with a recorder. Publishes nothing.
pub fn check(import: &Import<'_>, recorder: &Recorder) -> Result<Option<RefusedRuns>, ImportError> {
    check_with_token(import, recorder, None)
}

fn check_with_token(
    import: &Import<'_>,
    recorder: &Recorder,
    token: Option<&str>,
) -> Result<Option<RefusedRuns>, ImportError> {
    let mut refused =
        RefusedRuns { problems: Problems::default(), places: Vec::new(), rest: Summary::default() };
    for session in import.sessions() {
        let session = session?;
        let events = session.events_with_message();
        let mut is_refused = false;
        for (message, event) in &events {
            let Err(error) = recorder.check(&with_token(*event, token)) else { continue };
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
