//! `tools/list`: the client sees only the tools that the agent may use, with accepted definitions.

use std::collections::BTreeMap;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use agentgov_schemas::Digest;
use agentgov_schemas::bounds::MAX_ID_BYTES;
use agentgov_schemas::definition::ToolDefinition;
use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::Proxy;
use super::definitions::Definitions;
use super::governed::NoResponse;
use super::requests::{CallEvent, CallEvents};
use crate::envelope::{Envelope, INTERNAL_ERROR, RequestId, ResponseOutcome};
use crate::json::{Members, quoted, splice};
use crate::methods::{Sender, Target};
use crate::reply;

/// Maximum number of pages that the gateway reads itself.
const MAX_PAGES: usize = 100;
/// Scope of a list that only its client may keep.
const PRIVATE: &str = "\"private\"";
/// Time for a page that the gateway reads itself.
const PAGE_TIMEOUT: Duration = Duration::from_secs(10);

impl Proxy {
    /// Returns the answer to `tools/list`; `None` if the client does not wait for it.
    pub(super) fn run_listing(
        &self,
        id: &RequestId,
        frame: &[u8],
        params: &Members<'_>,
        events: &CallEvents,
    ) -> Option<Vec<u8>> {
        if params.get("cursor").is_none() {
            self.definitions.begin_walk();
        }
        let generation = self.definitions.generation();
        let response = match self.exchange(id, frame, events) {
            Ok(response) => response,
            Err(NoResponse::Failed(reason)) => {
                return Some(reply::error(Some(id), INTERNAL_ERROR, &reason));
            }
            Err(NoResponse::Cancelled) => return None,
        };
        Some(match self.reduced(&response, generation) {
            Ok(reduced) => reduced.unwrap_or(response),
            Err(message) => reply::error(Some(id), INTERNAL_ERROR, &message),
        })
    }

    /// Returns the digest of a tool's definition. Lists the server's tools if it is not known.
    pub(super) fn definition(&self, name: &str, params: &Members<'_>) -> Digest {
        if let Some(digest) = self.definitions.get(name) {
            return digest;
        }
        let listing = self.definitions.lock_listing();
        if let Some(digest) = self.definitions.get(name) {
            return digest;
        }
        self.definitions.begin_walk();
        if let Err(reason) = self.list_tools(params) {
            tracing::warn!(server = self.server, reason, "gateway: the tools of a server are not listed");
        }
        drop(listing);
        self.definitions.get(name).unwrap_or_else(Definitions::unknown)
    }

    /// Reads all pages of the server's tools. `params` are those of a call, whose version the requests have.
    fn list_tools(&self, params: &Members<'_>) -> Result<(), String> {
        let meta = params.object("_meta").map(|meta| meta.with("progressToken", None));
        let mut cursor: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let members =
                [("cursor", cursor.as_deref()), ("_meta", meta.as_deref().filter(|meta| *meta != "{}"))];
            let members =
                members.into_iter().filter_map(|(name, value)| Some(format!("{}:{}", quoted(name), value?)));
            let params = members.collect::<Vec<_>>().join(",");
            let id = RequestId::Text(format!("agentgov-{}", Uuid::now_v7()));
            let frame = format!(
                r#"{{"jsonrpc":"2.0","id":{},"method":"tools/list","params":{{{params}}}}}"#,
                id.to_json()
            );
            let generation = self.definitions.generation();
            let response = self.ask_server(&id, frame.as_bytes())?;
            let Ok(Envelope::Response { outcome: ResponseOutcome::Result(result), .. }) =
                Envelope::read(&response)
            else {
                return Err("expected a list of tools, found an error".to_owned());
            };
            let members = Members::read(result.get())?;
            let tools = members.get("tools").map_or("[]", RawValue::get);
            self.keep_definitions(&Tools::read(tools)?, generation);
            cursor = members
                .get("nextCursor")
                .map(|cursor| cursor.get().to_owned())
                .filter(|cursor| cursor != "null");
            if cursor.is_none() {
                return Ok(());
            }
        }
        Err(format!("expected at most {MAX_PAGES} pages of tools, found more"))
    }

    /// Sends a request of the gateway itself, and returns the response.
    fn ask_server(&self, id: &RequestId, frame: &[u8]) -> Result<Vec<u8>, String> {
        let events = self.requests.open_own(id)?;
        let sent = self.requests.mark_sent(id) && self.to_server.send(Some(id), frame).is_ok();
        let event =
            if sent { events.recv_timeout(PAGE_TIMEOUT) } else { Err(RecvTimeoutError::Disconnected) };
        self.requests.close_governed(id);
        match event {
            Ok(CallEvent::Response(response)) => Ok(response),
            Ok(CallEvent::Failed(reason)) => Err(reason),
            Ok(CallEvent::Cancelled) | Err(RecvTimeoutError::Disconnected) => {
                Err("the server has ended".to_owned())
            }
            Err(RecvTimeoutError::Timeout) => Err(format!("no response in {} s", PAGE_TIMEOUT.as_secs())),
        }
    }

    /// Keeps the definitions of a page.
    fn keep_definitions(&self, tools: &Tools<'_>, generation: u64) {
        for tool in &tools.0 {
            self.definitions.put(&tool.name, tool.digest, generation);
        }
    }

    /// Returns the response without the tools that the agent may not use; `None` if it stays unchanged.
    fn reduced(&self, response: &[u8], generation: u64) -> Result<Option<Vec<u8>>, String> {
        let Ok(Envelope::Response { outcome: ResponseOutcome::Result(result), .. }) =
            Envelope::read(response)
        else {
            return Ok(None);
        };
        let unreadable = |message: String| {
            self.refuse(Sender::Server, &message, response);
            message
        };
        let members =
            Members::read(result.get()).map_err(|error| unreadable(format!("`result`: {error}")))?;
        let Some(list) = members.get("tools") else {
            return Err(unreadable("`result.tools`: expected a list of tools, found none".to_owned()));
        };
        let tools = Tools::read(list.get()).map_err(unreadable)?;
        let permitted = self.session.permitted_tools().map_err(|error| error.to_string())?;
        let accepted: BTreeMap<String, Option<String>> =
            permitted.into_iter().map(|tool| (tool.name, tool.definition)).collect();
        self.keep_definitions(&tools, generation);
        let kept = tools.0.iter().filter(|tool| {
            let Some(accepted) = accepted.get(&format!("{}/{}", self.server, tool.name)) else {
                return false;
            };
            // Of what the client gets, and of what a call would state. If the server has changed its tools meanwhile, there is none
            // of the latter yet.
            let shared = self.definitions.get(&tool.name).unwrap_or(tool.digest);
            let is_pinned = |digest: Digest| accepted.as_deref() == Some(digest.to_string().as_str());
            let digest = if is_pinned(tool.digest) { shared } else { tool.digest };
            let is_accepted = is_pinned(digest);
            if !is_accepted && self.definitions.report(&tool.name, digest) {
                self.report_definition(&tool.name, digest, accepted.as_deref());
            }
            is_accepted && !Target::is_reserved(&tool.name)
        });
        let kept: Vec<&str> = kept.map(|tool| tool.raw.get()).collect();
        let text = std::str::from_utf8(response).map_err(|error| error.to_string())?;
        let reduced = if kept.len() == tools.0.len() {
            None
        } else {
            splice(text, list.get(), &format!("[{}]", kept.join(",")))
        };
        // Another agent may see other tools.
        let private = with_private_scope(reduced.as_deref().unwrap_or(text));
        Ok(private.or(reduced).map(String::into_bytes))
    }

    fn report_definition(&self, name: &str, listed: Digest, accepted: Option<&str>) {
        let tool = format!("{}/{name}", self.server);
        tracing::warn!(tool, %listed, accepted, "gateway: the definition of a tool is not accepted");
        if let Err(error) = self.session.record_definition(&tool, listed, accepted) {
            tracing::error!(tool, %error, "gateway: a definition that is not accepted is not recorded");
        }
    }
}

