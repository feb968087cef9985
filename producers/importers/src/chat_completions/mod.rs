//! Reads recorded runs with messages in the format of OpenAI's chat completions and its dialects.
//!
//! **A file** has one run per line (JSONL), or consecutive documents over any number of lines, or an array of runs, or an object
//! with an array of runs. It may be compressed with gzip. A run is an object with `messages` (or `traj`,
//! `conversation`, `trajectory`), or an array of messages. Of its other fields `user_id` is the actor, and `task_id`
//! and `trial`, or the field that [`ImportOptions::label`] names, are its label; without them it is the line.
//!
//! **Events of a message.** user: `user.input`. system and developer: `llm.input_sent`, since the platform sends these messages
//! to the model. assistant: `output.displayed` if it has text that is not blank, one more for a `refusal` and one for the
//! `transcript` of its `audio`, then a `tool.invoked` for each of its calls; a message with none of these has no event. tool and function: `tool.response_received`. Around them `session.started` and `session.ended`.
//!
//! **Payloads** are the bytes that the model or the tool wrote: the text of a string, and the unchanged JSON of other values. A
//! call without arguments has `{}`. Parts of a text are joined without a separator. Images,
//! audio and files are replaced by their media type, size and digest, and a lone surrogate in a text by U+FFFD.
//!
//! **Calls without an id** get one derived from their position. An answer without an id belongs to the first unanswered
//! call, or to that of its tool if it names one. Answers without a known call are imported as well.
//!
//! [`Import::notes`] counts content that events cannot represent.

mod calls;
mod content;
mod events;
mod ids;
mod media;
mod reader;
mod run;
mod runs;
mod shape;

use agentgov_schemas::event::Agent;

use crate::file::{Ending, Input};
use crate::problem::{Problem, Problems};
use crate::{Import, ImportError, ImportOptions, Summary};

pub(crate) use events::events;
pub(crate) use run::Run;
pub use runs::RunLocation;
pub(crate) use runs::Runs;
#[cfg(test)]
pub(crate) use shape::is_run;

/// Version of the reader, part of the ids of an import. Change it whenever the reader gives other events. Otherwise
/// different events of two builds would have the same ids.
const READING: &[u8] = b"chat-completions/2";
/// Version in the ids of files that the first version could import, with the same events as today.
const FIRST_READING: &[u8] = b"chat-completions/1";

/// Reads and checks a whole file. Unreadable runs are problems and prevent the import, unless [`ImportOptions::skip_bad`] skips
/// them. Uses the memory of the largest document.
pub fn read(input: Input<'_>, options: ImportOptions) -> Result<Import<'_>, ImportError> {
    let io = |error| ImportError::Io { file: input.name().to_owned(), error };
    let mut runs = Runs::new(input.reader().map_err(io)?, options.label.clone());
    let mut found = Found::default();
    for (place, run) in &mut runs {
        found.take(&input, place, run);
    }
    let (notes, line, ending) = runs.end();
    let file = match ending {
        Ending::Failed(error) => return Err(io(error)),
        Ending::Whole(digest) => Some(digest),
        Ending::Damaged(message) => {
            let message = format!("expected the rest of the file, found {message}");
            found.problems.push(|| Problem { file: input.name().to_owned(), line, message });
            None
        }
    };
    let Found { summary, problems, left_out, is_new } = found;
    if summary.sessions == 0 && problems.is_empty() {
        let message = "expected a recorded run a line, found an empty file".to_owned();
        let mut problems = Problems::default();
        problems.push(|| Problem { file: input.name().to_owned(), line: 1, message });
        return Err(ImportError::Problems(problems));
    }
    // A file that cannot be read to its end has no digest, and so no ids.
    let Some(file) = file.filter(|_| problems.is_empty() || (options.skip_bad && summary.sessions > 0))
    else {
        return Err(ImportError::Problems(problems));
    };
    let reading = if is_new { READING } else { FIRST_READING };
    Ok(Import::new(input, options, reading, file).holding(summary, notes, problems, left_out))
}

/// Reads bytes in memory like [`read`].
pub fn parse<'b>(file: &str, bytes: &'b [u8], options: ImportOptions) -> Result<Import<'b>, ImportError> {
    read(Input::bytes(file, bytes), options)
}

#[derive(Default)]
struct Found {
    summary: Summary,
    problems: Problems,
    left_out: Vec<RunLocation>,
    is_new: bool,
}

impl Found {
    fn take(&mut self, input: &Input<'_>, place: RunLocation, run: Result<Run, Vec<Problem>>) {
        match run {
            Ok(run) => {
                let agent = Agent { id: "", name: None, version: None };
                self.summary.add(
                    events(&run, "", "", agent, agentgov_schemas::Micros(0)).iter().map(|(_, event)| event),
                );
                self.is_new |= run.is_new;
            }
            Err(problems) => {
                self.left_out.push(place);
                for problem in problems {
                    self.problems.push(|| Problem { file: input.name().to_owned(), ..problem });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
