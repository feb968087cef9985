//! Content of one run.

/// A recorded run.
#[derive(Debug, Default)]
pub(crate) struct Run {
    /// Label for people, if the file has one.
    pub(crate) label: Option<String>,
    pub(crate) user_id: Option<String>,
    pub(crate) messages: Vec<Message>,
    /// Number of messages in the file.
    pub(crate) length: usize,
    /// True if the first reading of this format gave other events.
    pub(crate) is_new: bool,
}

/// A message with its id in the session.
#[derive(Debug)]
pub(crate) struct Message {
    /// Index in the messages of the run, from 0.
    pub(crate) index: usize,
    pub(crate) id: String,
    pub(crate) body: MessageBody,
}

#[derive(Debug)]
pub(crate) enum MessageBody {
    User {
        text: Option<String>,
    },
    System {
        role: &'static str,
        text: Option<String>,
    },
    Assistant {
        text: Option<String>,
        /// Further text that the person saw or heard: a refusal, the transcript of a voice.
        beside: Vec<String>,
        calls: Vec<Call>,
    },
    Tool(Answer),
}

#[derive(Debug)]
pub(crate) struct Call {
    /// Empty until it is derived.
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) arguments: String,
}

/// Answer of a tool.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Empty until it is derived.
    pub(crate) call_id: String,
    /// Whether it answers a call of the simulated user.
    pub(crate) of_user: bool,
    /// Field `id`: the call's id if a call has it. Other files have the message's own id there.
    pub(crate) perhaps_call_id: Option<String>,
    pub(crate) name: Option<String>,
    /// Name of the tool for finding the call, if it is not in `name`.
    pub(crate) tool: Option<String>,
    pub(crate) text: Option<String>,
    pub(crate) is_error: Option<bool>,
}
