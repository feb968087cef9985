//! JSON-RPC envelope of a frame. The frame itself is sent on byte for byte.

use std::borrow::Cow;

use agentgov_schemas::bounds::MAX_ID_BYTES;
use serde_json::value::RawValue;

use crate::json::{self, Members};

/// Id of a request. Two ids are the same request if their values are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RequestId {
    /// A whole number, as it is written.
    Number(String),
    /// A text.
    Text(String),
}

/// Kind of a frame, with its parts.
#[derive(Clone, Debug)]
pub enum Envelope<'a> {
    /// A request.
    Request {
        /// Id of the request.
        id: RequestId,
        /// Method.
        method: Cow<'a, str>,
        /// Parameters; empty if there are none.
        params: Members<'a>,
    },
    /// A notification.
    Notification {
        /// Method.
        method: Cow<'a, str>,
        /// Parameters; empty if there are none.
        params: Members<'a>,
    },
    /// A response.
    Response {
        /// Id of the request; `None` for an error about a request whose id could not be read.
        id: Option<RequestId>,
        /// Result or error.
        outcome: ResponseOutcome<'a>,
    },
}

/// Outcome of a request.
#[derive(Clone, Copy, Debug)]
pub enum ResponseOutcome<'a> {
    /// The bytes of `result`.
    Result(&'a RawValue),
    /// The bytes of `error`.
    Error(&'a RawValue),
}

/// A frame that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Id of the request, as far as it can be read.
    pub id: Option<RequestId>,
    /// Error code of JSON-RPC.
    pub code: i32,
    /// The expected and the found content.
    pub message: String,
}

/// JSON-RPC: the text is no JSON.
pub const PARSE_ERROR: i32 = -32700;
/// JSON-RPC: the text is no request.
pub const INVALID_REQUEST: i32 = -32600;
/// JSON-RPC: there is no such method.
pub const METHOD_NOT_FOUND: i32 = -32601;
/// JSON-RPC: the parameters are invalid.
pub const INVALID_PARAMS: i32 = -32602;
/// JSON-RPC: an internal error.
pub const INTERNAL_ERROR: i32 = -32603;

impl RequestId {
    /// Reads an id; `None` for a value that is none.
    pub fn read(value: &RawValue) -> Option<Self> {
        if let Some(text) = json::string(value) {
            return (text.len() <= MAX_ID_BYTES).then(|| Self::Text(text.into_owned()));
        }
        let text = value.get();
        let number: i64 = text.parse().ok().filter(|number: &i64| number.unsigned_abs() <= MAX_NUMBER)?;
        // A peer that reads -0 may write 0.
        (number.to_string() == text).then(|| Self::Number(text.to_owned()))
    }

    /// Returns the id of the other type with the same text. A peer may not keep them apart.
    pub fn twin(&self) -> Self {
        match self {
            Self::Number(id) => Self::Text(id.clone()),
            Self::Text(id) => Self::Number(id.clone()),
        }
    }

    /// Returns the id as JSON.
    pub fn to_json(&self) -> String {
        match self {
            Self::Number(number) => number.clone(),
            Self::Text(text) => json::quoted(text),
        }
    }
}

/// Largest amount of an id that is a number: a peer with numbers of 64-bit floating point would mistake larger ones for others.
const MAX_NUMBER: u64 = (1 << 53) - 1;

/// Members of a frame.
const FRAME_NAMES: &[&str] = &["jsonrpc", "id", "method", "params", "result", "error"];
/// Members of `params` that decide about a request, of any method.
const PARAMS_NAMES: &[&str] = &[
    "_meta",
    "arguments",
    "cursor",
    "inputResponses",
    "name",
    "progressToken",
    "requestId",
    "requestState",
    "task",
    "taskId",
    "uri",
];
/// Members of a result that decide about it.
const RESULT_NAMES: &[&str] = &[
    "_meta",
    "content",
    "inputRequests",
    "isError",
    "nextCursor",
    "requestState",
    "resultType",
    "structuredContent",
    "task",
    "tools",
];
/// Members of `params._meta` that the protocol reads.
const META_NAMES: &[&str] = &[
    "baggage",
    "io.modelcontextprotocol/clientCapabilities",
    "io.modelcontextprotocol/clientInfo",
    "io.modelcontextprotocol/protocolVersion",
    "io.modelcontextprotocol/related-task",
    "progressToken",
    "traceparent",
    "tracestate",
];

