//! Catalogue of event types, from the start of a session to its end. Events of other types pass through and are logged.

/// Entry of the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventType {
    /// Name of the type, as in an event's `type`.
    pub name: &'static str,
    /// True if an event of this type is an action of an agent. Exactly one verdict, or one reject of the evaluator, refers to
    /// each such event.
    pub judged: bool,
    /// Meaning of the type, for people.
    pub meaning: &'static str,
}

macro_rules! catalogue {
    ($($(#[$doc:meta])* $constant:ident = $name:literal, judged: $judged:literal, $meaning:literal;)*) => {
        $(#[doc = $meaning] pub const $constant: &str = $name;)*
        /// Every known type, in the order in which a session has them.
        pub const CATALOGUE: &[EventType] = &[$(EventType { name: $name, judged: $judged, meaning: $meaning }),*];
    };
}

catalogue! {
    SESSION_STARTED = "session.started", judged: false, "A session began.";
    USER_INPUT = "user.input", judged: false, "A person sent input to the agent.";
    LLM_INPUT_SENT = "llm.input_sent", judged: false, "The platform sent a prompt to a model.";
    LLM_RESPONSE_RECEIVED = "llm.response_received", judged: false, "The model answered.";
    LLM_FAILED = "llm.failed", judged: false, "The model call failed.";
    TOOL_INVOKED = "tool.invoked", judged: true, "The agent calls a tool.";
    TOOL_RESPONSE_RECEIVED = "tool.response_received", judged: false, "The tool answered.";
    TOOL_RESPONSE_TRUNCATED = "tool.response_truncated", judged: false, "The tool answered; the event has digest, size and beginning of a result that is too large for it, and states no fact.";
    TOOL_FAILED = "tool.failed", judged: false, "The tool call failed.";
    TOOL_RETRIED = "tool.retried", judged: true, "The agent calls the tool once more, under the same call id.";
    OUTPUT_DISPLAYED = "output.displayed", judged: false, "The agent sent output to a person.";
    DECISION_MADE = "decision.made", judged: false, "A policy decision point, a guardrail or a person decided.";
    APPROVAL_ASKED = "approval.asked", judged: false, "A person's approval was requested.";
    APPROVAL_DECIDED = "approval.decided", judged: false, "A person approved or refused.";
    SESSION_ENDED = "session.ended", judged: false, "The session ended.";
    SOURCE_CLOSED = "source.closed", judged: false, "A producer instance ended; the event has the number of events that it wrote.";
}

/// Returns true if the catalogue has this type.
pub fn is_known(event_type: &str) -> bool {
    CATALOGUE.iter().any(|known| known.name == event_type)
}

/// Returns true if every event of this type is judged. See [`crate::event::ActionEvent::is_judged`] for the others.
pub fn is_judged(event_type: &str) -> bool {
    CATALOGUE.iter().any(|known| known.judged && known.name == event_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_only_calls_are_judged() {
        for (i, a) in CATALOGUE.iter().enumerate() {
            assert!(CATALOGUE.iter().skip(i + 1).all(|b| a.name != b.name), "{} occurs twice", a.name);
        }
        let judged: Vec<_> = CATALOGUE.iter().filter(|t| t.judged).map(|t| t.name).collect();
        assert_eq!(judged, [TOOL_INVOKED, TOOL_RETRIED]);
        assert!(!is_judged("made.up"));
    }
}
