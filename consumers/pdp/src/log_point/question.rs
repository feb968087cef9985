//! Reads the question about a call from an AuthZEN request.
//!
//! | AuthZEN | the call |
//! | --- | --- |
//! | subject `agent`, or `identity` with `context.agent` | the agent |
//! | action `tool.invoked` or `tools/call` | a call of a tool |
//! | resource `tool` | the tool |
//! | context `session`, `call_id`, `arguments`, `definition`, `message`, `actor`, `trace`, `time`, `after` | the rest |
//!
//! Properties of subject, action and resource are ignored: the registry has them.

use std::borrow::Cow;

use agentgov_follower::After;
use agentgov_policy::authzen::Properties;
use agentgov_schemas::escape::Escaped;
use agentgov_schemas::event::{ActionEvent, Actor, Agent, Message, Payload, Source, ToolCall, Trace};
use agentgov_schemas::key::check_tenant_id;
use agentgov_schemas::{Digest, Micros, SessionKey, bounds, catalogue};
use chrono::DateTime;
use serde_json::Value;

use crate::callers::Caller;
use crate::point::{Question, Refusal};

/// A call before it is made.
#[derive(Clone, Debug)]
pub(super) struct CallQuestion<'r> {
    pub tenant_id: &'r str,
    pub environment: &'r str,
    pub session_id: &'r str,
    pub agent_id: &'r str,
    pub tool: &'r str,
    pub call_id: Option<&'r str>,
    /// Bytes of the call's `arguments`.
    pub arguments: Cow<'r, str>,
    pub arguments_sha256: Digest,
    /// SHA-256 of the tool's definition that the caller saw.
    pub definition: Option<Digest>,
    pub message: Option<Message<'r>>,
    pub actor: Option<Actor<'r>>,
    pub trace: Option<Trace<'r>>,
    /// Time of the call: the caller's claim, or the clock of the decision point.
    pub time: Micros,
    pub after: Option<After<'r>>,
}

impl<'r> CallQuestion<'r> {
    /// Reads a request. `now` is the default of the request's time.
    pub fn read(caller: Option<&'r Caller>, question: &Question<'r>, now: Micros) -> Result<Self, Refusal> {
        let request = &question.request;
        let context = Context(request.context);
        if !matches!(request.action.name.as_str(), catalogue::TOOL_INVOKED | "tools/call") {
            return Err(invalid("action.name", "tool.invoked or tools/call", "another action"));
        }
        if request.resource.kind != "tool" {
            return Err(invalid("resource.type", "tool", "another type"));
        }
        let agent_id = match request.subject.kind.as_str() {
            "agent" => request.subject.id.as_str(),
            "identity" => context.required("agent")?,
            _ => return Err(invalid("subject.type", "agent or identity", "another type")),
        };
        let (tenant_id, environment) = match caller {
            Some(caller) => {
                caller.check_agent(agent_id)?;
                context.agrees("tenant", &caller.tenant)?;
                context.agrees("environment", &caller.environment)?;
                (caller.tenant.as_str(), caller.environment.as_str())
            }
            None => (context.required("tenant")?, context.required("environment")?),
        };
        check_tenant_id(tenant_id).map_err(|error| Refusal::Invalid(format!("`context.tenant`: {error}")))?;
        let tool = request.resource.id.as_str();
        let arguments = match (request.context.get("arguments"), question.arguments) {
            // A text is what a model wrote: its characters are the bytes of the call.
            (Some(Value::String(text)), _) => Cow::Borrowed(text.as_str()),
            (_, Some(text)) => Cow::Borrowed(text),
            _ => Cow::Borrowed("{}"),
        };
        let session_id = context.required("session")?;
        let call_id = context.text("call_id")?;
        for (name, id) in [
            ("context.environment", environment),
            ("context.session", session_id),
            ("subject.id", agent_id),
            ("resource.id", tool),
            ("context.call_id", call_id.unwrap_or("-")),
        ] {
            check_id(name, id)?;
        }
        Ok(Self {
            tenant_id,
            environment,
            session_id,
            agent_id,
            tool,
            call_id,
            arguments_sha256: Digest::of(arguments.as_bytes()),
            arguments,
            definition: context.definition()?,
            message: context.message()?,
            actor: context.actor()?,
            trace: context.trace()?,
            time: context.time()?.unwrap_or(now),
            after: context.after()?,
        })
    }