/// Checks the names of a frame that a parser which ignores case would read, and this gateway would not.
fn check_spelling(frame: &Members<'_>) -> Result<(), String> {
    let check = |members: &Members<'_>, at: &str, known| {
        members.check_spelling(known).map_err(|message| format!("`{at}`: {message}"))
    };
    frame.check_spelling(FRAME_NAMES)?;
    if let Some(params) = frame.object("params") {
        check(&params, "params", PARAMS_NAMES)?;
        if let Some(meta) = params.object("_meta") {
            check(&meta, "params._meta", META_NAMES)?;
        }
    }
    frame.object("result").map_or(Ok(()), |result| check(&result, "result", RESULT_NAMES))
}

impl<'a> Envelope<'a> {
    /// Reads the envelope of a frame.
    ///
    /// # Errors
    /// If the frame is no single JSON-RPC message that every parser reads alike.
    pub fn read(frame: &'a [u8]) -> Result<Self, Malformed> {
        let text = std::str::from_utf8(frame).map_err(|error| Malformed {
            id: None,
            code: PARSE_ERROR,
            message: format!("expected UTF-8, found another byte at {}", error.valid_up_to()),
        })?;
        let refused = |code, message| Malformed { id: lenient_id(text), code, message };
        if let Err(message) = json::check(text) {
            let is_json = serde_json::from_str::<&RawValue>(text).is_ok();
            return Err(refused(if is_json { INVALID_REQUEST } else { PARSE_ERROR }, message));
        }
        let invalid = |message: &str| refused(INVALID_REQUEST, message.to_owned());
        if text.trim_start().starts_with('[') {
            return Err(invalid("expected one message a line, found a batch"));
        }
        let members =
            Members::read(text).map_err(|_| invalid("expected an object, found another JSON value"))?;
        check_spelling(&members).map_err(|message| refused(INVALID_REQUEST, message))?;
        if members.text("jsonrpc").as_deref() != Some("2.0") {
            return Err(invalid("`jsonrpc`: expected \"2.0\""));
        }
        let id = match members.get("id") {
            None => None,
            Some(id) if id.get() == "null" => Some(None),
            Some(id) => Some(Some(
                RequestId::read(id).ok_or_else(|| {
                    invalid(&format!(
                        "`id`: expected a text of at most {MAX_ID_BYTES} bytes or a whole number of at most 2^53-1"
                    ))
                })?,
            )),
        };
        let outcome = (members.get("result"), members.get("error"));
        if let Some(method) = members.get("method") {
            let Some(method) = json::string(method) else {
                return Err(invalid("`method`: expected a text"));
            };
            if outcome.0.is_some() || outcome.1.is_some() {
                return Err(invalid("expected a request or a response, found members of both"));
            }
            let params = match members.get("params") {
                None => Members::default(),
                Some(params) => Members::read(params.get())
                    .map_err(|_| refused(INVALID_PARAMS, "`params`: expected an object".to_owned()))?,
            };
            return match id {
                Some(Some(id)) => Ok(Self::Request { id, method, params }),
                Some(None) => Err(invalid("`id`: expected a text or a whole number, found null")),
                None => Ok(Self::Notification { method, params }),
            };
        }
        let outcome = match outcome {
            (Some(result), None) => ResponseOutcome::Result(result),
            (None, Some(error)) => ResponseOutcome::Error(error),
            (Some(_), Some(_)) => return Err(invalid("expected `result` or `error`, found both")),
            (None, None) => return Err(invalid("expected `method`, `result` or `error`, found none")),
        };
        match id {
            Some(id) => Ok(Self::Response { id, outcome }),
            None => Err(invalid("expected `id` in a response, found none")),
        }
    }
}

