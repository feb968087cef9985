//! A file that was checked, and its events.

use agentgov_schemas::event::Agent;
use agentgov_schemas::{Digest, Micros, catalogue};
use agentgov_sdk::{Event, uuid_v8};

use crate::chat_completions::{self, Run};

/// Whose runs these are, and when they are to have happened.
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
}

impl ImportOptions {
    /// What all ids of the import follow from: everything that changes its events, except `now`.
    pub(crate) fn identity(&self, reading: &[u8], file: Digest) -> Digest {
        let start_time = self.start_time.map(|start| start.0.to_be_bytes());
        Digest::of_parts([
            reading,
            file.as_bytes(),
            self.tenant_id.as_bytes(),
            self.environment.as_bytes(),
            self.agent_id.as_bytes(),
            self.agent_version.as_deref().unwrap_or_default().as_bytes(),
            start_time.as_ref().map_or(&[], <[u8; 8]>::as_slice),
        ])
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
    pub(crate) fn add(&mut self, events: &[Event<'_>]) {
        self.sessions += 1;
        self.events += events.len() as u64;
        self.tool_calls +=
            events.iter().filter(|event| event.r#type == catalogue::TOOL_INVOKED).count() as u64;
    }
}

/// A file in which every line is good. Holds the file's bytes, not its events: those are made session by session.
#[derive(Debug)]
pub struct Import<'b> {
    file: String,
    bytes: &'b [u8],
    options: ImportOptions,
    identity: Digest,
    summary: Summary,
}

/// One session of an import.
#[derive(Debug)]
pub struct ImportedSession<'i> {
    options: &'i ImportOptions,
    identity: Digest,
    line: u64,
    session_id: String,
    run: Run,
}

impl<'b> Import<'b> {
    pub(crate) fn new(file: &str, bytes: &'b [u8], options: ImportOptions, identity: Digest) -> Self {
        Self { file: file.to_owned(), bytes, options, identity, summary: Summary::default() }
    }

    pub(crate) fn counted(self, summary: Summary) -> Self {
        Self { summary, ..self }
    }

    /// The lines that are not blank, with their numbers.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (u64, &'b [u8])> + use<'b> {
        (1..).zip(self.bytes.split(|byte| *byte == b'\n')).filter(|(_, line)| !line.trim_ascii().is_empty())
    }

    pub(crate) fn session(&self, line: u64, run: Run) -> ImportedSession<'_> {
        let session_id =
            uuid_v8(Digest::of_parts([self.identity.as_bytes().as_slice(), &line.to_be_bytes()]));
        ImportedSession {
            options: &self.options,
            identity: self.identity,
            line,
            session_id: session_id.to_string(),
            run,
        }
    }

    /// The file, as the caller named it.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Whose runs these are.
    pub const fn options(&self) -> &ImportOptions {
        &self.options
    }

    /// What the import holds.
    pub const fn summary(&self) -> Summary {
        self.summary
    }

    /// The source that the recorder has to be started with: the same whenever this import is run.
    pub fn source_id(&self) -> String {
        format!("import-{}", uuid_v8(self.identity))
    }

    /// The sessions, in the order of the file.
    pub fn sessions(&self) -> impl Iterator<Item = ImportedSession<'_>> {
        self.lines().filter_map(|(number, line)| Some(self.session(number, chat_completions::reread(line)?)))
    }
}

impl ImportedSession<'_> {
    /// Its line in the file, from 1.
    pub const fn line(&self) -> u64 {
        self.line
    }

    /// Its id: follows from the import and the line.
    pub fn session_id(&self) -> &str {
        &self.session_id
    }

    /// Its name for people: task_id/trial.
    pub fn label(&self) -> &str {
        &self.run.label
    }

    /// Its events, in their order.
    pub fn events(&self) -> Vec<Event<'_>> {
        let agent =
            Agent { id: &self.options.agent_id, name: None, version: self.options.agent_version.as_deref() };
        let start = self.options.start_time.unwrap_or(self.options.now);
        let mut events = chat_completions::events(&self.run, &self.session_id, agent, start);
        for (index, event) in (0_u64..).zip(&mut events) {
            let parts = [self.identity.as_bytes().as_slice(), &self.line.to_be_bytes(), &index.to_be_bytes()];
            event.event_id = Some(uuid_v8(Digest::of_parts(parts)));
        }
        events
    }
}
