//! Streamable HTTP of MCP, of both eras: one message a POST.

use std::sync::Arc;

use agentgov_schemas::bounds::MAX_ID_BYTES;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::mpsc::Receiver;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use uuid::Uuid;

use super::Gateway;
use super::callers::Caller;
use super::config::{ServerEntry, SessionRule};
use super::connection::{Connection, ConnectionError};
use super::reply::{HEADER_MISMATCH, HttpError};
use crate::call::RequestMeta;
use crate::envelope::{Envelope, INVALID_REQUEST, Malformed, RequestId};
use crate::json::Members;
use crate::methods::Sender;
use crate::session::{Identity, shorten_reason};
use crate::sessions::SessionError;

/// Session of the versions with `initialize`.
const MCP_SESSION: &str = "mcp-session-id";
/// Session of a request without one of MCP, in a header of our own.
const OWN_SESSION: &str = "agentgov-session";
/// Method of the message, in versions without `initialize`.
const MCP_METHOD: &str = "mcp-method";
/// Version of the protocol.
const MCP_VERSION: &str = "mcp-protocol-version";
/// Name of the tool or prompt, or URI of the resource, in versions without `initialize`.
const MCP_NAME: &str = "mcp-name";

type Reply = Result<Response, HttpError>;

/// Message of a client, as far as its transport needs it.
struct Incoming {
    id: Option<RequestId>,
    method: Option<String>,
    progress_token: Option<String>,
    is_modern: bool,
    /// Version that `MCP-Protocol-Version` must have.
    version: Option<String>,
    /// `session.id` of the message's baggage.
    session: Option<String>,
    /// Value that `Mcp-Name` must have.
    name: Option<String>,
}

impl Incoming {
    fn read(frame: &[u8]) -> Result<Self, Malformed> {
        let none = Self {
            id: None,
            method: None,
            progress_token: None,
            is_modern: false,
            version: None,
            session: None,
            name: None,
        };
        Ok(match Envelope::read(frame)? {
            Envelope::Request { id, method, params } => {
                let meta = RequestMeta::read(&params);
                Self {
                    id: Some(id),
                    progress_token: meta.progress_token.map(str::to_owned),
                    is_modern: meta.is_modern,
                    version: meta.version.map(std::borrow::Cow::into_owned),
                    session: baggage_session(&params),
                    name: params
                        .text(if method.starts_with("resources/") { "uri" } else { "name" })
                        .map(std::borrow::Cow::into_owned),
                    method: Some(method.into_owned()),
                }
            }
            Envelope::Notification { method, params } => Self {
                is_modern: RequestMeta::read(&params).is_modern,
                session: baggage_session(&params),
                method: Some(method.into_owned()),
                ..none
            },
            Envelope::Response { .. } => none,
        })
    }
}

/// Returns `session.id` of the W3C baggage in `_meta`.
fn baggage_session(params: &Members<'_>) -> Option<String> {
    let baggage = params.object("_meta")?.text("baggage")?.into_owned();
    let entry = baggage.split(',').find_map(|entry| entry.trim().strip_prefix("session.id="))?;
    entry.split(';').next().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

pub(super) async fn post(
    State(gateway): State<Arc<Gateway>>,
    Path(server): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Reply {
    let caller = gateway.caller(&headers)?;
    check_origin(&headers)?;
    let Some(entry) = gateway.servers.get(&server).cloned() else { return Err(no_server()) };
    // A line feed ends a message on the server's stream. In JSON it stands between tokens only.
    let frame: Vec<u8> =
        body.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }).collect();
    let answered =
        tokio::task::spawn_blocking(move || accept(&gateway, &server, &entry, &caller, &headers, frame));
    let accepted = answered.await.map_err(|_| {
        HttpError::text(StatusCode::INTERNAL_SERVER_ERROR, "a bug in agentgov: the request panicked")
    })??;
    let session = accepted.session;
    let mut response = match accepted.messages {
        None => StatusCode::ACCEPTED.into_response(),
        Some((id, messages)) => respond(&id, messages).await,
    };
    if let Some(session) = session.and_then(|session| HeaderValue::from_str(&session).ok()) {
        response.headers_mut().insert(MCP_SESSION, session);
    }
    Ok(response)
}

/// A message that its proxy has.
struct Accepted {
    /// Session that the response must name.
    session: Option<String>,
    /// Messages until the response to a request.
    messages: Option<(RequestId, Receiver<Vec<u8>>)>,
}