    /// Returns the key of the session.
    pub const fn key(&self) -> SessionKey<'_> {
        SessionKey { tenant_id: self.tenant_id, session_id: self.session_id }
    }

    /// Returns the arguments as the call will carry them.
    pub fn payload(&self) -> Payload<'_> {
        Payload {
            data: self.arguments.as_bytes(),
            sha256: self.arguments_sha256,
            media_type: "application/json",
            redacted: false,
        }
    }

    /// Returns the event that the caller will record for the call.
    pub fn event(&self) -> ActionEvent<'_> {
        let call = ToolCall::new(self.tool, self.call_id.unwrap_or_default(), self.payload());
        ActionEvent {
            environment: self.environment,
            occurred_at: self.time,
            actor: self.actor,
            trace: self.trace,
            message: self.message,
            tool: Some(ToolCall { definition: self.definition, ..call }),
            ..ActionEvent::new(
                "",
                catalogue::TOOL_INVOKED,
                self.key(),
                Source { id: "", sequence: 0 },
                Agent::new(self.agent_id),
            )
        }
    }
}

fn check_id(name: &str, id: &str) -> Result<(), Refusal> {
    if id.is_empty() {
        return Err(invalid(name, "a text that is not empty", "an empty one"));
    }
    if id.len() > bounds::MAX_ID_BYTES {
        return Err(Refusal::Invalid(format!(
            "`{name}`: expected at most {} bytes, found {}",
            bounds::MAX_ID_BYTES,
            id.len()
        )));
    }
    Ok(())
}

fn invalid(name: &str, expected: &str, found: &str) -> Refusal {
    Refusal::Invalid(format!("`{name}`: expected {expected}, found {found}"))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// `context` of a request, with the path of each member in its errors.
#[derive(Clone, Copy)]
struct Context<'r>(&'r Properties);

/// An object within the context.
struct Member<'r>(&'static str, &'r Properties);

impl<'r> Context<'r> {
    fn required(self, name: &str) -> Result<&'r str, Refusal> {
        self.text(name)?.ok_or_else(|| invalid(&format!("context.{name}"), "a text", "none"))
    }

    fn text(self, name: &str) -> Result<Option<&'r str>, Refusal> {
        text(self.0, "context", name)
    }

    /// Checks that a member is absent, or what the caller's token says.
    fn agrees(self, name: &str, of_token: &str) -> Result<(), Refusal> {
        match self.text(name)? {
            Some(found) if found != of_token => {
                let expected = format!("`{}`, the {name} of the caller's token, or none", Escaped(of_token));
                Err(invalid(&format!("context.{name}"), &expected, "another one"))
            }
            _ => Ok(()),
        }
    }

    fn object(self, name: &'static str) -> Result<Option<Member<'r>>, Refusal> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(object)) => Ok(Some(Member(name, object))),
            Some(other) => Err(invalid(&format!("context.{name}"), "an object", kind(other))),
        }
    }

    fn definition(self) -> Result<Option<Digest>, Refusal> {
        let Some(text) = self.text("definition")? else { return Ok(None) };
        let digest = text.parse().map(Some);
        digest.map_err(|_| invalid("context.definition", "a SHA-256 digest of 64 hex digits", "another text"))
    }

    fn message(self) -> Result<Option<Message<'r>>, Refusal> {
        let Some(message) = self.object("message")? else { return Ok(None) };
        let tool_calls = message.integer("tool_calls")?.unwrap_or(1);
        let tool_calls = i32::try_from(tool_calls).ok().filter(|calls| *calls >= 0).ok_or_else(|| {
            invalid("context.message.tool_calls", "a whole number from 0 to 2147483647", "another number")
        })?;
        Ok(Some(Message {
            id: message.text("id")?.unwrap_or_default(),
            role: message.text("role")?.unwrap_or("assistant"),
            has_text: message.flag("has_text")?.unwrap_or(false),
            tool_calls,
            content: None,
        }))
    }

    fn actor(self) -> Result<Option<Actor<'r>>, Refusal> {
        let Some(actor) = self.object("actor")? else { return Ok(None) };
        Ok(Some(Actor { id: actor.required("id")?, r#type: actor.required("type")? }))
    }

    fn trace(self) -> Result<Option<Trace<'r>>, Refusal> {
        let Some(trace) = self.object("trace")? else { return Ok(None) };
        Ok(Some(Trace { trace_id: trace.required("trace_id")?, span_id: trace.required("span_id")? }))
    }

    fn after(self) -> Result<Option<After<'r>>, Refusal> {
        let Some(after) = self.object("after")? else { return Ok(None) };
        let is_valid = |sequence: &i64| *sequence >= 0;
        let sequence = after.integer("sequence")?;
        let found = if sequence.is_some() { "a negative one" } else { "none" };
        let sequence = sequence
            .filter(is_valid)
            .ok_or_else(|| invalid("context.after.sequence", "a whole number, 0 or more", found))?;
        Ok(Some(After { source_id: after.required("source")?, sequence }))
    }

    /// RFC 3339, or microseconds since the epoch.
    fn time(self) -> Result<Option<Micros>, Refusal> {
        let expected = "a time of RFC 3339 or microseconds since 1970";
        match self.0.get("time") {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => DateTime::parse_from_rfc3339(text)
                .map(|time| Some(Micros(time.timestamp_micros())))
                .map_err(|_| invalid("context.time", expected, "another text")),
            Some(Value::Number(number)) => number
                .as_i64()
                .map(|micros| Some(Micros(micros)))
                .ok_or_else(|| invalid("context.time", expected, "another number")),
            Some(other) => Err(invalid("context.time", expected, kind(other))),
        }
    }
}