/// Returns a response that only its client may keep; `None` if it says so already, or nothing about it.
fn with_private_scope(response: &str) -> Option<String> {
    let result = Members::read(response).ok()?.get("result")?;
    let scope = Members::read(result.get()).ok()?.get("cacheScope")?;
    if scope.get() == PRIVATE { None } else { splice(response, scope.get(), PRIVATE) }
}

/// Tools of a page.
struct Tools<'a>(Vec<ListedTool<'a>>);

struct ListedTool<'a> {
    name: String,
    digest: Digest,
    raw: &'a RawValue,
}

#[derive(Deserialize)]
struct RawList<'a>(#[serde(borrow)] Vec<&'a RawValue>);

impl<'a> Tools<'a> {
    fn read(list: &'a str) -> Result<Self, String> {
        let list: RawList<'_> = serde_json::from_str(list)
            .map_err(|error| format!("`result.tools`: expected a list of tools: {error}"))?;
        let tools = list.0.into_iter().map(|raw| {
            let name = Members::read(raw.get())
                .ok()
                .and_then(|members| Some(members.text("name")?.into_owned()))
                .filter(|name| name.len() <= MAX_ID_BYTES)
                .ok_or_else(|| {
                    format!("`result.tools`: expected a tool with a name of at most {MAX_ID_BYTES} bytes")
                })?;
            let digest = ToolDefinition::parse(raw.get())
                .map_or_else(|_| Definitions::unknown(), |definition| definition.digest);
            Ok::<_, String>(ListedTool { name, digest, raw })
        });
        let mut tools = tools.collect::<Result<Vec<ListedTool<'a>>, _>>()?;
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for tool in &tools {
            *counts.entry(tool.name.clone()).or_default() += 1;
        }
        // Which of the tools of a name a call would reach is not known.
        for tool in tools.iter_mut().filter(|tool| counts.get(&tool.name).is_some_and(|count| *count > 1)) {
            tool.digest = Definitions::unknown();
        }
        Ok(Self(tools))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_is_its_clients_only() {
        let response = |scope: &str| format!(r#"{{"id":1, "result":{{"tools":[]{scope}}}}}"#);
        let private = response(r#","cacheScope":"private""#);
        assert_eq!(with_private_scope(&response(r#","cacheScope":"public""#)), Some(private.clone()));
        assert_eq!((with_private_scope(&private), with_private_scope(&response(""))), (None, None));
    }

    #[test]
    fn tools_have_names_and_digests_of_their_definitions() {
        let list = r#"[{"name":"read", "title":"R"},{"name":"n","inputSchema":{"maximum":1e400}},{"name":"two"},{"name":"\u0074wo"}]"#;
        let tools = Tools::read(list).unwrap().0;
        let digests: Vec<_> = tools.iter().map(|tool| (tool.name.as_str(), tool.digest)).collect();
        let unknown = Definitions::unknown();
        let read = Digest::of(br#"{"name":"read","title":"R"}"#);
        assert_eq!(digests, [("read", read), ("n", unknown), ("two", unknown), ("two", unknown)]);
        let long = format!(r#"[{{"name":"{}"}}]"#, "x".repeat(MAX_ID_BYTES + 1));
        for list in ["{}", "[7]", r#"[{"title":"x"}]"#, r#"[{"name":7}]"#, &long] {
            assert!(Tools::read(list).is_err(), "{list}");
        }
    }
}
