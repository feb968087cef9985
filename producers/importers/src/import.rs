//! A file that was checked, and its events.

use std::borrow::Cow;
use std::io;

use agentgov_schemas::event::Agent;
use agentgov_schemas::{Digest, Micros, catalogue};
use agentgov_sdk::{Event, uuid_v8};

use crate::RefusedRuns;
use crate::chat_completions::{self, Run, RunLocation, Runs};
use crate::file::{Ending, Input};
use crate::problem::{Notes, Problems};

/// Whose runs these are, when they are to have happened, and what is done with runs that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportOptions {
    /// The tenant of the recorder that will publish.
    pub tenant_id: String,
    /// Its environment.
    pub environment: String,
    /// The agent that ran.
    pub agent_id: String,
    /// Its version, if known.
    pub agent_version: Option<String>,
    /// When each session started; `None`: at `now`.
    pub start_time: Option<Micros>,
    /// The time of the import. Not part of its identity: without a start time, an import that is run again later is still
    /// the same import.
    pub now: Micros,
    /// The field of a run that is its label; `a.b` is field b of field a.
    pub label: Option<String>,
    /// Whether runs that cannot be read are left out. If not, one of them is enough for nothing to be imported.
    pub skip_bad: bool,
}

impl ImportOptions {
    /// What all ids of the import follow from: everything that changes its events, except `now`.
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
        // What is left out moves the numbers of what is not.
        if !left_out.is_empty() {
            parts.extend([b"left out", left_out.as_slice()]);
        }
        Digest::of_parts(parts)
    }
}

/// What an import holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Sessions.
    pub sessions: u64,
    /// Events, without the closing one of the source.
    pub events: u64,
    /// Tool calls among them.
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

/// Why there is no import, or no more of it.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file has runs that cannot be read, or none.
    #[error("{0}")]
    Problems(Problems),
    /// It could not be read.
    #[error("{file}: {error}")]
    Io {
        /// The file.
        file: String,
        /// Why not.
        error: io::Error,
    },
    /// It is another one than was checked.
    #[error("{file} changed while it was imported; import a file that nobody writes")]
    Changed {
        /// The file.
        file: String,
    },
}

/// A file of which every run that is not left out is good. Holds the way to its bytes, not its events: those are made
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

    /// The same import without the runs that a recorder refuses. Its ids are others.
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

    /// The file, as the caller named it.
    pub fn file(&self) -> &str {
        self.input.name()
    }

    /// Whose runs these are.
    pub const fn options(&self) -> &ImportOptions {
        &self.options
    }

    /// What the import holds.
    pub const fn summary(&self) -> Summary {
        self.summary
    }

    /// What of its runs is not imported, or not as the file has it.
    pub const fn notes(&self) -> &Notes {
        &self.notes
    }

    /// The reading of its format that its ids follow from.
    #[cfg(test)]
    pub(crate) const fn reading(&self) -> &'static [u8] {
        self.reading
    }

    /// Where the runs begin that are left out, in the order of the file.
    pub fn left_out(&self) -> &[RunLocation] {
        &self.left_out
    }

    /// Why they are.
    pub const fn problems(&self) -> &Problems {
        &self.problems
    }

    /// The source that the recorder has to be started with: the same whenever this import is run.
    pub fn source_id(&self) -> String {
        format!("import-{}", uuid_v8(self.identity))
    }

    /// The sessions, in the order of the file. An error is the last: the file cannot be read any more, or has changed.
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
    /// Its part of an id's digest. A run that is the first on its line has the id that it had when a line had one run.
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
    /// Where it begins in the file.
    pub const fn place(&self) -> RunLocation {
        self.place
    }

    /// Its id: follows from the import and the place.
    pub fn session_id(&self) -> &str {
        &self.session_id
    }

    /// Its name for people.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Its events, in their order.
    pub fn events(&self) -> Vec<Event<'_>> {
        self.numbered().into_iter().map(|(_, event)| event).collect()
    }

    /// The same, each with the index of the message that it is of.
    pub fn numbered(&self) -> Vec<(Option<usize>, Event<'_>)> {
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
