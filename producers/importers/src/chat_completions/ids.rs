//! Derives ids of calls and answers that have none.
//!
//! A call without an id gets one derived from its position. An answer without an id belongs to the first call without an answer,
//! of its tool if it names one. An answer whose id no call has gives its id to the call that this rule finds, if that call has
//! no id.

use std::collections::{HashMap, HashSet, VecDeque};

use super::run::{Answer, Message, MessageBody};

/// Sets the ids of all calls and answers of a run.
pub(super) fn derive(messages: &mut [Message]) {
    let calls = messages.iter().filter_map(|message| match &message.body {
        MessageBody::Assistant { calls, .. } => Some(calls),
        _ => None,
    });
    let mut given: HashSet<String> = calls.flatten().map(|call| call.id.clone()).collect();
    given.remove("");
    let answers = messages.iter().filter_map(|message| match &message.body {
        MessageBody::Tool(answer) => Some(answer.call_id.clone()),
        _ => None,
    });
    let taken: HashSet<String> = answers.chain(given.iter().cloned()).collect();
    let mut strays = Strays { taken, message: 0, count: 0 };
    let mut open = Open::default();
    // Calls without an id: their position, and the id of their answer.
    let mut renamed: HashMap<(usize, usize), String> = HashMap::new();
    for (place, message) in messages.iter_mut().enumerate() {
        match &mut message.body {
            MessageBody::Assistant { calls, .. } => {
                for (number, call) in calls.iter_mut().enumerate() {
                    let derived = call.id.is_empty();
                    if derived {
                        call.id = fresh(format!("{}-call-{number}", message.id), &given);
                    }
                    open.call((place, number), &call.id, &call.name, derived);
                }
            }
            MessageBody::Tool(answer) => {
                if answered(answer, &given, &mut open, &mut renamed) == Found::Stray {
                    answer.call_id = strays.id(message.index, &message.id);
                }
            }
            MessageBody::User { .. } | MessageBody::System { .. } => {}
        }
    }
    for ((place, number), id) in renamed {
        if let Some(MessageBody::Assistant { calls, .. }) =
            messages.get_mut(place).map(|message| &mut message.body)
            && let Some(call) = calls.get_mut(number)
        {
            call.id = id;
        }
    }
}

/// Result of finding the call of an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    /// The answer has an id, with or without a known call.
    Id,
    /// The answer names no call, and no call is open.
    Stray,
}

/// Creates ids for answers without an id and a call. A message may have several.
struct Strays {
    /// Ids in the file.
    taken: HashSet<String>,
    /// Message of the last such answer, and the number of such answers in it.
    message: usize,
    count: usize,
}

impl Strays {
    fn id(&mut self, index: usize, message: &str) -> String {
        if self.message != index {
            (self.message, self.count) = (index, 0);
        }
        let id = match self.count {
            0 => format!("{message}-answer"),
            number => format!("{message}-answer-{number}"),
        };
        self.count += 1;
        fresh(id, &self.taken)
    }
}

fn answered(
    answer: &mut Answer,
    given: &HashSet<String>,
    open: &mut Open,
    renamed: &mut HashMap<(usize, usize), String>,
) -> Found {
    if answer.call_id.is_empty()
        && let Some(id) = answer.perhaps_call_id.as_ref().filter(|id| given.contains(*id))
    {
        answer.call_id.clone_from(id);
    }
    if answer.of_user && !answer.call_id.is_empty() {
        return Found::Id;
    }
    if given.contains(&answer.call_id) {
        open.answer(&answer.call_id);
        return Found::Id;
    }
    let tool = answer.name.as_deref().or(answer.tool.as_deref());
    if answer.call_id.is_empty() {
        match open.first(tool, false).map(|call| call.id).or_else(|| answer.perhaps_call_id.take()) {
            Some(id) => answer.call_id = id,
            None => return Found::Stray,
        }
    } else if let Some(call) = open.first(tool, true) {
        renamed.insert(call.place, answer.call_id.clone());
    }
    Found::Id
}

/// Returns the id, changed if it is in `given`.
fn fresh(mut id: String, given: &HashSet<String>) -> String {
    while given.contains(&id) {
        id.push('\'');
    }
    id
}

#[derive(Clone)]
struct Called {
    place: (usize, usize),
    id: String,
    derived: bool,
}

/// Calls without an answer.
#[derive(Default)]
struct Open {
    calls: Vec<Option<Called>>,
    in_order: VecDeque<usize>,
    by_tool: HashMap<String, VecDeque<usize>>,
    by_id: HashMap<String, Vec<usize>>,
}

impl Open {
    fn call(&mut self, place: (usize, usize), id: &str, tool: &str, derived: bool) {
        let index = self.calls.len();
        self.calls.push(Some(Called { place, id: id.to_owned(), derived }));
        self.in_order.push_back(index);
        self.by_tool.entry(tool.to_owned()).or_default().push_back(index);
        self.by_id.entry(id.to_owned()).or_default().push(index);
    }

    /// Removes the last call with an id, which has its answer.
    fn answer(&mut self, id: &str) {
        if let Some(index) = self.by_id.get_mut(id).and_then(Vec::pop)
            && let Some(call) = self.calls.get_mut(index)
        {
            *call = None;
        }
    }

    /// Removes and returns the first call, of a tool if one is given. With `derived`, only if its id is derived.
    fn first(&mut self, tool: Option<&str>, derived: bool) -> Option<Called> {
        let queue = match tool {
            Some(tool) => self.by_tool.get_mut(tool)?,
            None => &mut self.in_order,
        };
        while let Some(index) = queue.front() {
            match self.calls.get_mut(*index) {
                Some(Some(call)) if derived && !call.derived => return None,
                Some(call @ Some(_)) => {
                    queue.pop_front();
                    return call.take();
                }
                _ => queue.pop_front(),
            };
        }
        None
    }
}
