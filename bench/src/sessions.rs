//! Sessions like those of an airline's service agent. Their length, tool calls and text sizes follow the statistics of 100
//! recorded runs (τ-bench, airline, GPT-4o); the texts are generated from a seed.
//!
//! A session follows a script of a pool that is generated once, so that publishing measures only the cost of publishing.

use agentgov_authzen_client::{CallQuestion, MessageContext};
use agentgov_schemas::catalogue;
use agentgov_schemas::event::Agent;
use agentgov_sdk::{Content, Event, Message, ToolCall, ToolResult};
use fastrand::Rng;

/// Scripts in the pool: more than the compression window of a table covers.
const SCRIPTS: usize = 2_000;

/// Minimum, quartiles and maximum of a size.
#[derive(Clone, Copy, Debug)]
struct Quartiles([u32; 5]);

impl Quartiles {
    /// Draws a value, uniformly within a random quarter.
    fn draw(self, rng: &mut Rng) -> usize {
        let Self([least, first, median, third, most]) = self;
        let (from, to) = match rng.u8(..4) {
            0 => (least, first),
            1 => (first, median),
            2 => (median, third),
            _ => (third, most),
        };
        usize::try_from(rng.u32(from..=to)).unwrap_or_default()
    }
}

/// Customer turns and tool calls per session.
const USER_TURNS: Quartiles = Quartiles([3, 6, 8, 9, 30]);
const CALLS: Quartiles = Quartiles([0, 2, 5, 9, 27]);
/// Bytes of customer and agent messages.
const USER_TEXT: Quartiles = Quartiles([10, 63, 88, 125, 318]);
const AGENT_TEXT: Quartiles = Quartiles([46, 168, 258, 421, 1246]);
/// 45 of 621 recorded calls came with a text or with another call.
const MESSAGES_WITH_MORE: f64 = 45.0 / 621.0;
/// 27 of 621 recorded calls broke another rule.
const RULES_BROKEN: f64 = 27.0 / 621.0;

/// A tool: its frequency among 621 calls, and the bytes of its arguments and result.
struct Tool {
    name: &'static str,
    calls: u32,
    arguments: Quartiles,
    result: Quartiles,
}

const TOOLS: [Tool; 10] = [
    tool("get_reservation_details", 134, [27, 27, 27, 27, 28], [525, 689, 730, 830, 967]),
    tool("search_direct_flight", 92, [56, 56, 56, 56, 61], [2, 315, 629, 944, 2835]),
    tool("update_reservation_flights", 90, [137, 184, 187, 278, 303], [31, 53, 679, 748, 1020]),
    tool("calculate", 76, [24, 26, 34, 47, 214], [3, 5, 5, 6, 7]),
    tool("get_user_details", 63, [25, 28, 29, 31, 34], [561, 610, 789, 968, 1193]),
    tool("think", 58, [120, 193, 241, 298, 559], [0, 0, 0, 0, 0]),
    tool("book_reservation", 38, [364, 416, 457, 475, 936], [51, 71, 72, 667, 677]),
    tool("search_onestop_flight", 29, [56, 56, 56, 56, 61], [2, 2033, 3372, 6077, 8117]),
    tool("transfer_to_human_agents", 18, [134, 221, 281, 352, 406], [19, 19, 19, 19, 19]),
    tool("update_reservation_baggages", 14, [100, 100, 102, 102, 102], [38, 677, 733, 744, 932]),
];

const fn tool(name: &'static str, calls: u32, arguments: [u32; 5], result: [u32; 5]) -> Tool {
    Tool { name, calls, arguments: Quartiles(arguments), result: Quartiles(result) }
}

