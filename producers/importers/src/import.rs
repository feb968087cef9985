//! A checked file and its events.

use std::borrow::Cow;
use std::io;

use agentgov_schemas::event::Agent;
use agentgov_schemas::{Digest, Micros, catalogue};
use agentgov_sdk::{Event, uuid_v8};

use crate::RefusedRuns;
use crate::chat_completions::{self, Run, RunLocation, Runs};
use crate::file::{Ending, Input};
use crate::problem::{Notes, Problems};

/// Options of an import: identity of the runs, their start time, and the treatment of unreadable runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportOptions {
    /// Tenant of the recorder that publishes the events.
    pub tenant_id: String,
    /// Environment of that recorder.
    pub environment: String,
    /// Id of the agent.
    pub agent_id: String,
    /// Version of the agent, if known.
    pub agent_version: Option<String>,
    /// Start time of each session; `None` means `now`.
    pub start_time: Option<Micros>,
    /// Time of the import. It is no part of the import's identity, so that a later repetition is the same import.
    pub now: Micros,
    /// Field of a run that has its label; `a.b` is field b of field a.
    pub label: Option<String>,
    /// Whether unreadable runs are skipped. Otherwise one unreadable run prevents the import.
    pub skip_bad: bool,
}

impl ImportOptions {
    /// Returns the digest from which all ids of the import are derived. It covers everything that changes the events, except
    /// `now`.
    fn identity(&self, reading: &[u8], file: Digest, left_out: &[RunLocation]) -> Digest {
        let start_time = self.start_time.map(|start| start.0.to_be_bytes());
        let left_out: Vec<u8> =
            left_out.iter().flat_map(|place| [place.line, place.before]).flat_map(u64::to_be_bytes).collect();
        let mut parts = vec![
            reading,
            file.as_bytes(),
            self.tenant_id.as_bytes(),
            self.environment.as_bytes(),
            self.agent_id.as_bytes(),
            self.agent_version.as_deref().unwrap_or_default().as_bytes(),
            start_time.as_ref().map_or(&[], <[u8; 8]>::as_slice),
        ];
        if let Some(label) = &self.label {
            parts.extend([b"label".as_slice(), label.as_bytes()]);
        }
        // Skipped runs change the sequence numbers of later events.
        if !left_out.is_empty() {
            parts.extend([b"left out", left_out.as_slice()]);
        }
        Digest::of_parts(parts)
    }
}

/// Counts of an import.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Number of sessions.
    pub sessions: u64,
    /// Number of events, without the closing event of the source.
    pub events: u64,
    /// Number of tool calls among the events.
    pub tool_calls: u64,
}

impl Summary {
    pub(crate) fn add<'e>(&mut self, events: impl Iterator<Item = &'e Event<'e>>) {
        self.sessions += 1;
        for event in events {
            self.events += 1;
            self.tool_calls += u64::from(event.r#type == catalogue::TOOL_INVOKED);
        }
    }
}

/// An import that failed or cannot continue.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file has unreadable runs, or no runs.
    #[error("{0}")]
    Problems(Problems),
    /// The file cannot be read.
    #[error("{file}: {error}")]
    Io {
        /// The file.
        file: String,
        /// Error of the operating system.
        error: io::Error,
    },
    /// The file changed after it was checked.
    #[error("{file} changed while it was imported; import a file that no process writes to")]
    Changed {
        /// The file.
        file: String,
    },
}

/// A checked file whose runs are readable, apart from skipped ones. It keeps the input and not the events, which are created
/// session by session.
#[derive(Debug)]
pub struct Import<'b> {
    input: Input<'b>,
    options: ImportOptions,
    reading: &'static [u8],
    digest: Digest,
    identity: Digest,
    summary: Summary,
    notes: Notes,
    problems: Problems,
    left_out: Vec<RunLocation>,
}

/// One session of an import.
#[derive(Debug)]
pub struct ImportedSession<'i> {
    options: &'i ImportOptions,
    identity: Digest,
    place: RunLocation,
    session_id: String,
    label: String,
    run: Run,
}

impl<'b> Import<'b> {
    pub(crate) fn new(
        input: Input<'b>,
        options: ImportOptions,
        reading: &'static [u8],
        digest: Digest,
    ) -> Self {
        let identity = options.identity(reading, digest, &[]);
        Self {
            input,
            options,
            reading,
            digest,
            identity,
            summary: Summary::default(),
            notes: Notes::default(),
            problems: Problems::default(),
            left_out: Vec::new(),
        }
    }

    pub(crate) fn holding(
        self,
        summary: Summary,
        notes: Notes,
        problems: Problems,
        left_out: Vec<RunLocation>,
    ) -> Self {
        let identity = self.options.identity(self.reading, self.digest, &left_out);
        Self { identity, summary, notes, problems, left_out, ..self }
    }

