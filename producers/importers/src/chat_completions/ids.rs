//! Ids of calls that have none, and the answers to them.
//!
//! A call without an id gets one that follows from its place. An answer without one belongs to the first call that has no
//! answer yet, of its tool if it names one. An answer with an id that no call has gives it to the call that it answers by
//! this rule, if that has none.

use std::collections::{HashMap, HashSet, VecDeque};

use super::run::{Answer, Message, MessageBody};

/// Gives every call and every answer of a run its id.
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
    // Of the calls without an id: where each stands, and the id that its answer has.
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

/// The call of an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    /// It has an id, whether or not its call was seen.
    Id,
    /// It names no call, and none is open.
    Stray,
}

/// Answers without an id and a call: a message may have several.
struct Strays {
    /// Ids of the file.
    taken: HashSet<String>,
    /// The message of the latest, and how many it has.
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

/// An id that is not among these.
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

/// Calls that have no answer yet.
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

    /// The latest call of an id has its answer.
    fn answer(&mut self, id: &str) {
        if let Some(index) = self.by_id.get_mut(id).and_then(Vec::pop)
            && let Some(call) = self.calls.get_mut(index)
        {
            *call = None;
        }
    }

    /// Takes the first call, of a tool if it is known. `derived`: only if its id is derived.
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