/// Event of a script.
#[derive(Debug)]
enum Turn {
    Plain(&'static str),
    Text { r#type: &'static str, role: &'static str, id: String, text: String },
    Call { id: String, tool: &'static str, arguments: String, message: String, calls: i32, has_text: bool },
    Answer { id: String, tool: &'static str, content: String },
}

/// Pool of scripts.
#[derive(Debug)]
pub struct Scripts(Vec<Vec<Turn>>);

impl Scripts {
    /// Generates the scripts of a seed.
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        Self((0..SCRIPTS).map(|_| script(&mut rng)).collect())
    }
}

/// Tools whose calls depend on facts of the session.
const CHANGING_TOOLS: [&str; 3] =
    ["update_reservation_flights", "update_reservation_baggages", "book_reservation"];

/// A session up to a call that depends on its facts.
#[derive(Debug)]
pub struct InterruptedSession<'s> {
    /// Id of the session.
    pub id: String,
    turns: &'s [Turn],
    call: &'s Turn,
}

impl Scripts {
    /// Returns one session for each script with a call that depends on facts: the events before the last such call, and the
    /// call. Their ids begin with `name`.
    pub fn interrupted(&self, name: &str) -> impl Iterator<Item = InterruptedSession<'_>> {
        self.0.iter().enumerate().filter_map(move |(number, script)| {
            let depends =
                |turn: &Turn| matches!(turn, Turn::Call { tool, .. } if CHANGING_TOOLS.contains(tool));
            let at = script.iter().rposition(depends)?;
            let (turns, rest) = script.split_at_checked(at)?;
            Some(InterruptedSession { id: format!("{name}-{number}"), turns, call: rest.first()? })
        })
    }
}

impl InterruptedSession<'_> {
    /// Passes the events before the call to `emit`.
    ///
    /// # Errors
    /// The first error of `emit`.
    pub fn record<E>(&self, agent: &str, mut emit: impl FnMut(&Event<'_>) -> Result<(), E>) -> Result<(), E> {
        self.turns.iter().try_for_each(|turn| emit(&event(agent, &self.id, turn)))
    }

    /// Returns the question about the call, as a decision point on the log expects it.
    pub fn question(&self, tenant: &str, environment: &str, agent: &str) -> serde_json::Value {
        let call = event(agent, &self.id, self.call);
        let tool = call.tool.as_ref();
        let message = call.message.as_ref().map(|message| MessageContext {
            id: message.id,
            role: message.role,
            has_text: message.has_text,
            tool_calls: message.tool_calls,
        });
        let arguments = tool.and_then(|tool| str::from_utf8(tool.arguments.data).ok());
        let question = CallQuestion {
            call_id: tool.map(|tool| tool.call_id),
            arguments: arguments.unwrap_or("{}"),
            message,
            ..CallQuestion::new((tenant, environment), agent, &self.id, tool.map_or("", |tool| tool.name))
        };
        question.to_json()
    }
}

/// Concurrently open sessions; each next event belongs to a random one.
#[derive(Debug)]
pub struct Sessions<'s> {
    scripts: &'s Scripts,
    open: Vec<Open>,
    begun: u64,
    rng: Rng,
    /// Number of open sessions whose next event comes before those of random ones.
    unvisited: usize,
}

#[derive(Debug)]
struct Open {
    id: String,
    script: usize,
    next: usize,
}

impl<'s> Sessions<'s> {
    /// Opens `open` sessions at random positions of their scripts, as in a running service. Their ids begin with `name`.
    pub fn new(scripts: &'s Scripts, name: &str, open: usize, seed: u64) -> Self {
        let mut sessions = Self {
            scripts,
            open: Vec::with_capacity(open),
            begun: 0,
            rng: Rng::with_seed(seed),
            unvisited: 0,
        };
        for _ in 0..open.max(1) {
            let mut new = sessions.begin(name);
            let len = scripts.0.get(new.script).map_or(1, Vec::len);
            new.next = sessions.rng.usize(..len.max(1));
            sessions.open.push(new);
        }
        sessions
    }

    /// Begins with one event of each open session.
    pub fn visiting_each(mut self) -> Self {
        self.unvisited = self.open.len();
        self
    }

    fn begin(&mut self, name: &str) -> Open {
        self.begun += 1;
        Open { id: format!("{name}-{}", self.begun), script: self.rng.usize(..self.scripts.0.len()), next: 0 }
    }

