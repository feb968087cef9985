//! One recorded run a line: `task_id`, `trial`, optionally `user_id`, and `messages` in the format of OpenAI's chat
//! completions. Other fields are ignored.
//!
//! What becomes of a message: user, `user.input`; system, `llm.input_sent`, since it is what the platform told the model;
//! assistant, `output.displayed` if it has text that is not blank, then a `tool.invoked` for each of its calls (a message with
//! neither says nothing and becomes nothing); tool, `tool.response_received`. Around them `session.started` and
//! `session.ended`. Arguments are kept as the bytes of the string that the model wrote, JSON or not; a result is kept
//! whether or not its call was seen. Parts of a text are joined without anything between them.
//!
//! Refused, since something would be lost: parts that are not text, and the deprecated `function_call`.

mod events;
mod line;

use agentgov_schemas::Digest;

use crate::{Import, ImportOptions, Problem, Summary};

pub(crate) use events::events;
pub(crate) use line::Run;

/// What the ids of an import follow from beside file and options: the reading above. To change when it changes, or what
/// an older build imported would pass for what this one makes.
const READING: &[u8] = b"chat-completions/1";

/// Reads and checks the whole of a file: every bad line is a problem of its own, and then there is no import. Blank lines
/// are skipped. Needs the memory of its largest line beside `bytes`.
pub fn parse<'b>(file: &str, bytes: &'b [u8], options: ImportOptions) -> Result<Import<'b>, Vec<Problem>> {
    let identity = options.identity(READING, Digest::of(bytes));
    let mut summary = Summary::default();
    let mut problems = Vec::new();
    let problem = |line, message| Problem { file: file.to_owned(), line, message };
    let import = Import::new(file, bytes, options, identity);
    for (number, line) in import.lines() {
        match line::read(line) {
            Ok(run) => summary.add(&import.session(number, run).events()),
            Err(messages) => problems.extend(messages.into_iter().map(|message| problem(number, message))),
        }
    }
    if summary.sessions == 0 && problems.is_empty() {
        problems.push(problem(1, "expected a recorded run a line, found an empty file".to_owned()));
    }
    if problems.is_empty() { Ok(import.counted(summary)) } else { Err(problems) }
}

/// The run of a line that [`parse`] has accepted.
pub(crate) fn reread(line: &[u8]) -> Option<Run> {
    line::read(line).ok()
}

#[cfg(test)]
mod tests;