fn accept(
    gateway: &Gateway,
    server: &str,
    entry: &ServerEntry,
    caller: &Caller,
    headers: &HeaderMap,
    frame: Vec<u8>,
) -> Result<Accepted, HttpError> {
    let incoming = match Incoming::read(&frame) {
        Ok(incoming) => incoming,
        Err(malformed) => {
            refuse(gateway, server, caller, headers, &malformed.message, &frame);
            return Err(HttpError::rpc(malformed.id.as_ref(), malformed.code, &malformed.message));
        }
    };
    let id = incoming.id.as_ref();
    if let Err(message) = check_headers(headers, &incoming) {
        refuse(gateway, server, caller, headers, &message, &frame);
        return Err(HttpError::rpc(id, HEADER_MISMATCH, &message));
    }
    let (connection, session) = connect(gateway, server, entry, caller, headers, &incoming)?;
    let Some(id) = incoming.id else {
        connection.proxy.on_client_frame(frame);
        return Ok(Accepted { session, messages: None });
    };
    let Some(messages) = connection.mailbox.open_post(&id, incoming.progress_token.as_deref()) else {
        let message = "expected a new id and a running server, found the id of an open request, or a server that has ended";
        return Err(HttpError::rpc(Some(&id), INVALID_REQUEST, message));
    };
    connection.proxy.on_client_frame(frame);
    Ok(Accepted { session, messages: Some((id, messages)) })
}

/// Returns the connection of a message, and the session that the response must name.
fn connect(
    gateway: &Gateway,
    server: &str,
    entry: &ServerEntry,
    caller: &Caller,
    headers: &HeaderMap,
    incoming: &Incoming,
) -> Result<(Arc<Connection>, Option<String>), HttpError> {
    let started = |session: String, named: Option<String>| {
        let identity = identity(caller, session);
        let (connection, is_new) =
            gateway.connections.get_or_start(server, entry, &identity).map_err(connection_error)?;
        if is_new
            && let Err(error) = connection.session.record_plain(agentgov_schemas::catalogue::SESSION_STARTED)
        {
            return Err(HttpError::text(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()));
        }
        Ok((connection, named))
    };
    if let Some(session) = text(headers, MCP_SESSION)? {
        let identity = identity(caller, session);
        let connection = gateway.connections.get(server, &identity);
        return match connection {
            Some(connection) => Ok((connection, None)),
            None => Err(HttpError::text(
                StatusCode::NOT_FOUND,
                "expected an open session of this agent, found none",
            )),
        };
    }
    let named = text(headers, OWN_SESSION)?.or_else(|| incoming.session.clone());
    if named.as_ref().is_some_and(|session| session.len() > MAX_ID_BYTES) {
        let message =
            format!("expected the id of a session of at most {MAX_ID_BYTES} bytes, found a longer one");
        return Err(HttpError::rpc(incoming.id.as_ref(), INVALID_REQUEST, &message));
    }
    if incoming.method.as_deref() == Some("initialize") {
        // The client sends the id with each later request.
        let session = named.unwrap_or_else(|| Uuid::now_v7().to_string());
        return started(session.clone(), Some(session));
    }
    match named {
        Some(session) => started(session, None),
        None if entry.session == SessionRule::Agent => started(format!("agent/{}", caller.agent), None),
        None => Err(HttpError::rpc(
            incoming.id.as_ref(),
            INVALID_REQUEST,
            "expected a session: `Mcp-Session-Id`, `Agentgov-Session`, or `session.id` in the baggage of `_meta`",
        )),
    }
}

fn identity(caller: &Caller, session_id: String) -> Identity {
    Identity {
        tenant_id: caller.tenant.clone(),
        environment: caller.environment.clone(),
        agent_id: caller.agent.clone(),
        session_id,
    }
}

fn connection_error(error: ConnectionError) -> HttpError {
    let status = match error {
        ConnectionError::Session(SessionError::OtherAgent) => StatusCode::FORBIDDEN,
        ConnectionError::Session(_) | ConnectionError::Full => StatusCode::SERVICE_UNAVAILABLE,
        ConnectionError::Start(_) => StatusCode::BAD_GATEWAY,
    };
    HttpError::text(status, &error.to_string())
}

/// Records a message that is refused, if its session is known.
fn refuse(gateway: &Gateway, server: &str, caller: &Caller, headers: &HeaderMap, reason: &str, frame: &[u8]) {
    let session = text(headers, MCP_SESSION).ok().flatten().or(text(headers, OWN_SESSION).ok().flatten());
    let connection = session.and_then(|session| gateway.connections.get(server, &identity(caller, session)));
    match connection {
        Some(connection) => connection.proxy.refuse(Sender::Client, reason, frame),
        None => {
            let reason = shorten_reason(reason);
            tracing::warn!(caller = caller.name, reason, "gateway: a message without a session is refused")
        }
    }
}

/// Returns the first message as JSON if it is the response, else all messages as events up to the response.
async fn respond(id: &RequestId, mut messages: Receiver<Vec<u8>>) -> Response {
    let Some(first) = messages.recv().await else {
        return HttpError::rpc(Some(id), crate::envelope::INTERNAL_ERROR, "the server has ended")
            .into_response();
    };
    if matches!(Envelope::read(&first), Ok(Envelope::Response { .. })) {
        return ([(header::CONTENT_TYPE, "application/json")], first).into_response();
    }
    events(tokio_stream::once(first).chain(ReceiverStream::new(messages)))
}