    /// Passes the next event to `emit`.
    pub fn next<R>(&mut self, agent: &str, name: &str, emit: impl FnOnce(&Event<'_>) -> R) -> R {
        let at = match self.unvisited.checked_sub(1) {
            Some(at) => at,
            None => self.rng.usize(..self.open.len()),
        };
        self.unvisited = self.unvisited.saturating_sub(1);
        let over = self.open.get(at).is_none_or(|open| {
            self.scripts.0.get(open.script).is_none_or(|script| open.next >= script.len())
        });
        if over {
            let new = self.begin(name);
            if let Some(open) = self.open.get_mut(at) {
                *open = new;
            }
        }
        let ended = Turn::Plain(catalogue::SESSION_ENDED);
        let (session, turn) = match self.open.get_mut(at) {
            Some(open) => {
                let script = self.scripts.0.get(open.script);
                let turn = script.and_then(|script| script.get(open.next)).unwrap_or(&ended);
                open.next += 1;
                (open.id.as_str(), turn)
            }
            None => (name, &ended),
        };
        emit(&event(agent, session, turn))
    }
}

fn event<'a>(agent: &'a str, session: &'a str, turn: &'a Turn) -> Event<'a> {
    let agent = Agent { id: agent, name: None, version: None };
    let event = |r#type| Event::new(r#type, session, agent);
    let content = |text: &'a str, media_type| Content { data: text.as_bytes(), media_type };
    match turn {
        Turn::Plain(r#type) => event(r#type),
        Turn::Text { r#type, role, id, text } => Event {
            message: Some(Message {
                id,
                role,
                has_text: true,
                tool_calls: 0,
                content: Some(content(text, "text/plain")),
            }),
            ..event(r#type)
        },
        Turn::Call { id, tool, arguments, message, calls, has_text } => Event {
            message: Some(Message {
                id: message,
                role: "assistant",
                has_text: *has_text,
                tool_calls: *calls,
                content: None,
            }),
            tool: Some(ToolCall::new(tool, id, content(arguments, "application/json"))),
            ..event(catalogue::TOOL_INVOKED)
        },
        Turn::Answer { id, tool, content: answer } => Event {
            result: Some(ToolResult {
                call_id: id,
                name: Some(tool),
                is_error: None,
                content: content(answer, "application/json"),
            }),
            ..event(catalogue::TOOL_RESPONSE_RECEIVED)
        },
    }
}

/// Generates one session from start to end.
fn script(rng: &mut Rng) -> Vec<Turn> {
    let customer = Customer::new(rng);
    let mut turns = vec![Turn::Plain(catalogue::SESSION_STARTED)];
    let exchanges = USER_TURNS.draw(rng);
    let calls = CALLS.draw(rng);
    let mut messages = 0;
    let message = |messages: &mut u32| {
        *messages += 1;
        format!("m{messages}")
    };
    let mut called = 0;
    for exchange in 0..exchanges {
        turns.push(Turn::Text {
            r#type: catalogue::USER_INPUT,
            role: "user",
            id: message(&mut messages),
            text: words(rng, USER_TEXT),
        });
        while called * exchanges < calls * (exchange + 1) {
            called += 1;
            let more = rng.f64() < MESSAGES_WITH_MORE;
            // The customer and the reservation are looked up before anything is changed.
            let tool = match called {
                1 => &TOOLS[4],
                2 => &TOOLS[0],
                _ => any_tool(rng),
            };
            let id = format!("call_{:020x}", rng.u128(..) & ((1 << 80) - 1));
            turns.push(Turn::Call {
                id: id.clone(),
                tool: tool.name,
                arguments: customer.arguments(tool, rng),
                message: message(&mut messages),
                calls: 1,
                has_text: more,
            });
            let content = customer.result(tool, rng);
            turns.push(Turn::Answer { id, tool: tool.name, content });
        }
        turns.push(Turn::Text {
            r#type: catalogue::OUTPUT_DISPLAYED,
            role: "assistant",
            id: message(&mut messages),
            text: words(rng, AGENT_TEXT),
        });
    }
    turns.push(Turn::Plain(catalogue::SESSION_ENDED));
    turns
}

fn any_tool(rng: &mut Rng) -> &'static Tool {
    let calls: u32 = TOOLS.iter().map(|tool| tool.calls).sum();
    let mut at = rng.u32(..calls);
    for tool in &TOOLS {
        if at < tool.calls {
            return tool;
        }
        at -= tool.calls;
    }
    &TOOLS[0]
}

/// Customer of a session, and the reservation.
struct Customer {
    user: String,
    reservation: String,
    card: String,
    basic: bool,
}

impl Customer {
    fn new(rng: &mut Rng) -> Self {
        Self {
            user: format!("{}_{}_{}", word(rng), word(rng), rng.u32(1_000..10_000)),
            reservation: (0..6).map(|_| rng.digit(36).to_ascii_uppercase()).collect(),
            card: format!("credit_card_{}", rng.u32(1_000_000..10_000_000)),
            // 17 of 90 recorded changes concerned frozen flights.
            basic: rng.u8(..90) < 17,
        }
    }