impl<'r> Member<'r> {
    fn path(&self, name: &str) -> String {
        format!("context.{}.{name}", self.0)
    }

    fn text(&self, name: &str) -> Result<Option<&'r str>, Refusal> {
        text(self.1, &format!("context.{}", self.0), name)
    }

    fn required(&self, name: &str) -> Result<&'r str, Refusal> {
        self.text(name)?.ok_or_else(|| invalid(&self.path(name), "a text", "none"))
    }

    fn integer(&self, name: &str) -> Result<Option<i64>, Refusal> {
        match self.1.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value.as_i64().map(Some).ok_or_else(|| match value {
                Value::Number(_) => invalid(&self.path(name), "a whole number of 64 bits", "another number"),
                other => invalid(&self.path(name), "a whole number", kind(other)),
            }),
        }
    }

    fn flag(&self, name: &str) -> Result<Option<bool>, Refusal> {
        match self.1.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(invalid(&self.path(name), "true or false", kind(other))),
        }
    }
}

fn text<'r>(of: &'r Properties, at: &str, name: &str) -> Result<Option<&'r str>, Refusal> {
    match of.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(invalid(&format!("{at}.{name}"), "a text", kind(other))),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use agentgov_policy::authzen::{AccessAction, AccessEntity, AccessRequest};
    use serde_json::json;

    use super::*;

    fn entity(kind: &str, id: &str) -> AccessEntity {
        AccessEntity { kind: kind.to_owned(), id: id.to_owned(), properties: Properties::new() }
    }

    fn caller(agent: Option<&str>) -> Caller {
        Caller {
            name: "gateway".to_owned(),
            tenant: "acme".to_owned(),
            environment: "production".to_owned(),
            agent: agent.map(str::to_owned),
        }
    }

    /// Returns the error for a request with this context.
    fn refusal(context: Value) -> String {
        let (subject, resource) = (entity("agent", "bot"), entity("tool", "pay"));
        let action = AccessAction { name: "tools/call".to_owned(), properties: Properties::new() };
        let Value::Object(context) = context else { panic!("a context") };
        let request =
            AccessRequest { subject: &subject, action: &action, resource: &resource, context: &context };
        let caller = caller(None);
        match CallQuestion::read(
            Some(&caller),
            &Question { request, arguments: None, received_at: Instant::now() },
            Micros(7),
        ) {
            Err(Refusal::Invalid(message)) => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn mistake_names_its_member() {
        for (context, expected) in [
            (json!({}), "`context.session`: expected a text, found none"),
            (json!({"session": 7}), "`context.session`: expected a text, found a number"),
            (
                json!({"session": ""}),
                "`context.session`: expected a text that is not empty, found an empty one",
            ),
            (json!({"session": "s", "call_id": []}), "`context.call_id`: expected a text, found a list"),
            (
                json!({"session": "s", "definition": "e3b0"}),
                "`context.definition`: expected a SHA-256 digest of 64 hex digits, found another text",
            ),
            (
                json!({"session": "s", "time": "noon"}),
                "`context.time`: expected a time of RFC 3339 or microseconds since 1970, found another text",
            ),
            (
                json!({"session": "s", "time": 1.5}),
                "`context.time`: expected a time of RFC 3339 or microseconds since 1970, found another number",
            ),
            (
                json!({"session": "s", "after": {"source": "p"}}),
                "`context.after.sequence`: expected a whole number, 0 or more, found none",
            ),
            (
                json!({"session": "s", "after": {"source": "p", "sequence": -1}}),
                "`context.after.sequence`: expected a whole number, 0 or more, found a negative one",
            ),
            (
                json!({"session": "s", "after": {"source": "p", "sequence": 9_223_372_036_854_775_808_u64}}),
                "`context.after.sequence`: expected a whole number of 64 bits, found another number",
            ),
            (json!({"session": "s", "after": "p#1"}), "`context.after`: expected an object, found a text"),
            (
                json!({"session": "s", "message": {"has_text": "yes"}}),
                "`context.message.has_text`: expected true or false, found a text",
            ),
            (
                json!({"session": "s", "message": {"tool_calls": -1}}),
                "`context.message.tool_calls`: expected a whole number from 0 to 2147483647, found another number",
            ),
            (
                json!({"session": "s", "actor": {"id": "ada"}}),
                "`context.actor.type`: expected a text, found none",
            ),
            (
                json!({"session": "s".repeat(5000)}),
                "`context.session`: expected at most 4096 bytes, found 5000",
            ),
        ] {
            assert_eq!(refusal(context), expected);
        }
    }

    #[test]
    fn context_that_contradicts_the_callers_token_is_refused() {
        let tenant =
            "`context.tenant`: expected `acme`, the tenant of the caller's token, or none, found another one";
        assert_eq!(refusal(json!({"session": "s", "tenant": "other"})), tenant);
        let environment = "`context.environment`: expected `production`, the environment of the caller's token, or none, \
                           found another one";
        assert_eq!(refusal(json!({"session": "s", "environment": "staging"})), environment);
    }

    #[test]
    fn environment_without_callers_has_the_limit_of_an_id() {
        let (subject, resource) = (entity("agent", "bot"), entity("tool", "pay"));
        let action = AccessAction { name: "tools/call".to_owned(), properties: Properties::new() };
        let read = |bytes: usize| {
            let context = json!({"tenant": "acme", "session": "s", "environment": "e".repeat(bytes)});
            let context = context.as_object().unwrap();
            let request = AccessRequest { subject: &subject, action: &action, resource: &resource, context };
            let question = Question { request, arguments: None, received_at: Instant::now() };
            CallQuestion::read(None, &question, Micros(7)).map(|call| call.environment.len())
        };
        assert_eq!(read(bounds::MAX_ID_BYTES), Ok(bounds::MAX_ID_BYTES));
        let refused = |text: &str| Err(Refusal::Invalid(text.to_owned()));
        assert_eq!(read(4097), refused("`context.environment`: expected at most 4096 bytes, found 4097"));
        assert_eq!(
            read(0),
            refused("`context.environment`: expected a text that is not empty, found an empty one")
        );
    }

    #[test]
    fn request_names_a_call() {
        let (subject, resource) = (entity("identity", "ada"), entity("tool", "pay"));
        let action = AccessAction { name: "tool.invoked".to_owned(), properties: Properties::new() };
        let context = json!({
            "session": "s", "agent": "bot", "call_id": "c", "time": "2026-11-30T12:00:00.000001Z",
            "definition": Digest::of(b"x").to_string(), "arguments": {"n": 1.50}, "after": {"source": "p", "sequence": 3}, "tenant": "acme"
        });
        let context = context.as_object().unwrap();
        let request = AccessRequest { subject: &subject, action: &action, resource: &resource, context };
        let question = Question { request, arguments: Some(r#"{"n": 1.50}"#), received_at: Instant::now() };
        let gateway = caller(Some("bot"));
        let call = CallQuestion::read(Some(&gateway), &question, Micros(7)).unwrap();
        assert_eq!((call.tenant_id, call.environment), ("acme", "production"), "the token's");
        assert_eq!((call.agent_id, call.tool, call.call_id), ("bot", "pay", Some("c")));
        assert_eq!(call.arguments, r#"{"n": 1.50}"#, "byte for byte");
        assert_eq!(call.event().tool.unwrap().definition, Some(Digest::of(b"x")));
        assert_eq!(call.time, Micros(1_796_040_000_000_001));
        assert_eq!(call.after, Some(After { source_id: "p", sequence: 3 }));

        let other = caller(Some("other"));
        let refused = CallQuestion::read(Some(&other), &question, Micros(7));
        assert!(matches!(refused, Err(Refusal::Forbidden(_))), "the token is for another agent");
        let anyone = CallQuestion::read(None, &question, Micros(7));
        assert_eq!(
            anyone.unwrap_err(),
            Refusal::Invalid("`context.environment`: expected a text, found none".to_owned())
        );
    }

    #[test]
    fn arguments_in_a_text_are_its_characters() {
        let (subject, resource) = (entity("agent", "bot"), entity("tool", "pay"));
        let action = AccessAction { name: "tools/call".to_owned(), properties: Properties::new() };
        let context = json!({"session": "s", "arguments": "{\"n\": 1"});
        let request = AccessRequest {
            subject: &subject,
            action: &action,
            resource: &resource,
            context: context.as_object().unwrap(),
        };
        let gateway = caller(None);
        let question = Question { request, arguments: Some(r#""{\"n\": 1""#), received_at: Instant::now() };
        let call = CallQuestion::read(Some(&gateway), &question, Micros(7)).unwrap();
        assert_eq!(call.arguments, "{\"n\": 1");
        assert_eq!(call.event().tool.unwrap().arguments.data, b"{\"n\": 1");
    }
}