    /// Returns the import without the runs that a recorder rejects. It has other ids.
    #[must_use]
    pub fn without(self, refused: RefusedRuns) -> Self {
        let mut left_out = [self.left_out.as_slice(), refused.places.as_slice()].concat();
        left_out.sort_unstable();
        let (notes, problems) = (self.notes.clone(), self.problems.clone().and(refused.problems));
        self.holding(refused.rest, notes, problems, left_out)
    }

    fn session(&self, place: RunLocation, run: Run) -> ImportedSession<'_> {
        let id = uuid_v8(Digest::of_parts(
            [self.identity.as_bytes().as_slice()].into_iter().chain(place.parts().iter().map(Vec::as_slice)),
        ));
        ImportedSession {
            options: &self.options,
            identity: self.identity,
            place,
            session_id: id.to_string(),
            label: run.label.clone().unwrap_or_else(|| format!("line-{place}")),
            run,
        }
    }

    /// Returns the name of the file, as the caller gave it.
    pub fn file(&self) -> &str {
        self.input.name()
    }

    /// Returns the options.
    pub const fn options(&self) -> &ImportOptions {
        &self.options
    }

    /// Returns the counts.
    pub const fn summary(&self) -> Summary {
        self.summary
    }

    /// Returns the notes about content that is not imported, or is imported in another form.
    pub const fn notes(&self) -> &Notes {
        &self.notes
    }

    /// Returns the version of the reader in the ids.
    #[cfg(test)]
    pub(crate) const fn reading(&self) -> &'static [u8] {
        self.reading
    }

    /// Returns the locations of the skipped runs, in the order of the file.
    pub fn left_out(&self) -> &[RunLocation] {
        &self.left_out
    }

    /// Returns the problems of the skipped runs.
    pub const fn problems(&self) -> &Problems {
        &self.problems
    }

    /// Returns the id of the source for the recorder. It is the same in each repetition of the import.
    pub fn source_id(&self) -> String {
        format!("import-{}", uuid_v8(self.identity))
    }

    /// Iterates over the sessions in the order of the file. Ends after an error: the file cannot be read, or has changed.
    pub fn sessions(&self) -> impl Iterator<Item = Result<ImportedSession<'_>, ImportError>> {
        let (mut runs, mut failed) = match self.input.reader() {
            Ok(reader) => (Some(Runs::new(reader, self.options.label.clone())), None),
            Err(error) => (None, Some(ImportError::Io { file: self.file().to_owned(), error })),
        };
        let mut seen = Summary::default();
        std::iter::from_fn(move || {
            if let Some(error) = failed.take() {
                return Some(Err(error));
            }
            for (place, run) in runs.as_mut()? {
                match run {
                    _ if self.left_out.binary_search(&place).is_ok() => {}
                    Ok(run) => {
                        seen.sessions += 1;
                        return Some(Ok(self.session(place, run)));
                    }
                    Err(_) => break,
                }
            }
            let (_, _, ending) = runs.take()?.end();
            match ending {
                Ending::Whole(digest) if digest == self.digest && seen.sessions == self.summary.sessions => {
                    None
                }
                Ending::Failed(error) => Some(Err(ImportError::Io { file: self.file().to_owned(), error })),
                _ => Some(Err(ImportError::Changed { file: self.file().to_owned() })),
            }
        })
    }
}

impl RunLocation {
    /// Returns the parts of the location in an id's digest. The first run of a line has the id that it had when a line was
    /// limited to one run.
    fn parts(self) -> Vec<Vec<u8>> {
        let line = self.line.to_be_bytes().to_vec();
        if self.before == 0 {
            vec![line]
        } else {
            vec![line, b"run".to_vec(), self.before.to_be_bytes().to_vec()]
        }
    }
}

impl ImportedSession<'_> {
    /// Returns the location of the run in the file.
    pub const fn place(&self) -> RunLocation {
        self.place
    }

    /// Returns the session id, which is derived from the import and the location.
    pub fn session_id(&self) -> &str {
        &self.session_id
    }

    /// Returns the label for people.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Returns the events in order.
    pub fn events(&self) -> Vec<Event<'_>> {
        self.events_with_message().into_iter().map(|(_, event)| event).collect()
    }

    /// Returns the events in order, each with the index of its message.
    pub fn events_with_message(&self) -> Vec<(Option<usize>, Event<'_>)> {
        let agent =
            Agent { id: &self.options.agent_id, name: None, version: self.options.agent_version.as_deref() };
        let start = self.options.start_time.unwrap_or(self.options.now);
        let mut events = chat_completions::events(&self.run, &self.session_id, &self.label, agent, start);
        let mut parts: Vec<Cow<'_, [u8]>> = vec![Cow::Borrowed(self.identity.as_bytes().as_slice())];
        parts.extend(self.place.parts().into_iter().map(Cow::Owned));
        for (index, (_, event)) in (0_u64..).zip(&mut events) {
            let index = index.to_be_bytes();
            let parts = parts.iter().map(|part| &**part).chain([index.as_slice()]);
            event.event_id = Some(uuid_v8(Digest::of_parts(parts)));
        }
        events
    }
}