fn events(messages: impl tokio_stream::Stream<Item = Vec<u8>> + Send + 'static) -> Response {
    let events = messages.map(|message| {
        Ok::<_, std::convert::Infallible>([b"event: message\ndata: ", message.as_slice(), b"\n\n"].concat())
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    (headers, Body::from_stream(events)).into_response()
}

pub(super) async fn get(
    State(gateway): State<Arc<Gateway>>,
    Path(server): Path<String>,
    headers: HeaderMap,
) -> Reply {
    let connection = open_connection(&gateway, &server, &headers)?;
    Ok(events(ReceiverStream::new(connection.mailbox.open_stream())))
}

pub(super) async fn delete(
    State(gateway): State<Arc<Gateway>>,
    Path(server): Path<String>,
    headers: HeaderMap,
) -> Reply {
    let connection = open_connection(&gateway, &server, &headers)?;
    let ended = tokio::task::spawn_blocking(move || {
        gateway.connections.close(&server, connection.session.identity());
        connection.session.record_plain(agentgov_schemas::catalogue::SESSION_ENDED)
    });
    match ended.await {
        Ok(Ok(())) => Ok(StatusCode::OK.into_response()),
        Ok(Err(error)) => Err(HttpError::text(StatusCode::SERVICE_UNAVAILABLE, &error.to_string())),
        Err(_) => {
            Err(HttpError::text(StatusCode::INTERNAL_SERVER_ERROR, "a bug in agentgov: the request panicked"))
        }
    }
}

/// Returns the connection of the session that `Mcp-Session-Id` names.
fn open_connection(
    gateway: &Gateway,
    server: &str,
    headers: &HeaderMap,
) -> Result<Arc<Connection>, HttpError> {
    let caller = gateway.caller(headers)?;
    check_origin(headers)?;
    let Some(session) = text(headers, MCP_SESSION)? else {
        return Err(HttpError::text(StatusCode::METHOD_NOT_ALLOWED, "expected `Mcp-Session-Id`, found none"));
    };
    let connection = gateway.connections.get(server, &identity(&caller, session));
    connection.ok_or_else(|| {
        HttpError::text(StatusCode::NOT_FOUND, "expected an open session of this agent, found none")
    })
}

fn no_server() -> HttpError {
    HttpError::text(StatusCode::NOT_FOUND, "expected the path of a server of the gateway, found another one")
}

/// Refuses a page of another site: a browser names its origin, and may reach this machine.
fn check_origin(headers: &HeaderMap) -> Result<(), HttpError> {
    let Some(origin) = text(headers, "origin")? else { return Ok(()) };
    let host = text(headers, "host")?.unwrap_or_default();
    if origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://")) == Some(host.as_str()) {
        return Ok(());
    }
    Err(HttpError::text(
        StatusCode::FORBIDDEN,
        "expected no `Origin` or that of this server, found another one",
    ))
}

/// Checks the headers that repeat parts of the body. A proxy in front may have read them instead of the body.
fn check_headers(headers: &HeaderMap, incoming: &Incoming) -> Result<(), String> {
    let header =
        |name: &str| text(headers, name).map_err(|_| format!("`{name}`: expected one readable value"));
    let (method, name) = (header(MCP_METHOD)?, header(MCP_NAME)?);
    let is_required = incoming.is_modern;
    if let (Some(found), Some(expected)) = (header(MCP_VERSION)?, &incoming.version)
        && found != *expected
    {
        return Err("`MCP-Protocol-Version`: expected the version of the body, found another one".to_owned());
    }
    match (&method, &incoming.method) {
        (Some(method), Some(expected)) if method == expected => {}
        (None, _) if !is_required => {}
        _ => {
            return Err("`Mcp-Method`: expected the method of the body, found another one or none".to_owned());
        }
    }
    let is_named =
        matches!(incoming.method.as_deref(), Some("tools/call" | "prompts/get" | "resources/read"));
    match (name.as_deref().map(decoded), &incoming.name) {
        (Some(Some(name)), Some(expected)) if name == *expected => Ok(()),
        (None, _) if !(is_required && is_named) => Ok(()),
        _ => Err("`Mcp-Name`: expected the name or URI of the body, found another one or none".to_owned()),
    }
}

/// Returns the value of a header that may be encoded as `=?base64?…?=`.
fn decoded(value: &str) -> Option<String> {
    let Some(encoded) = value.strip_prefix("=?base64?").and_then(|value| value.strip_suffix("?=")) else {
        return Some(value.to_owned());
    };
    String::from_utf8(STANDARD.decode(encoded).ok()?).ok()
}

/// Returns the text of a header.
fn text(headers: &HeaderMap, name: &str) -> Result<Option<String>, HttpError> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => match value.to_str() {
            Ok(value) if !value.is_empty() => Ok(Some(value.to_owned())),
            _ => {
                Err(HttpError::bad_request(&format!("`{name}`: expected visible ASCII, found another value")))
            }
        },
        _ => Err(HttpError::bad_request(&format!("`{name}`: expected one value, found several"))),
    }
}
