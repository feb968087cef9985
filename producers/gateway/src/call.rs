//! Governed requests: the tool that a request uses, and the bytes of its arguments.

use std::borrow::Cow;

use agentgov_schemas::event::Trace;

use crate::json::{self, Members};
use crate::methods::Target;

/// Arguments of a call without any.
const NO_ARGUMENTS: &str = "{}";
/// Member of `_meta` that each request of the stateless version has.
const PROTOCOL_VERSION: &str = "io.modelcontextprotocol/protocolVersion";

/// A governed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GovernedCall<'a> {
    /// The tool, with its server.
    pub tool: String,
    /// Name of the tool at its server; `None` for other requests.
    pub name: Option<String>,
    /// The arguments, byte for byte.
    pub arguments: Cow<'a, str>,
}

impl<'a> GovernedCall<'a> {
    /// Reads the parameters of a request.
    ///
    /// # Errors
    /// The expected and the found content.
    pub fn read(server: &str, target: Target, params: &Members<'a>) -> Result<Self, String> {
        let text = |name: &str| params.text(name).ok_or_else(|| format!("`params.{name}`: expected a text"));
        let raw = |name: &str| params.get(name).map(|value| value.get());
        if params.get("task").is_some() {
            return Err(
                "`params.task`: expected none, found one: the gateway does not govern the tasks extension, whose results come later"
                    .to_owned(),
            );
        }
        let Some(reserved) = target.reserved_name() else {
            let name = text("name")?.into_owned();
            if name.is_empty() || Target::is_reserved(&name) {
                return Err(
                    "`params.name`: expected the name of a tool, found an empty or a reserved one".to_owned()
                );
            }
            let arguments = raw("arguments").unwrap_or(NO_ARGUMENTS);
            if !arguments.starts_with('{') {
                return Err("`params.arguments`: expected an object".to_owned());
            }
            return Ok(Self {
                tool: format!("{server}/{name}"),
                name: Some(name),
                arguments: arguments.into(),
            });
        };
        let members: &[&str] = match target {
            Target::Prompt => &["name", "arguments"],
            Target::Resource | Target::Tool => &["uri"],
        };
        if let Some(first) = members.first() {
            text(first)?;
        }
        let members =
            members.iter().filter_map(|name| Some(format!("{}:{}", json::quoted(name), raw(name)?)));
        let arguments = format!("{{{}}}", members.collect::<Vec<_>>().join(","));
        Ok(Self { tool: format!("{server}/{reserved}"), name: None, arguments: arguments.into() })
    }
}

/// Members of `params._meta` that the gateway reads.
#[derive(Clone, Debug, Default)]
pub struct RequestMeta<'a> {
    /// Bytes of the token under which the client wants progress.
    pub progress_token: Option<&'a str>,
    /// True if the request is of a version without `initialize`.
    pub is_modern: bool,
    /// The version, if it is a text.
    pub version: Option<Cow<'a, str>>,
    traceparent: Option<Cow<'a, str>>,
}

impl<'a> RequestMeta<'a> {
    /// Reads `_meta` of the parameters.
    pub fn read(params: &Members<'a>) -> Self {
        let Some(meta) = params.object("_meta") else { return Self::default() };
        Self {
            progress_token: meta
                .get("progressToken")
                .map(|token| token.get())
                .filter(|token| *token != "null"),
            is_modern: meta.get(PROTOCOL_VERSION).is_some(),
            version: meta.text(PROTOCOL_VERSION),
            traceparent: meta.text("traceparent"),
        }
    }

    /// Returns the trace of a W3C `traceparent`; `None` for another text.
    pub fn trace(&self) -> Option<Trace<'_>> {
        let mut parts = self.traceparent.as_deref()?.split('-');
        let (version, trace_id, span_id) = (parts.next()?, parts.next()?, parts.next()?);
        let is_hex =
            |text: &str, len: usize| text.len() == len && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        (is_hex(version, 2) && is_hex(trace_id, 32) && is_hex(span_id, 16))
            .then_some(Trace { trace_id, span_id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<'a>(target: Target, params: &'a str) -> Result<(String, Cow<'a, str>), String> {
        GovernedCall::read("files", target, &Members::read(params).unwrap())
            .map(|call| (call.tool, call.arguments))
    }

    #[test]
    fn call_has_its_servers_name_and_the_bytes_of_its_arguments() {
        for (target, params, tool, arguments) in [
            (
                Target::Tool,
                r#"{"name":"w", "arguments":{ "n" : 1.0 },"_meta":{}}"#,
                "files/w",
                r#"{ "n" : 1.0 }"#,
            ),
            (Target::Tool, r#"{"name":"w"}"#, "files/w", "{}"),
            (
                Target::Resource,
                r#"{"_meta":{},"uri":"file:///\u0061"}"#,
                "files/resources.read",
                r#"{"uri":"file:///\u0061"}"#,
            ),
            (
                Target::Prompt,
                r#"{"arguments":{"a": "b"},"name":"p"}"#,
                "files/prompts.get",
                r#"{"name":"p","arguments":{"a": "b"}}"#,
            ),
            (Target::Prompt, r#"{"name":"p"}"#, "files/prompts.get", r#"{"name":"p"}"#),
        ] {
            assert_eq!(read(target, params).unwrap(), (tool.to_owned(), arguments.into()), "{params}");
        }
    }

    #[test]
    fn call_without_a_name_or_with_a_reserved_one_is_refused() {
        for (target, params) in [
            (Target::Tool, "{}"),
            (Target::Tool, r#"{"name":7}"#),
            (Target::Tool, r#"{"name":""}"#),
            (Target::Tool, r#"{"name":"resources.read"}"#),
            (Target::Tool, r#"{"name":"prompts.get"}"#),
            (Target::Tool, r#"{"name":"w","arguments":[]}"#),
            (Target::Tool, r#"{"name":"w","arguments":null}"#),
            (Target::Tool, r#"{"name":"w","task":{"ttl":1}}"#),
            (Target::Resource, r#"{"uri":"x","task":{}}"#),
            (Target::Resource, r#"{"uri":{}}"#),
            (Target::Prompt, r#"{"uri":"x"}"#),
        ] {
            assert!(read(target, params).is_err(), "{params}");
        }
    }

    #[test]
    fn meta_has_token_version_and_trace() {
        let params = r#"{"_meta":{"progressToken":7,"io.modelcontextprotocol/protocolVersion":"2026-07-28",
            "traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}"#;
        let params = Members::read(params).unwrap();
        let meta = RequestMeta::read(&params);
        assert_eq!((meta.progress_token, meta.is_modern), (Some("7"), true));
        assert_eq!(meta.trace().unwrap().span_id, "b7ad6b7169203331");
        let none = RequestMeta::read(&Members::default());
        assert_eq!((none.progress_token, none.is_modern, none.trace()), (None, false, None));
    }
}