    fn arguments(&self, tool: &Tool, rng: &mut Rng) -> String {
        let Self { user, reservation, card, .. } = self;
        let payment = if rng.f64() < RULES_BROKEN { "credit_card_0" } else { card };
        let json = match tool.name {
            "get_reservation_details" => format!(r#"{{"reservation_id":"{reservation}"}}"#),
            "get_user_details" => format!(r#"{{"user_id":"{user}"}}"#),
            "search_direct_flight" | "search_onestop_flight" => {
                r#"{"origin":"LIS","destination":"OSL","date":"2024-06-03"}"#.to_owned()
            }
            "update_reservation_flights" => format!(
                r#"{{"reservation_id":"{reservation}","cabin":"economy","flights":[{{"flight_number":"ZQ{}","date":"2024-06-03"}}],"payment_id":"{payment}"}}"#,
                rng.u32(100..400)
            ),
            "update_reservation_baggages" => format!(
                r#"{{"reservation_id":"{reservation}","total_baggages":3,"nonfree_baggages":1,"payment_id":"{payment}"}}"#
            ),
            "book_reservation" => format!(
                r#"{{"user_id":"{user}","origin":"LIS","destination":"OSL","cabin":"economy","flights":[{{"flight_number":"ZQ{}","date":"2024-06-03"}}],"passengers":[{{"first_name":"Ines","last_name":"Blum","dob":"1984-03-09"}}],"payment_methods":[{{"payment_id":"{payment}","amount":131}}]}}"#,
                rng.u32(100..400)
            ),
            "calculate" => r#"{"expression":"152 + 103"}"#.to_owned(),
            _ => r#"{"summary":""}"#.to_owned(),
        };
        padded(json, tool.arguments, rng)
    }

    fn result(&self, tool: &Tool, rng: &mut Rng) -> String {
        let Self { user, reservation, card, basic } = self;
        let cabin = if *basic { "basic_economy" } else { "economy" };
        let json = match tool.name {
            "get_user_details" => format!(
                r#"{{"name":{{"first_name":"Ines","last_name":"Blum"}},"email":"{user}@example.com","payment_methods":{{"{card}":{{"source":"credit_card","brand":"visa","last_four":"0034","id":"{card}"}},"certificate_2210077":{{"source":"certificate","amount":150,"id":"certificate_2210077"}}}},"membership":"silver","reservations":["{reservation}"]}}"#
            ),
            "get_reservation_details" | "update_reservation_flights" | "update_reservation_baggages" => {
                // Half of the changes fail.
                if tool.name != "get_reservation_details" && rng.bool() {
                    return "Error: gift card balance is not enough".to_owned();
                }
                format!(
                    r#"{{"reservation_id":"{reservation}","user_id":"{user}","origin":"LIS","destination":"OSL","flight_type":"one_way","cabin":"{cabin}","flights":[{{"flight_number":"ZQ{}","date":"2024-06-03","price":131,"origin":"LIS","destination":"OSL"}}],"passengers":[{{"first_name":"Ines","last_name":"Blum","dob":"1984-03-09"}}],"payment_history":[{{"payment_id":"{card}","amount":131}}],"created_at":"2024-05-11T08:28:51","total_baggages":1,"nonfree_baggages":0,"insurance":"no"}}"#,
                    rng.u32(100..400)
                )
            }
            "calculate" => return "255.0".to_owned(),
            "think" => return String::new(),
            "transfer_to_human_agents" => return "Transfer successful".to_owned(),
            "book_reservation" => {
                return "Error: payment amount does not add up, total price is 305, but paid 255".to_owned();
            }
            _ => return flights(rng, tool.result),
        };
        padded(json, tool.result, rng)
    }
}

/// Generates a list of flights of about this size.
fn flights(rng: &mut Rng, size: Quartiles) -> String {
    let size = size.draw(rng);
    let mut list = String::from("[");
    while list.len() + 300 < size {
        if list.len() > 1 {
            list.push_str(", ");
        }
        list.push_str(&format!(
            r#"{{"flight_number": "ZQ{}", "origin": "LIS", "destination": "OSL", "scheduled_departure_time_est": "{:02}:00:00", "status": "available", "available_seats": {{"basic_economy": {}, "economy": {}, "business": {}}}, "prices": {{"basic_economy": {}, "economy": {}, "business": {}}}}}"#,
            rng.u32(100..400),
            rng.u32(5..23),
            rng.u32(..20),
            rng.u32(..20),
            rng.u32(..20),
            rng.u32(50..100),
            rng.u32(100..200),
            rng.u32(200..500)
        ));
    }
    list.push(']');
    list
}

/// Pads an object with a field of words to the drawn size.
fn padded(mut json: String, size: Quartiles, rng: &mut Rng) -> String {
    let missing = size.draw(rng).saturating_sub(json.len() + r#","note":"""#.len());
    if missing > 0 && json.pop() == Some('}') {
        json.push_str(r#","note":""#);
        add_words(&mut json, missing, rng);
        json.push_str(r#""}"#);
    }
    json
}

fn words(rng: &mut Rng, size: Quartiles) -> String {
    let mut text = String::new();
    let size = size.draw(rng);
    add_words(&mut text, size, rng);
    text
}

/// Appends words of `size` bytes.
fn add_words(text: &mut String, size: usize, rng: &mut Rng) {
    let end = text.len() + size;
    while text.len() < end {
        text.push_str(word(rng));
        text.push(' ');
    }
    text.truncate(end);
}

fn word(rng: &mut Rng) -> &'static str {
    const WORDS: [&str; 64] = [
        "flight",
        "please",
        "cancel",
        "reservation",
        "economy",
        "passenger",
        "the",
        "to",
        "for",
        "and",
        "would",
        "like",
        "change",
        "june",
        "return",
        "ticket",
        "refund",
        "insurance",
        "bag",
        "card",
        "gift",
        "certificate",
        "morning",
        "direct",
        "lisbon",
        "oslo",
        "seat",
        "price",
        "total",
        "amount",
        "confirm",
        "booking",
        "travel",
        "customer",
        "agent",
        "available",
        "business",
        "basic",
        "cabin",
        "upgrade",
        "payment",
        "method",
        "profile",
        "silver",
        "gold",
        "regular",
        "member",
        "delay",
        "missed",
        "connection",
        "departure",
        "arrival",
        "details",
        "of",
        "in",
        "on",
        "is",
        "are",
        "was",
        "your",
        "my",
        "we",
        "can",
        "not",
    ];
    WORDS.get(rng.usize(..WORDS.len())).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_determines_sessions_of_about_the_recorded_length() {
        let scripts = Scripts::new(7);
        assert_eq!(format!("{:?}", scripts.0), format!("{:?}", Scripts::new(7).0));
        // The recorded runs have 31 events and 6 calls on average. Tails of the quarters are drawn uniformly, so generated
        // sessions are longer.
        let calls = scripts.0.iter().flatten().filter(|turn| matches!(turn, Turn::Call { .. })).count();
        let calls = calls as f64 / scripts.0.len() as f64;
        let events = scripts.0.iter().map(Vec::len).sum::<usize>() as f64 / scripts.0.len() as f64;
        assert!((30.0..50.0).contains(&events), "{events}");
        assert!((6.0..10.0).contains(&calls), "{calls}");
    }

    #[test]
    fn interrupted_session_ends_before_a_call_that_depends_on_facts() {
        let scripts = Scripts::new(5);
        let sessions: Vec<_> = scripts.interrupted("s").collect();
        assert!(sessions.len() > SCRIPTS / 4, "{}", sessions.len());
        for session in sessions {
            let mut calls = Vec::new();
            let collect = |event: &Event<'_>| {
                calls.extend(event.tool.as_ref().map(|tool| tool.name.to_owned()));
                Ok::<_, ()>(())
            };
            session.record("bot", collect).unwrap();
            let question = session.question("acme", "test", "bot");
            let tool = question["resource"]["id"].as_str().unwrap();
            assert!(CHANGING_TOOLS.contains(&tool), "{question}");
            assert!(question["context"]["arguments"].is_string(), "{question}");
            assert_eq!(question["context"]["session"], session.id);
            assert!(calls.first().is_some_and(|first| first == "get_user_details"), "{calls:?}");
        }
    }

    #[test]
    fn json_payloads_are_valid() {
        for turn in Scripts::new(3).0.iter().flatten() {
            match turn {
                Turn::Call { arguments, .. } => {
                    drop(serde_json::from_str::<serde_json::Value>(arguments).unwrap())
                }
                Turn::Answer { content, .. } if content.starts_with(['{', '[']) => {
                    drop(serde_json::from_str::<serde_json::Value>(content).unwrap());
                }
                _ => {}
            }
        }
    }
}
