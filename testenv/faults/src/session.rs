//! Generated session of the airline's agent: it looks up a customer and a reservation, then acts on the reservation,
//! sometimes against the rules.

use agentgov_schemas::catalogue;
use agentgov_schemas::event::Agent;
use agentgov_sdk::{Content, Event, Receipt, RecordError, Recorder, ToolCall, ToolResult};
use fastrand::Rng;

/// Maximum number of acts in a session, after the two lookups.
const MAX_ACTS: usize = 25;

/// Session in progress.
pub(crate) struct Session {
    id: String,
    /// Remaining events, last first.
    rest: Vec<Turn>,
}

enum Turn {
    Plain(&'static str),
    Call { id: usize, tool: &'static str, arguments: &'static str },
    Answer { id: usize, content: &'static str },
}

/// Call that a session makes next.
pub(crate) struct NextCall {
    pub(crate) id: String,
    pub(crate) tool: &'static str,
    pub(crate) arguments: &'static str,
}

const LOOKUPS: [(&str, &str, &str); 2] = [
    ("get_user_details", r#"{"user_id":"ines_blum_1"}"#, r#"{"membership":"regular"}"#),
    (
        "get_reservation_details",
        r#"{"reservation_id":"QX1"}"#,
        r#"{"reservation_id":"QX1","user_id":"ines_blum_1","cabin":"basic_economy","insurance":"no","created_at":"2024-05-01T00:00:00","total_baggages":2,"flights":[{"flight_number":"ZQ10","date":"2024-06-01","price":120}],"passengers":[{"first_name":"Ines"}]}"#,
    ),
];
/// The first two are allowed, the others violate a policy.
const ACTS: [(&str, &str); 5] = [
    ("think", r#"{"thought":"hm"}"#),
    ("update_reservation_baggages", r#"{"reservation_id":"QX1","total_baggages":3}"#),
    ("update_reservation_baggages", r#"{"reservation_id":"QX1","total_baggages":1}"#),
    ("update_reservation_passengers", r#"{"reservation_id":"QX1","passengers":[]}"#),
    ("cancel_reservation", r#"{"reservation_id":"QX1"}"#),
];

impl Session {
    pub(crate) fn new(id: String, rng: &mut Rng) -> Self {
        let mut turns = vec![Turn::Plain(catalogue::SESSION_STARTED), Turn::Plain(catalogue::USER_INPUT)];
        let mut call = |tool, arguments, content| {
            let id = turns.len();
            turns.extend([Turn::Call { id, tool, arguments }, Turn::Answer { id, content }]);
        };
        for (tool, arguments, content) in LOOKUPS {
            call(tool, arguments, content);
        }
        for _ in 0..rng.usize(1..=MAX_ACTS) {
            // About a quarter of the acts violates a policy.
            let among = if rng.u32(..4) == 0 { 2..ACTS.len() } else { 0..2 };
            let (tool, arguments) = ACTS.get(rng.usize(among)).copied().unwrap_or_default();
            call(tool, arguments, "null");
        }
        turns.push(Turn::Plain(catalogue::SESSION_ENDED));
        turns.reverse();
        Self { id, rest: turns }
    }

    /// Returns true after the last event.
    pub(crate) const fn is_over(&self) -> bool {
        self.rest.is_empty()
    }

    /// Returns the session's id.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Returns the next event, if it is a call.
    pub(crate) fn next_call(&self) -> Option<NextCall> {
        match *self.rest.last()? {
            Turn::Call { id, tool, arguments } => Some(NextCall { id: id.to_string(), tool, arguments }),
            Turn::Plain(_) | Turn::Answer { .. } => None,
        }
    }

    /// Skips the result of the last call, which was not sent to its tool.
    pub(crate) fn skip_result(&mut self) {
        self.rest.pop_if(|turn| matches!(turn, Turn::Answer { .. }));
    }

    /// Records the next event, a call with the token of its decision; after the last event, repeats the last.
    pub(crate) fn record_next(
        &mut self,
        recorder: &Recorder,
        agent: &str,
        token: Option<&str>,
    ) -> Result<Receipt, RecordError> {
        let turn = self.rest.pop().unwrap_or(Turn::Plain(catalogue::SESSION_ENDED));
        let agent = Agent { id: agent, name: None, version: None };
        let event = |r#type| Event::new(r#type, &self.id, agent);
        let json = |text: &'static str| Content { data: text.as_bytes(), media_type: "application/json" };
        match turn {
            Turn::Plain(r#type) => recorder.record(&event(r#type)),
            Turn::Call { id, tool, arguments } => recorder.record(&Event {
                tool: Some(ToolCall {
                    decision_token: token,
                    ..ToolCall::new(tool, &id.to_string(), json(arguments))
                }),
                ..event(catalogue::TOOL_INVOKED)
            }),
            Turn::Answer { id, content } => recorder.record(&Event {
                result: Some(ToolResult {
                    call_id: &id.to_string(),
                    name: None,
                    is_error: None,
                    content: json(content),
                }),
                ..event(catalogue::TOOL_RESPONSE_RECEIVED)
            }),
        }
    }
}
