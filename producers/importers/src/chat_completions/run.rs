//! One run: what is read of it.

/// A recorded run.
#[derive(Debug, Default)]
pub(crate) struct Run {
    /// Its name for people, where the file has one.
    pub(crate) label: Option<String>,
    pub(crate) user_id: Option<String>,
    pub(crate) messages: Vec<Message>,
    /// How many messages the file has.
    pub(crate) length: usize,
    /// Whether the first reading of this format made other events of it.
    pub(crate) is_new: bool,
}

/// What a message says, and its name within the session.
#[derive(Debug)]
pub(crate) struct Message {
    /// Its place among the file's messages, from 0.
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
        /// What the person saw or heard beside the text: a refusal, what a voice said.
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

/// What a tool answered.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Empty until it is derived.
    pub(crate) call_id: String,
    /// Whether it answers somebody else's call.
    pub(crate) of_user: bool,
    /// Its call's id if there is a call of this id: some files call it `id`, others have the message's own there.
    pub(crate) perhaps_call_id: Option<String>,
    pub(crate) name: Option<String>,
    /// The tool, for finding the call, where the message does not have it as its name.
    pub(crate) tool: Option<String>,
    pub(crate) text: Option<String>,
    pub(crate) is_error: Option<bool>,
}