/// Returns the id that a refused frame seems to have, for the answer to its sender.
fn lenient_id(text: &str) -> Option<RequestId> {
    RequestId::read(Members::read(text).ok()?.get("id")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_notification_and_response_are_told_apart() {
        let request = br#"{"jsonrpc":"2.0","id":"\u0061","method":"tools/call","params":{"name":"x"}}"#;
        let Ok(Envelope::Request { id, method, params }) = Envelope::read(request) else {
            panic!("a request")
        };
        assert_eq!((id, &*method), (RequestId::Text("a".to_owned()), "tools/call"));
        assert_eq!(params.text("name").unwrap(), "x");
        let notification = br#" {"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        assert!(matches!(Envelope::read(notification), Ok(Envelope::Notification { .. })));
        let response = br#"{"jsonrpc":"2.0","id":-7,"result":{"n":1.0}}"#;
        let Ok(Envelope::Response { id, outcome: ResponseOutcome::Result(result) }) =
            Envelope::read(response)
        else {
            panic!("a response")
        };
        assert_eq!((id, result.get()), (Some(RequestId::Number("-7".to_owned())), r#"{"n":1.0}"#));
        let failed = br#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"m"}}"#;
        assert!(matches!(
            Envelope::read(failed),
            Ok(Envelope::Response { id: None, outcome: ResponseOutcome::Error(_) })
        ));
    }

    #[test]
    fn malformed_frame_has_a_code_and_the_id_as_far_as_it_can_be_read() {
        let number = |number: &str| Some(RequestId::Number(number.to_owned()));
        for (frame, code, id) in [
            ("", PARSE_ERROR, None),
            ("{", PARSE_ERROR, None),
            ("nonsense", PARSE_ERROR, None),
            (r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, INVALID_REQUEST, None),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}"#,
                INVALID_REQUEST,
                number("1"),
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","Name":"b"}}"#,
                INVALID_REQUEST,
                number("1"),
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","Arguments":{}}}"#,
                INVALID_REQUEST,
                number("1"),
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","Params":{"name":"a"}}"#,
                INVALID_REQUEST,
                number("1"),
            ),
            (r#"{"jsonrpc":"2.0","id":1,"result":{},"Method":"tools/call"}"#, INVALID_REQUEST, number("1")),
            (r#"{"jsonrpc":"2.0","id":1,"result":{"IsError":true}}"#, INVALID_REQUEST, number("1")),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"ProgressToken":1}}}"#,
                INVALID_REQUEST,
                number("1"),
            ),
            (r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#, INVALID_REQUEST, number("1")),
            (r#"{"id":1,"method":"ping"}"#, INVALID_REQUEST, number("1")),
            (r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#, INVALID_REQUEST, None),
            (r#"{"jsonrpc":"2.0","id":-0,"method":"ping"}"#, INVALID_REQUEST, None),
            (r#"{"jsonrpc":"2.0","id":9007199254740992,"method":"ping"}"#, INVALID_REQUEST, None),
            (r#"{"jsonrpc":"2.0","id":-9007199254740992,"method":"ping"}"#, INVALID_REQUEST, None),
            (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, INVALID_REQUEST, None),
            (r#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#, INVALID_REQUEST, None),
            (r#"{"jsonrpc":"2.0","id":1,"method":7}"#, INVALID_REQUEST, number("1")),
            (r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}"#, INVALID_PARAMS, number("1")),
            (r#"{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}"#, INVALID_REQUEST, number("1")),
            (r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#, INVALID_REQUEST, number("1")),
            (r#"{"jsonrpc":"2.0","result":{}}"#, INVALID_REQUEST, None),
            (r#"{"jsonrpc":"2.0","id":1}"#, INVALID_REQUEST, number("1")),
            (r#""ping""#, INVALID_REQUEST, None),
        ] {
            let malformed = Envelope::read(frame.as_bytes()).unwrap_err();
            assert_eq!((malformed.code, malformed.id), (code, id), "{frame}: {}", malformed.message);
        }
        assert_eq!(Envelope::read(b"{\"a\":\"\xff\"}").unwrap_err().code, PARSE_ERROR);
        let with_id = |id: &str| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#);
        for (id, is_read) in [
            ("9007199254740991".to_owned(), true),
            (json::quoted(&"x".repeat(MAX_ID_BYTES)), true),
            (json::quoted(&"x".repeat(MAX_ID_BYTES + 1)), false),
        ] {
            assert_eq!(Envelope::read(with_id(&id).as_bytes()).is_ok(), is_read, "{id}");
        }
    }
}
